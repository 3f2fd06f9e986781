"""How a command of training ends: one sentence for what went wrong, and the exit code."""

import sys
from collections.abc import Callable
from pathlib import Path

from evoxtral.errors import EvoxtralError


def exit_code(command: Callable[[], int | None], folder: Path | str = "A file") -> int:
    """Run a command: its own code or 0; 2 with a sentence on stderr for an error of the user's; 130 if interrupted.

    folder: named where an error of the system names no file.
    """
    try:
        return command() or 0
    except EvoxtralError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{error.filename or folder} cannot be used: {error.strerror or error}.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted: the same command goes on from here.", file=sys.stderr)
        return 130

"""How a command of training ends: one sentence for what went wrong, the exit code, and a table in a page."""

import sys
from collections.abc import Callable
from pathlib import Path

from evoxtral.errors import EvoxtralError, RecipeError


def write_block(page: Path, start: str, end: str, block: str) -> None:
    """Put text between two marks of a page. Raises RecipeError for a page without them."""
    before, mark, rest = page.read_text(encoding="utf-8").partition(start)
    if not mark or end not in rest:
        raise RecipeError(f"{page} has no {start.strip()} with {end} behind it: there is no place for the table.")
    page.write_text(before + start + block + end + rest.partition(end)[2], encoding="utf-8")


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

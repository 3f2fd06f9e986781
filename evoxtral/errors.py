"""Errors a person can act on: each message is one sentence that says what was wrong and what to do."""

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Exceptions of readers for a file that is missing, damaged, or has unexpected content.
_UNREADABLE = (
    OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError, RecursionError,
)  # fmt: skip


class EvoxtralError(Exception):
    """Base of every error that is meant to be shown to the person who caused it."""


class AudioError(EvoxtralError):
    """A recording that cannot be read, is empty, corrupt or too long."""


class CheckpointError(EvoxtralError):
    """Weights that cannot be found, do not fit the model, or are incomplete."""


class DeviceFullError(EvoxtralError):
    """The device has too little free memory for the request; a later one may succeed."""


class SpeechError(EvoxtralError):
    """Text that cannot be spoken, or a voice that does not exist."""


class RecipeError(EvoxtralError):
    """A training recipe, stage or run folder that cannot be used as asked."""


def reason(error: Exception) -> str:
    """What an error of a library says, short and on one line, without a full stop."""
    return textwrap.shorten(f"{type(error).__name__}: {error}", 200, placeholder=" …").rstrip(".")


@contextmanager
def reading(file: str | Path, *also: type[Exception]) -> Iterator[None]:
    """Context in which errors on reading a model's file become a CheckpointError that names it.

    also: further exceptions of the reader.
    """
    try:
        yield
    except (*_UNREADABLE, *also) as error:
        raise CheckpointError(f"{file} cannot be used ({reason(error)}): repair it, or download it again.") from error

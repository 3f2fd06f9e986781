"""Errors a person can act on: each message is one sentence that says what was wrong and what to do."""

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# What readers raise when a file is not there, damaged, or holds something else than it should.
_UNREADABLE = (
    OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError, RecursionError,
)  # fmt: skip


class EvoxtralError(Exception):
    """Base of every error that is meant to be shown to the person who caused it."""


class AudioError(EvoxtralError):
    """A recording that cannot be read, is empty, corrupt or too long."""


class CheckpointError(EvoxtralError):
    """Weights that cannot be found, do not fit the model, or did not all land."""


class DeviceFullError(EvoxtralError):
    """The device has no memory left for what was asked; later it may."""


class SpeechError(EvoxtralError):
    """Text that cannot be spoken, or a voice that does not exist."""


class RecipeError(EvoxtralError):
    """A training recipe, stage or run folder that cannot be used as asked."""


@contextmanager
def reading(file: str | Path, *also: type[Exception]) -> Iterator[None]:
    """While a file of a model is read: what is wrong with it becomes a CheckpointError that names it.

    also: the reader's own errors.
    """
    try:
        yield
    except (*_UNREADABLE, *also) as error:
        reason = textwrap.shorten(f"{type(error).__name__}: {error}", 200, placeholder=" …").rstrip(".")
        raise CheckpointError(f"{file} cannot be used ({reason}): repair it, or download it again.") from error

"""Errors a person can act on: each message is one sentence that says what was wrong and what to do."""


class EvoxtralError(Exception):
    """Base of every error that is meant to be shown to the person who caused it."""


class AudioError(EvoxtralError):
    """A recording that cannot be read, is empty, corrupt or too long."""


class CheckpointError(EvoxtralError):
    """Weights that cannot be found, do not fit the model, or did not all land."""


class SpeechError(EvoxtralError):
    """Text that cannot be spoken, or a voice that does not exist."""


class RecipeError(EvoxtralError):
    """A training recipe, stage or run folder that cannot be used as asked."""

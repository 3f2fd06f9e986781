"""Tagged text to speech, with the true time of every word and tag."""

from evoxtral.speech.synthesis import (
    DEFAULT_VOICE,
    FEMALE,
    FURTHER_FEMALE,
    FURTHER_MALE,
    LANGUAGES,
    MALE,
    SPOKEN_TAGS,
    VOICES,
    Speech,
    Timed,
    perform,
    speak,
    spoken_as,
)

__all__ = [
    "DEFAULT_VOICE", "FEMALE", "FURTHER_FEMALE", "FURTHER_MALE", "LANGUAGES", "MALE", "SPOKEN_TAGS", "VOICES", "Speech",
    "Timed", "perform", "speak", "spoken_as",
]  # fmt: skip

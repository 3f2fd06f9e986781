"""The result for one transcribed file, the same from the command line and the API."""

from collections.abc import Mapping
from dataclasses import dataclass

from evoxtral.transcript import Transcript, VariantResult


@dataclass(frozen=True)
class FileResult:
    """`duration` in seconds of audio; `variants` by name, base before its adapters."""

    file: str
    duration: float
    model: str
    variants: dict[str, VariantResult]
    incomplete: str | None = None
    """what is missing of the recording, as `ends after 12.4 of 30.0 s`; null where nothing is"""
    notes: tuple[str, ...] = ()
    """which tracks and channels were left out, and why"""
    track: str | None = None
    """number, name and language of the track, where each was asked for"""
    channel: str | None = None
    """names of the channels, where they were asked for"""

    @classmethod
    def of(cls, file: str, model: str, transcripts: Mapping[str, Transcript]) -> "FileResult":
        variants = {name: VariantResult.of(transcript) for name, transcript in transcripts.items()}
        first = next(iter(transcripts.values()))
        return cls(file, first.duration, model, variants, first.incomplete, first.notes, first.track, first.channel)

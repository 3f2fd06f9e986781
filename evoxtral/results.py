"""What is given back for one transcribed file, the same from the command line and the API."""

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

    @classmethod
    def of(cls, file: str, model: str, transcripts: Mapping[str, Transcript]) -> "FileResult":
        variants = {name: VariantResult.of(transcript) for name, transcript in transcripts.items()}
        duration = next(iter(transcripts.values())).duration
        return cls(file, duration, model, variants)

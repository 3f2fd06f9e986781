"""Recordings: any file to a waveform (T,) float32 mono at 16 kHz, and to segments that fit a model's window."""

from evoxtral.audio.reading import MAX_MEGABYTES, MAX_SECONDS, SAMPLE_RATE, Source, duration, load, save, wav_bytes
from evoxtral.audio.segmentation import Segment, is_silent, segments

__all__ = [
    "MAX_MEGABYTES", "MAX_SECONDS", "SAMPLE_RATE", "Segment", "Source", "duration", "is_silent", "load", "save",
    "segments", "wav_bytes",
]  # fmt: skip

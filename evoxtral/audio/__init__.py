"""Recordings: any file to a waveform (T,) float32 mono at 16 kHz, and to segments that fit a model's window."""

from evoxtral.audio.containers import FORMATS, SUFFIXES
from evoxtral.audio.levels import levelled, loudness
from evoxtral.audio.listing import TrackInfo, chosen, listing
from evoxtral.audio.reading import (
    MAX_MEGABYTES,
    MAX_SECONDS,
    Choice,
    Recording,
    Source,
    duration,
    load,
    read,
    recordings,
    save,
    wav_bytes,
)
from evoxtral.audio.segmentation import (
    FRAMES_PER_SECOND,
    MAX_PAUSE,
    Segment,
    frame_levels,
    is_silent,
    segments,
)
from evoxtral.audio.tracks import SAMPLE_RATE

__all__ = [
    "FORMATS", "FRAMES_PER_SECOND", "MAX_MEGABYTES", "MAX_PAUSE", "MAX_SECONDS", "SAMPLE_RATE", "SUFFIXES", "Choice",
    "Recording", "Segment", "Source", "TrackInfo", "chosen", "duration", "frame_levels", "is_silent",
    "levelled", "listing", "load", "loudness", "read", "recordings", "save", "segments", "wav_bytes",
]  # fmt: skip

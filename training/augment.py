"""A microphone for training clips, a chain of what `evoxtral.speech.acoustics` has, and masks for their log-mels, drawn
anew for each clip.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evoxtral.speech.acoustics import Rng, coded, limited, mixed, narrowband_vocoder, noise, reverberant, room
from evoxtral.speech.effects import peak

MASK_EVERY = 60  # frames of a log-mel for one mask in time
MASK_FRAMES, MASK_BANDS = 8, 20  # the longest mask in time, and the widest of the two in frequency
NARROW = 0.15  # share of coded clips that go through `narrowband_vocoder` instead


@dataclass(frozen=True)
class Chain:
    """Shares of clips that each step is drawn for, and ranges: rt60 in s, snr in dB."""

    room: float = 0.5
    rt60: tuple[float, float] = (0.1, 0.8)
    noise: float = 0.6
    snr: tuple[float, float] = (0.0, 30.0)
    band: float = 0.4
    codec: float = 0.35
    clipping: float = 0.08


def microphone(waveform: np.ndarray, rng: Rng, others: Sequence[np.ndarray] = (), chain: Chain = Chain()) -> np.ndarray:  # noqa: B008
    """A clip as a microphone might give it, (T,) float32 -> (T,) float32, in step with the original.

    others: clips of other speakers, for babble.
    """
    waveform = np.asarray(waveform, np.float64)
    if rng.random() < chain.room:
        waveform = reverberant(waveform, room(rng, rng.uniform(*chain.rt60), 10 ** rng.uniform(-0.7, 0.6)))
    if rng.random() < chain.noise:
        waveform = mixed(waveform, noise(rng, len(waveform), others), rng.uniform(*chain.snr))
    if rng.random() < chain.band:
        waveform = limited(waveform, rng)
    waveform = peak(waveform, 10 ** rng.uniform(-1.3, -0.02))
    if rng.random() < chain.clipping:
        limit = np.abs(waveform).max() * rng.uniform(0.25, 0.8)
        waveform = np.clip(waveform, -limit, limit)
    if rng.random() < chain.codec:
        coder = narrowband_vocoder if rng.random() < NARROW else coded
        waveform = coder(waveform, rng)
    return np.clip(waveform, -1, 1).astype(np.float32)


def masked(mel: np.ndarray, rng: Rng) -> np.ndarray:
    """SpecAugment (Park et al. 2019) of a log-mel (F, B): a copy with two stretches of bands, and one of frames in each
    MASK_EVERY of them, at the clip's mean. What was heard often cannot be known by one place of it.
    """
    out = mel.copy()
    frames, bands = mel.shape
    mean = mel.mean(dtype=np.float32)
    for _ in range(2):
        width = int(rng.integers(0, min(MASK_BANDS, bands) + 1))
        first = int(rng.integers(0, bands - width + 1))
        out[:, first : first + width] = mean
    for _ in range(frames // MASK_EVERY):
        length = int(rng.integers(0, MASK_FRAMES + 1))
        first = int(rng.integers(0, frames - length + 1))
        out[first : first + length] = mean
    return out

"""A microphone for training clips: a chain of what `evoxtral.speech.acoustics` has, drawn anew for each clip."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evoxtral.speech.acoustics import Rng, coded, limited, mixed, narrowband_vocoder, noise, reverberant, room
from evoxtral.speech.effects import peak

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

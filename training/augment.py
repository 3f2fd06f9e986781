"""What makes training clips harder, drawn anew for each: rooms and noise, a microphone (a chain of what
`evoxtral.speech.acoustics` has), and for their log-mels another throat and pace, and masks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.signal import lfilter, oaconvolve

from evoxtral.audio import SAMPLE_RATE
from evoxtral.speech.acoustics import Rng, coded, limited, mixed, narrowband_vocoder, noise, reverberant, room
from evoxtral.speech.effects import lowpass, peak, silence
from evoxtral.speech.synthesis import AUDIBLE, PAUSES

LONG_PAUSE = (1.3, 3.0)  # s, of `longer_pauses`
SPREAD = 0.06  # of `vary`
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


def roomy(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A room, a microphone's tone, a level and a noise floor, each some of the time. (T,) float32 -> (T,) float32."""
    if rng.random() < 0.25:
        n = int(0.12 * SAMPLE_RATE)
        decay = np.exp(-np.arange(n) / (rng.uniform(0.01, 0.035) * SAMPLE_RATE))
        response = rng.standard_normal(n) * decay * rng.uniform(0.02, 0.07)
        response[0] = 1
        waveform = oaconvolve(waveform, response)[: len(waveform)]
    if rng.random() < 0.25:
        waveform = lfilter([1, -rng.uniform(-0.5, 0.6)], [1], waveform)
    waveform = peak(waveform, rng.uniform(0.3, 0.95))
    if rng.random() < 0.4:
        hiss = rng.standard_normal(len(waveform))
        if rng.random() < 0.5:
            hiss = lowpass(3 * hiss, 1000)
        waveform = waveform + 10 ** rng.uniform(-4.2, -2.3) * hiss
    return np.clip(waveform, -1, 1).astype(np.float32)


def longer_pauses(waveform: np.ndarray, seed: int) -> np.ndarray:
    """Half of the [pause]s of a waveform (T,) that nothing was added to, made as long as LONG_PAUSE says."""
    rng = np.random.default_rng(seed)
    edges = np.flatnonzero(np.diff(np.abs(waveform) > AUDIBLE, prepend=False, append=False))  # of what sounds
    parts, done = [], 0
    for end, start in zip(edges[1:-1:2].tolist(), edges[2::2].tolist(), strict=True):
        if (start - end) / SAMPLE_RATE >= PAUSES["pause"][0] and rng.random() < 0.5:
            more = int(rng.uniform(*LONG_PAUSE) * SAMPLE_RATE) - (start - end)
            middle = (start + end) // 2
            parts += waveform[done:middle], silence(max(0, more) / SAMPLE_RATE)
            done = middle
    return np.concatenate([*parts, waveform[done:]]).astype(np.float32)


def vary(
    mel: np.ndarray, rng: np.random.Generator, window: int, spread: float = SPREAD
) -> tuple[np.ndarray, np.ndarray]:
    """Another speaker's throat and pace, for free: (F, 128) log-mel -> (F', 128), F' <= window, and which frame each
    was (F',).

    Vocal tract length perturbation (Jaitly & Hinton 2013) on the mel axis, and faster or slower, by up to `spread`.
    """
    pace = max(rng.uniform(1 - spread, 1 + spread), len(mel) / window)
    frames = np.minimum(np.arange(0, len(mel), pace).astype(int), len(mel) - 1)
    tract = rng.uniform(1 - spread, 1 + spread)
    bands = np.minimum((np.arange(mel.shape[1]) * tract).round().astype(int), mel.shape[1] - 1)
    return mel[frames[:, None], bands], frames


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

"""The sounds and colours of the embedded voice, made from noise, pulses and filters.

A *sound* is a function `(rng, female) -> waveform` that makes a non-verbal event from
nothing. A *delivery* says how espeak-ng speaks a stretch of text (prosody, voice) and what is done to the waveform
after it. Both are built to differ in what a listener hears first: rhythm, pitch movement, roughness, breath. All
waveforms are float32 at 16 kHz; the constants were tuned on spectrograms and on what a small recogniser can tell apart.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from evoxtral.audio import SAMPLE_RATE
from evoxtral.speech.espeak import Prosody

NYQUIST = SAMPLE_RATE / 2  # Hz
Rng = np.random.Generator
LOUD, NORMAL, SOFT = 0.9, 0.6, 0.35  # peak amplitude, full scale = 1


# --- building blocks ------------------------------------------------------------------------------------------------


@cache
def _filter(kind: str, order: int, *edges: float) -> np.ndarray:
    from scipy.signal import butter  # here: it takes most of a second to import, and the page needs none of it

    cutoffs = [min(edge / NYQUIST, 0.99) for edge in edges]
    return butter(order, cutoffs if len(cutoffs) > 1 else cutoffs[0], kind, output="sos")


def _filtered(waveform: np.ndarray, sos: np.ndarray) -> np.ndarray:
    from scipy.signal import sosfilt

    return sosfilt(sos, waveform)


def bandpass(waveform: np.ndarray, low: float, high: float, order: int = 1) -> np.ndarray:
    return _filtered(
        waveform, _filter("band", order, round(low, -1), round(high, -1))
    )  # rounded: few filters, all cached


def lowpass(waveform: np.ndarray, edge: float, order: int = 1) -> np.ndarray:
    return _filtered(waveform, _filter("low", order, round(edge, -1)))


def highpass(waveform: np.ndarray, edge: float, order: int = 1) -> np.ndarray:
    return _filtered(waveform, _filter("high", order, round(edge, -1)))


def peak(waveform: np.ndarray, level: float) -> np.ndarray:
    """Scale to the given peak amplitude."""
    return waveform * (level / max(float(np.abs(waveform).max(initial=0.0)), 1e-6))


def silence(seconds: float) -> np.ndarray:
    return np.zeros(max(0, int(seconds * SAMPLE_RATE)), np.float32)


def smoothed(values: np.ndarray, width: int) -> np.ndarray:
    """A moving average of `width` values; the ends keep theirs."""
    padded = np.pad(values, width // 2, mode="edge")
    return np.convolve(padded, np.full(width, 1 / width), "valid")[: len(values)]


def _samples(seconds: float) -> int:
    return int(seconds * SAMPLE_RATE)


def envelope(count: int, attack: float, decay: float) -> np.ndarray:
    """Rise over the first `attack` share, fall over the last `decay` share."""
    rise, fall = max(1, int(attack * count)), max(1, int(decay * count))
    shape = np.ones(count)
    shape[:rise] = np.sin(np.linspace(0, np.pi / 2, rise))
    shape[-fall:] *= np.cos(np.linspace(0, np.pi / 2, fall))
    return shape


def voiced(f0: np.ndarray, formants: tuple[tuple[float, float], ...]) -> np.ndarray:
    """A sawtooth at f0 Hz (per sample) through formant resonances (Hz, gain): a throat without words."""
    source = lowpass(2 * ((np.cumsum(f0) / SAMPLE_RATE) % 1) - 1, 2500)
    return sum(gain * bandpass(source, f * 0.85, f * 1.15) for f, gain in formants)


def swept_noise(rng: Rng, count: int, start: float, end: float) -> np.ndarray:
    """Breath noise whose centre moves from `start` to `end` Hz: bands cross-faded in time."""
    bands = 6
    noise, out = rng.standard_normal(count), np.zeros(count)
    place = np.linspace(0, bands - 1, count)
    for k, centre in enumerate(np.linspace(start, end, bands)):
        out += np.clip(1 - np.abs(place - k), 0, 1) * bandpass(noise, max(80, centre * 0.5), min(7800, centre * 1.5))
    return out


def warp(waveform: np.ndarray, speed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Play `waveform` at a speed that changes per output sample (pitch moves with it).

    Gives the new waveform and, per output sample, the position it was read from: word times move along that.
    """
    positions = np.cumsum(speed)
    positions = positions[positions < len(waveform) - 1]
    return np.interp(positions, np.arange(len(waveform)), waveform), positions


# --- non-verbal sounds ----------------------------------------------------------------------------------------------


def laughs(rng: Rng, female: bool) -> np.ndarray:
    """Three to six voiced bursts of about 0.11 s, falling in pitch and level, breath between."""
    pitch = (260 if female else 160) * rng.uniform(0.85, 1.3)  # Hz
    tempo = rng.uniform(0.85, 1.15)
    vowel = (((750, 1.0), (1250, 0.7), (2600, 0.3)), ((500, 1.0), (1800, 0.6), (2500, 0.3)))[rng.integers(2)]
    parts = []
    for i in range(rng.integers(3, 7)):
        n, gap = _samples(0.11 / tempo), _samples(0.07 / tempo)
        shape = envelope(n, 0.2, 0.5)
        burst = peak(voiced(pitch * np.linspace(1.12, 0.9, n) * (1 - 0.05 * i), vowel) * shape, 1)
        burst += 0.05 * rng.standard_normal(n) * shape
        breath = 0.12 * bandpass(rng.standard_normal(gap), 600, 4500) * envelope(gap, 0.4, 0.4)
        parts += [breath, burst * (1 - 0.08 * i)]
    return peak(np.concatenate(parts), rng.uniform(0.3, 0.6))


def sighs(rng: Rng, female: bool) -> np.ndarray:
    """One long breath falling from about 2 kHz to 500 Hz, half of the time half-voiced."""
    n = _samples(rng.uniform(0.6, 0.95))
    waveform = peak(swept_noise(rng, n, rng.uniform(1500, 2200), rng.uniform(400, 700)) * envelope(n, 0.15, 0.75), 1)
    if rng.random() < 0.5:
        moan = voiced((220 if female else 130) * np.linspace(1.15, 0.75, n), ((500, 1.0), (1000, 0.5)))
        waveform += 0.5 * peak(moan * envelope(n, 0.1, 0.8), 1)
    return peak(waveform, rng.uniform(0.15, 0.35))


def gasps(rng: Rng, female: bool) -> np.ndarray:
    """A short breath in, rising in pitch and level, that stops abruptly."""
    n = _samples(rng.uniform(0.25, 0.4))
    waveform = swept_noise(rng, n, rng.uniform(900, 1300), rng.uniform(3000, 4200)) * envelope(n, 0.75, 0.06)
    return np.concatenate([peak(waveform, rng.uniform(0.25, 0.5)), silence(0.06)])


def clears_throat(rng: Rng, female: bool) -> np.ndarray:
    """Two or three rough, low bursts: noise beaten at 70 to 95 Hz."""
    parts = []
    for _ in range(rng.integers(2, 4)):
        n = _samples(rng.uniform(0.14, 0.24))
        pitch = (95 if female else 70) * rng.uniform(0.9, 1.2)
        phase = np.cumsum(pitch * (1 + 0.1 * rng.standard_normal(n))) / SAMPLE_RATE
        beat = np.maximum(0, np.sin(2 * np.pi * phase)) ** 2
        burst = bandpass(rng.standard_normal(n) * (0.2 + beat), 250, 1800)
        burst += 0.7 * voiced(np.full(n, pitch), ((450, 1.0), (1100, 0.6)))
        parts += [peak(burst * envelope(n, 0.1, 0.35), 1), silence(rng.uniform(0.03, 0.08))]
    return peak(np.concatenate(parts), rng.uniform(0.25, 0.45))


def crying(rng: Rng, female: bool) -> np.ndarray:
    """Two or three high sobs with a 10 Hz tremor, each followed by a sharp breath in."""
    parts = []
    for _ in range(rng.integers(2, 4)):
        n = _samples(rng.uniform(0.3, 0.45))
        t = np.arange(n) / SAMPLE_RATE
        pitch = (430 if female else 300) * rng.uniform(0.9, 1.15) * np.linspace(1.1, 0.8, n)
        sob = voiced(pitch * (1 + 0.05 * np.sin(2 * np.pi * 9 * t)), ((450, 1.0), (900, 0.6), (2700, 0.25)))
        sob = peak(sob * envelope(n, 0.2, 0.5) * (1 + 0.6 * np.sin(2 * np.pi * 10 * t)), 1)
        breath = _samples(rng.uniform(0.1, 0.18))
        parts += [sob, 0.18 * swept_noise(rng, breath, 1500, 2800) * envelope(breath, 0.5, 0.2)]
    return peak(np.concatenate(parts), rng.uniform(0.25, 0.5))


SOUNDS: dict[str, Callable[[Rng, bool], np.ndarray]] = {
    "laughs": laughs, "sighs": sighs, "gasps": gasps, "clears throat": clears_throat, "crying": crying,
}  # fmt: skip


Positions = np.ndarray | None  # per output sample, the input sample it came from; None: unchanged
Colour = Callable[[np.ndarray, Rng], tuple[np.ndarray, Positions]]


# --- melodies -------------------------------------------------------------------------------------------------------


def _exclaimed(waveform, rng):
    """Rising all along, by two to three semitones and about 7 dB."""
    waveform, positions = warp(waveform, np.linspace(1, rng.uniform(1.13, 1.18), len(waveform)))
    return waveform * np.linspace(0.45, 1, len(waveform)), positions


def _asked(waveform, rng):
    """Its last quarter of a second slides up, by about four semitones."""
    slide = min(_samples(0.25), len(waveform))
    speed = np.ones(len(waveform))
    speed[len(waveform) - slide :] = np.linspace(1, rng.uniform(1.35, 1.5), slide)
    return warp(waveform, speed)


# How the mark at its end shapes a phrase, on top of espeak-ng's own melody, which a whisper has not and which tells an
# exclamation from a statement by a tenth of an octave.
MELODIES: dict[str, Colour] = {"!": _exclaimed, "?": _asked}


# --- deliveries -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Delivery:
    """How a stretch of speech is coloured: prosody for espeak-ng, then a function on the waveform."""

    rate: float = 1.0  # factor on words per minute
    pitch: float = 0.0  # added, espeak-ng units
    range: float | None = None  # replaces the speaker's, espeak-ng units
    word_gap: int = 0  # 10 ms
    whispered: bool = False
    colour: Colour | None = None

    def prosody(self, speaker: Prosody) -> Prosody:
        return replace(
            speaker,
            rate=speaker.rate * self.rate,
            pitch=speaker.pitch + self.pitch,
            range=speaker.range if self.range is None else self.range,
            word_gap=self.word_gap,
        )


def _time(waveform: np.ndarray) -> np.ndarray:
    return np.arange(len(waveform)) / SAMPLE_RATE  # s


def _neutral(waveform, rng):
    return peak(waveform, NORMAL * rng.uniform(0.9, 1.1)), None


def _whispers(waveform, rng):
    return peak(waveform, rng.uniform(0.15, 0.3)), None


def _shouts(waveform, rng):
    """Driven into clipping, with the highs of a strained voice."""
    driven = np.tanh(6 * peak(waveform, 0.7))
    return peak(driven + 0.5 * highpass(driven, 2000), rng.uniform(0.9, 0.98)), None


def _excited(waveform, rng):
    """Bright, and bouncing: a quick wide swing of pitch at the rate of stressed syllables."""
    n = int(len(waveform) * 1.05)
    speed = 1 + 0.09 * np.sin(2 * np.pi * rng.uniform(2.6, 3.4) * np.arange(n) / SAMPLE_RATE + rng.uniform(0, 6))
    waveform, positions = warp(waveform, speed)
    return peak(waveform + 0.6 * highpass(waveform, 1800), 0.8), positions


def _sad(waveform, rng):
    """Dull, and sinking: the voice slows and drops by a fifth over the sentence, its level with it."""
    waveform, positions = warp(waveform, np.linspace(1.06, 0.8, int(len(waveform) * 1.25)))
    waveform = lowpass(waveform, rng.uniform(1400, 1900), 2) * np.linspace(1, 0.55, len(waveform))
    return peak(waveform, rng.uniform(0.3, 0.45)), positions


def _angry(waveform, rng):
    """Growled: gated near 70 Hz and clipped."""
    waveform = peak(waveform, 0.7)
    gate = 1 + 0.75 * np.sign(np.sin(2 * np.pi * rng.uniform(60, 85) * _time(waveform)))
    return peak(np.tanh(3 * waveform * gate), LOUD), None


def _nervous(waveform, rng):
    """A tremble at 6 to 8 Hz: the voice wavers in pitch and nearly breaks off between beats."""
    rate = rng.uniform(6, 8)
    n = int(len(waveform) * 1.05)
    waveform, positions = warp(waveform, 1 + 0.06 * np.sin(2 * np.pi * rate * np.arange(n) / SAMPLE_RATE))
    return peak(waveform * (1 + 0.9 * np.sin(2 * np.pi * rate * _time(waveform))), NORMAL), positions


def _calm(waveform, rng):
    """Slow and soft, with a breath of air around the voice and no edge to it."""
    level = np.sqrt(np.maximum(lowpass(waveform**2, 12), 0))
    air = bandpass(rng.standard_normal(len(waveform)), 2500, 6500) * level
    return peak(peak(lowpass(waveform, 3800), 1) + 0.25 * peak(air, 1), rng.uniform(0.3, 0.42)), None


def _frustrated(waveform, rng):
    return peak(np.tanh(2.5 * peak(waveform, 0.7)), 0.8), None


NEUTRAL = Delivery(colour=_neutral)
DELIVERIES: dict[str, Delivery] = {
    "whispers": Delivery(rate=0.95, whispered=True, colour=_whispers),
    "shouts": Delivery(rate=0.92, pitch=28, range=70, colour=_shouts),
    "excited": Delivery(rate=1.25, pitch=22, range=100, colour=_excited),
    "sad": Delivery(rate=0.82, pitch=-15, range=15, colour=_sad),
    "angry": Delivery(rate=1.08, pitch=-8, range=70, colour=_angry),
    "nervous": Delivery(rate=1.1, pitch=8, colour=_nervous),
    "calm": Delivery(rate=0.78, pitch=-4, range=20, colour=_calm),
    "frustrated": Delivery(rate=1.1, range=85, word_gap=13, colour=_frustrated),
}

"""Deliveries for voices that have none: a phrase is analysed by WORLD, changed, and resynthesised.

WORLD (Morise et al. 2016, the package pyworld) splits speech into pitch, spectral envelope and aperiodicity, five
milliseconds at a time. Each delivery is a row of ranges in `DELIVERIES`, from which a speaker's own figures are drawn.
The directions are those of the literature on vocal emotion, named with each; the sizes were set by ear and spectrogram.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np

from evoxtral.audio import SAMPLE_RATE
from evoxtral.errors import SpeechError
from evoxtral.speech import effects

PERIOD = 5.0  # ms between two frames
HOW = "pip install 'evoxtral[voices]'"
VOICED = 0.0  # Hz; frames above are voiced
Range = tuple[float, float]


@dataclass(frozen=True)
class Delivery:
    """How a neutral phrase is changed. Each pair is (least, most); (1, 1) or (0, 0) changes nothing.

    pace: factor on speed. pitch: factor on the median pitch. span: factor on its excursions, in octaves. fall:
    semitones lost from first to last word. tilt: dB an octave from 500 Hz on. breath: aperiodicity added. tremor: depth
    of a 5 to 8 Hz waver of pitch and level. rough: depth of a second, lower beat. drive: into soft clipping. gaps: s of
    silence between words. fade: share of the level lost to the end. level: of the peak.
    """

    source: str
    pace: Range = (1, 1)
    pitch: Range = (1, 1)
    span: Range = (1, 1)
    fall: Range = (0, 0)
    tilt: Range = (0, 0)
    breath: Range = (0, 0)
    tremor: Range = (0, 0)
    rough: Range = (0, 0)
    drive: Range = (0, 0)
    gaps: Range = (0, 0)
    fade: Range = (0, 0)
    level: Range = (0.5, 0.65)
    whispered: bool = False


_BANSE = "Banse & Scherer 1996"
_MURRAY = "Murray & Arnott 1993, table I"
NEUTRAL = Delivery("none")
DELIVERIES: dict[str, Delivery] = {
    "whispers": Delivery(
        "no voicing, flatter and weaker spectrum: Ito, Takeda & Itakura 2005",
        pace=(0.88, 1.0), tilt=(1.5, 3), level=(0.12, 0.28), whispered=True,
    ),
    "shouts": Delivery(
        "pitch and first formant up, spectrum flattened by 5 to 10 dB: Rostolland 1982",
        pace=(0.85, 0.95), pitch=(1.35, 1.65), span=(1.0, 1.3), tilt=(3, 5), drive=(1.5, 3), level=(0.9, 0.98),
    ),
    "excited": Delivery(
        f"happiness and elation: faster, higher, much wider: {_MURRAY}",
        pace=(1.12, 1.3), pitch=(1.18, 1.35), span=(1.6, 2.1), tilt=(1, 2.5), level=(0.7, 0.85),
    ),
    "sad": Delivery(
        f"slower, lower, narrower, falling, less energy above 1 kHz: {_MURRAY}",
        pace=(0.72, 0.84), pitch=(0.84, 0.94), span=(0.35, 0.6), fall=(2, 4), tilt=(-5, -3), fade=(0.3, 0.5),
        level=(0.28, 0.42),
    ),
    "angry": Delivery(
        f"hot anger: louder, tense and bright, rough, higher and wider: {_BANSE}",
        pace=(1.0, 1.12), pitch=(1.05, 1.2), span=(1.2, 1.5), tilt=(1.5, 3), rough=(0.5, 0.8), drive=(1, 2),
        level=(0.8, 0.92),
    ),
    "nervous": Delivery(
        f"anxiety: faster, higher, unsteady: {_BANSE}; tremor of 5 to 8 Hz: Titze 1994, chapter 11",
        pace=(1.04, 1.15), pitch=(1.05, 1.15), tremor=(0.35, 0.6), level=(0.45, 0.6),
    ),
    "calm": Delivery(
        f"slow, soft, level and breathy: {_BANSE} (their quiet emotions); breath: Klatt & Klatt 1990",
        pace=(0.74, 0.86), pitch=(0.92, 0.99), span=(0.5, 0.75), tilt=(-3, -1.5), breath=(0.35, 0.55),
        level=(0.3, 0.42),
    ),
    "frustrated": Delivery(
        f"cold anger: every word on its own, tense: {_BANSE}",
        pace=(0.95, 1.08), span=(1.2, 1.5), tilt=(1, 2), drive=(0.8, 1.5), gaps=(0.09, 0.16), level=(0.7, 0.82),
    ),
    "crying": Delivery(
        "grief: high, narrow, with tremor and breaks of voice: Banse & Scherer 1996 (desperation)",
        pace=(0.8, 0.95), pitch=(1.15, 1.4), span=(0.6, 0.9), breath=(0.2, 0.4), tremor=(0.5, 0.8), fall=(0, 2),
        level=(0.4, 0.55),
    ),
}  # fmt: skip
# A stressed word: longer, higher and louder (Fry 1958; Kochanski et al. 2005 for the level).
STRESS = {"pace": (0.68, 0.8), "pitch": (1.15, 1.32), "level": (3.5, 6.5)}  # factor, factor, dB
EXCLAIMED = (2.0, 3.5)  # semitones that the last word of a "!" rises, with 3 to 5 dB
ASKED = (4.0, 6.5)  # semitones that the last quarter of a second of a "?" rises


@dataclass(frozen=True)
class Timbre:
    """How a voice differs from its model's: pitch and vocal tract as factors; formants go up with tract."""

    pitch: float = 1.0
    tract: float = 1.0


def missing() -> str | None:
    """How to install what deliveries need; None if it is installed."""
    return None if find_spec("pyworld") else f"Deliveries of the natural voices need pyworld: {HOW}."


@dataclass
class _Frames:
    """Per frame: pitch in Hz (0: unvoiced), spectral envelope (power) and aperiodicity (0 to 1), each (N, bins)."""

    f0: np.ndarray
    spectrum: np.ndarray
    aperiodicity: np.ndarray


def _analysed(waveform: np.ndarray) -> _Frames:
    import pyworld

    x = np.ascontiguousarray(waveform, np.float64)
    f0, t = pyworld.dio(x, SAMPLE_RATE, frame_period=PERIOD)
    f0 = pyworld.stonemask(x, f0, t, SAMPLE_RATE)
    spectrum = pyworld.cheaptrick(x, f0, t, SAMPLE_RATE)
    return _Frames(f0, spectrum, pyworld.d4c(x, f0, t, SAMPLE_RATE))


def perform(
    waveform: np.ndarray,
    times: np.ndarray,
    delivery: Delivery,
    rng: np.random.Generator,
    stressed: Sequence[int] = (),
    mark: str = "",
    timbre: Timbre = Timbre(),  # noqa: B008 - frozen
) -> tuple[np.ndarray, np.ndarray]:
    """A neutral phrase in another delivery.

    waveform: (T,) float32 at 16 kHz. times: (words, 2), seconds at which each word begins and ends. stressed: indices
    of words. mark: "!" or "?" where the phrase ends with one. Gives the new waveform and times. Raises SpeechError
    without pyworld.
    """
    if complaint := missing():
        raise SpeechError(complaint)
    if not len(times) or len(waveform) < SAMPLE_RATE // 20:
        return effects.peak(waveform, rng.uniform(*delivery.level)).astype(np.float32), times
    import pyworld

    frames = _analysed(waveform)
    count = len(frames.f0)
    draw = {name: rng.uniform(*getattr(delivery, name)) for name in _DRAWN}
    pace, pitch, level = np.full(count, draw["pace"]), np.ones(count), np.zeros(count)
    for word in stressed:
        first, last = (np.clip(times[word] * 1000 / PERIOD, 0, count)).astype(int)
        pace[first:last] *= rng.uniform(*STRESS["pace"])
        pitch[first:last] *= rng.uniform(*STRESS["pitch"])
        level[first:last] += rng.uniform(*STRESS["level"])
    _end(pitch, level, mark, times, rng)
    pace = effects.smoothed(pace, 9)
    source = _positions(pace, times, draw["gaps"])  # per output frame: the input frame, or -1 in a gap
    told = source >= 0
    at = np.clip(np.round(source), 0, count - 1).astype(int)
    f0 = frames.f0[at] * effects.smoothed(pitch, 9)[at] * told
    spectrum = frames.spectrum[at] * np.where(told, 10 ** (effects.smoothed(level, 9)[at] / 10), 1e-9)[:, None]
    aperiodicity = frames.aperiodicity[at]
    f0 = _melody(f0, draw, delivery, timbre, rng)
    spectrum = _coloured(spectrum, draw["tilt"], timbre.tract, delivery.whispered)
    if delivery.whispered:
        f0, aperiodicity = np.zeros_like(f0), np.ones_like(aperiodicity)
    elif draw["breath"]:
        high = np.linspace(0, 1, aperiodicity.shape[1]) ** 0.5
        aperiodicity = np.minimum(1, aperiodicity + draw["breath"] * high)
    out = pyworld.synthesize(*map(np.ascontiguousarray, (f0, spectrum, aperiodicity)), SAMPLE_RATE, PERIOD)
    out = _finished(out, draw, rng)
    new = np.searchsorted(np.maximum.accumulate(source), times * 1000 / PERIOD)
    return out.astype(np.float32), np.minimum(new * PERIOD / 1000, len(out) / SAMPLE_RATE)


_DRAWN = "pace pitch span fall tilt breath tremor rough drive gaps fade level".split()


def _end(pitch: np.ndarray, level: np.ndarray, mark: str, times: np.ndarray, rng: np.random.Generator) -> None:
    """The melody of the mark that ends the phrase, in place."""
    if mark == "!":
        last = int(times[-1, 0] * 1000 / PERIOD)
        pitch[last:] *= 2 ** (rng.uniform(*EXCLAIMED) / 12)
        level[:] += np.linspace(-2, 2, len(level))
    elif mark == "?":
        end = min(len(pitch), int(times[-1, 1] * 1000 / PERIOD))
        first = max(0, end - int(250 / PERIOD))
        pitch[first:end] *= 2 ** (np.linspace(0, rng.uniform(*ASKED), end - first) / 12)
        pitch[end:] *= 2 ** (ASKED[0] / 12)


def _positions(pace: np.ndarray, times: np.ndarray, gap: float) -> np.ndarray:
    """For each output frame the input frame it is made of; -1 in a gap between words."""
    spent = np.concatenate([[0], np.cumsum(1 / pace)])  # output frames at which each input frame begins
    source = np.interp(np.arange(int(spent[-1])), spent, np.arange(len(spent)))
    if gap <= 0 or len(times) < 2:
        return source
    edges = (times[1:, 0] + times[:-1, 1]) / 2 * 1000 / PERIOD
    cuts = np.searchsorted(source, edges)
    silence = np.full(int(gap * 1000 / PERIOD), -1.0)
    pieces = np.split(source, cuts)
    return np.concatenate([part for piece in pieces for part in (piece, silence)][:-1])


def _melody(f0, draw: dict[str, float], delivery: Delivery, timbre: Timbre, rng) -> np.ndarray:
    """The pitch of the delivery: its level, span, fall and tremor."""
    voiced = f0 > VOICED
    if not voiced.any():
        return f0
    middle = np.median(f0[voiced])
    octaves = np.zeros(len(f0))
    octaves[voiced] = np.log2(f0[voiced] / middle) * draw["span"]
    octaves -= np.linspace(-0.5, 0.5, len(f0)) * draw["fall"] / 12
    beat = np.sin(2 * np.pi * rng.uniform(5, 8) * np.arange(len(f0)) * PERIOD / 1000 + rng.uniform(0, 6))
    octaves += 0.12 * draw["tremor"] * beat
    return np.where(voiced, np.clip(middle * draw["pitch"] * timbre.pitch * 2**octaves, 50, 800), 0.0)


def _coloured(spectrum: np.ndarray, tilt: float, tract: float, whispered: bool) -> np.ndarray:
    """Another tilt and vocal tract; a whisper has little below 500 Hz."""
    bins = spectrum.shape[1]
    hertz = np.linspace(0, SAMPLE_RATE / 2, bins)
    if tract != 1:
        spectrum = spectrum[:, np.minimum((np.arange(bins) / tract).round().astype(int), bins - 1)]
    gain = tilt * np.log2(np.maximum(hertz, 500) / 500)  # dB
    if whispered:
        gain = gain - 18 * np.clip((600 - hertz) / 600, 0, 1)
    return spectrum * 10 ** (gain / 10)


def _finished(waveform: np.ndarray, draw: dict[str, float], rng: np.random.Generator) -> np.ndarray:
    """Roughness, tremor of the level, clipping, fading and level."""
    t = np.arange(len(waveform)) / SAMPLE_RATE
    waveform = effects.peak(waveform, 0.7)
    if draw["rough"]:
        waveform = waveform * (1 + draw["rough"] * np.sign(np.sin(2 * np.pi * rng.uniform(55, 85) * t)))
    if draw["tremor"]:
        waveform = waveform * (1 + draw["tremor"] * np.sin(2 * np.pi * rng.uniform(5, 8) * t + rng.uniform(0, 6)))
    if draw["drive"]:
        waveform = np.tanh(draw["drive"] * 2 * waveform)
    return effects.peak(waveform * np.linspace(1, 1 - draw["fade"], len(waveform)), draw["level"])

"""Non-verbal sounds for voices that have none, in their own pitch: eight or more recipes of each kind.

A recipe is a row of numbers for one of four small models: bursts (laughs, throat clearing), breath (sighs, gasps), sobs
(crying). The embedded voice has its own formulas in `effects`, one of each kind. All waveforms are float64 at 16 kHz.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from evoxtral.audio import SAMPLE_RATE
from evoxtral.speech.effects import Rng, bandpass, envelope, lowpass, peak, swept_noise, voiced

Formants = tuple[tuple[float, float], ...]  # (Hz, gain)
A: Formants = ((800, 1.0), (1250, 0.6), (2600, 0.3))
E: Formants = ((480, 1.0), (1900, 0.6), (2600, 0.35))
I: Formants = ((330, 1.0), (2300, 0.5), (3000, 0.3))  # noqa: E741 - the vowel's name
O: Formants = ((450, 1.0), (850, 0.6), (2500, 0.15))  # noqa: E741
U: Formants = ((350, 1.0), (700, 0.4), (2300, 0.1))
SCHWA: Formants = ((550, 1.0), (1400, 0.5), (2500, 0.25))
HUM: Formants = ((270, 1.0), (1100, 0.12), (2200, 0.05))  # lips closed
SILENT: Formants = ()


def _count(seconds: float) -> int:
    return max(16, int(seconds * SAMPLE_RATE))


def _silence(seconds: float) -> np.ndarray:
    return np.zeros(int(seconds * SAMPLE_RATE))


def _pulse(rng: Rng, f0: np.ndarray, formants: Formants, breath: float, rough: float = 0.0) -> np.ndarray:
    """A voiced sound of this pitch (Hz per sample) with breath noise in it; rough: share of pitch jitter."""
    n = len(f0)
    noise = bandpass(rng.standard_normal(n), 500, 5000)
    if not formants:
        return peak(noise, 1)
    if rough:
        knots = np.arange(0, n + 80, 80)
        wobble = np.interp(np.arange(n), knots, rng.standard_normal(len(knots)))
        f0 = f0 * (1 + rough * wobble)
    scaled = tuple((f * rng.uniform(0.95, 1.05), g) for f, g in formants)
    return peak(voiced(f0, scaled), 1) * (1 - 0.6 * breath) + breath * peak(noise, 1)


# --- laughs: bursts of voice, 4 to 6 a second; voiced, grunts and snorts (Bachorowski, Smoski & Owren 2001) -----------


@dataclass(frozen=True)
class Laugh:
    """vowel: of a burst; SILENT: breath alone. count, rate (Hz), share (of a period that sounds), pitch (factor on the
    voice's), bend (of the pitch over one burst), drift (of pitch over the whole), breath, rough; snort: a nasal burst
    first; inhaled: a breath in at the end."""

    vowel: Formants
    count: tuple[int, int]
    rate: float
    share: float
    pitch: float
    bend: float = -0.15
    drift: float = -0.25
    breath: float = 0.15
    rough: float = 0.0
    snort: bool = False
    inhaled: bool = False


LAUGHS = (
    Laugh(A, (3, 6), 4.8, 0.6, 1.7),  # ha ha ha
    Laugh(E, (4, 8), 5.6, 0.5, 1.9),  # heh heh
    Laugh(O, (3, 5), 3.9, 0.65, 1.2),  # ho ho ho
    Laugh(I, (5, 9), 6.5, 0.5, 2.4, drift=0.15),  # giggle
    Laugh(HUM, (3, 6), 5.0, 0.55, 1.3, breath=0.3),  # a chuckle, lips closed
    Laugh(SILENT, (4, 8), 5.2, 0.5, 1.0),  # breath alone
    Laugh(A, (3, 6), 5.0, 0.55, 1.6, snort=True, breath=0.3),
    Laugh(SCHWA, (5, 9), 5.2, 0.5, 2.0, drift=-0.45, inhaled=True),  # it runs out of breath
    Laugh(A, (2, 3), 4.2, 0.7, 1.5, bend=-0.3),  # a short one
    Laugh(A, (5, 8), 4.6, 0.7, 2.1, rough=0.06, breath=0.2, inhaled=True),  # a roar
)


def _laugh(r: Laugh, rng: Rng, pitch: float) -> np.ndarray:
    period, f0 = 1 / (r.rate * rng.uniform(0.88, 1.12)), pitch * r.pitch * rng.uniform(0.9, 1.1)
    count, parts = int(rng.integers(r.count[0], r.count[1] + 1)), []
    if r.snort:
        n = _count(rng.uniform(0.12, 0.2))
        beat = 1 + 0.8 * np.sign(np.sin(2 * np.pi * rng.uniform(30, 45) * np.arange(n) / SAMPLE_RATE))
        parts.append(0.6 * peak(bandpass(rng.standard_normal(n), 150, 1500) * beat * envelope(n, 0.2, 0.4), 1))
    for k in range(count):
        n, gap = _count(period * r.share * rng.uniform(0.85, 1.15)), _count(period * (1 - r.share))
        at = 1 + r.drift * k / max(1, count - 1)
        burst = _pulse(rng, f0 * at * np.linspace(1, 1 + r.bend, n), r.vowel, r.breath, r.rough)
        parts.append(burst * envelope(n, 0.2, 0.5) * (1 - 0.5 * k / count) * rng.uniform(0.85, 1))
        parts.append(0.12 * peak(bandpass(rng.standard_normal(gap), 700, 4500), 1) * envelope(gap, 0.4, 0.4))
    if r.inhaled:
        n = _count(rng.uniform(0.2, 0.35))
        parts.append(0.3 * peak(swept_noise(rng, n, 900, 2600) * envelope(n, 0.6, 0.15), 1))
    return np.concatenate(parts)


# --- throat clearing: rough, low bursts behind a closed or half-open mouth -------------------------------------------


@dataclass(frozen=True)
class Clearing:
    """seconds: of each burst. vowel, pitch: as in Laugh. rough: depth of the beat in the noise. tail: a voiced hum."""

    seconds: tuple[float, ...]
    vowel: Formants
    pitch: float
    rough: float
    noise: float = 0.6
    tail: bool = False


CLEARINGS = (
    Clearing((0.16, 0.24), SCHWA, 0.8, 1.0),  # ahem
    Clearing((0.14, 0.14, 0.22), SCHWA, 0.75, 1.0),
    Clearing((0.35,), SCHWA, 0.7, 1.0),  # one long growl
    Clearing((0.12, 0.26), HUM, 0.9, 0.8, 0.35),  # lips closed: hm-hmm
    Clearing((0.18, 0.16), A, 0.9, 0.7, 0.9),  # near a cough
    Clearing((0.2, 0.14), SCHWA, 0.75, 1.0, 0.6, tail=True),  # ahem-mm
    Clearing((0.1, 0.1, 0.1), HUM, 1.1, 0.6, 0.5),  # small and quick
    Clearing((0.26, 0.3), O, 0.6, 1.0, 0.8),  # deep, wet
    Clearing((0.22,), A, 1.1, 0.5, 0.9),
)


def _clearing(r: Clearing, rng: Rng, pitch: float) -> np.ndarray:
    parts, f0 = [], pitch * r.pitch * rng.uniform(0.9, 1.1)
    for seconds in r.seconds:
        n = _count(seconds * rng.uniform(0.85, 1.2))
        glottis = np.cumsum(f0 * 0.7 * (1 + 0.12 * rng.standard_normal(n))) / SAMPLE_RATE
        beat = 1 - r.rough + r.rough * np.maximum(0, np.sin(2 * np.pi * glottis)) ** 2
        rasp = peak(bandpass(rng.standard_normal(n), 250, 2200) * (0.15 + beat), 1)
        voice = _pulse(rng, np.full(n, f0) * np.linspace(1.05, 0.9, n), r.vowel, 0.1, 0.08)
        parts += [peak(r.noise * rasp + (1 - 0.5 * r.noise) * voice, 1) * envelope(n, 0.1, 0.35)]
        parts.append(_silence(rng.uniform(0.03, 0.08)))
    if r.tail:
        n = _count(rng.uniform(0.15, 0.3))
        parts.append(0.5 * _pulse(rng, np.full(n, f0 * 1.2), HUM, 0.1) * envelope(n, 0.15, 0.5))
    return np.concatenate(parts)


# --- breath: sighs (out, falling) and gasps (in, rising, ends abruptly) ----------------------------------------------


@dataclass(frozen=True)
class Breath:
    """seconds: least and most. sweep: Hz at begin and end of the noise. shape: attack and decay shares. voice: share of
    voice, in `vowel`, its pitch moving by `bend`. before: s of a breath in first. nasal: through the nose. times: how
    often. tremble: depth of an 8 Hz shudder."""

    seconds: tuple[float, float]
    sweep: tuple[float, float]
    shape: tuple[float, float]
    voice: float = 0.0
    vowel: Formants = A
    pitch: float = 1.0
    bend: float = -0.35
    before: float = 0.0
    nasal: bool = False
    times: int = 1
    tremble: float = 0.0


SIGHS = (
    Breath((0.6, 0.95), (1900, 550), (0.15, 0.75)),
    Breath((0.6, 0.95), (1700, 500), (0.15, 0.75), voice=0.5),  # haah
    Breath((0.9, 1.4), (1500, 450), (0.1, 0.8)),
    Breath((0.5, 0.8), (1000, 400), (0.2, 0.7), nasal=True),
    Breath((0.7, 1.0), (1900, 500), (0.12, 0.8), before=0.35),  # in, then out
    Breath((0.7, 1.1), (1600, 500), (0.1, 0.8), voice=0.8, vowel=SCHWA, bend=-0.45),  # a moan
    Breath((0.5, 0.8), (1200, 500), (0.15, 0.7), voice=0.6, vowel=HUM, nasal=True),  # mmh
    Breath((0.4, 0.6), (2200, 700), (0.08, 0.85), voice=0.2, vowel=O),  # a puff
    Breath((0.8, 1.2), (1700, 500), (0.15, 0.75), before=0.3, tremble=0.5),
    Breath((0.6, 0.9), (2600, 900), (0.2, 0.7), voice=0.3, vowel=U),
)
GASPS = (
    Breath((0.25, 0.4), (1100, 3600), (0.75, 0.06)),
    Breath((0.18, 0.28), (1300, 4000), (0.7, 0.06)),
    Breath((0.35, 0.55), (900, 3000), (0.8, 0.05)),
    Breath((0.22, 0.38), (1000, 3200), (0.7, 0.06), voice=0.5, vowel=A, pitch=1.8, bend=0.3),  # a voiced one: huh!
    Breath((0.2, 0.35), (1200, 3400), (0.75, 0.06), voice=0.3, vowel=I, pitch=2.2, bend=0.4),
    Breath((0.2, 0.32), (800, 2000), (0.7, 0.06), nasal=True),  # a sniff
    Breath((0.13, 0.2), (1200, 3500), (0.7, 0.08), times=2),
    Breath((0.3, 0.45), (1000, 3400), (0.75, 0.06), tremble=0.5),
    Breath((0.28, 0.4), (1500, 5000), (0.6, 0.04)),
)


def _breath(r: Breath, rng: Rng, pitch: float) -> np.ndarray:
    parts = []
    if r.before:
        n = _count(r.before * rng.uniform(0.8, 1.3))
        parts += [0.4 * peak(swept_noise(rng, n, 900, 2200) * envelope(n, 0.7, 0.15), 1), _silence(0.05)]
    for _ in range(r.times):
        n = _count(rng.uniform(*r.seconds))
        waveform = peak(swept_noise(rng, n, *(f * rng.uniform(0.88, 1.12) for f in r.sweep)), 1)
        if r.nasal:
            waveform = peak(lowpass(waveform, 1800) + 0.3 * waveform, 1)
        if r.voice:
            f0 = pitch * r.pitch * rng.uniform(0.9, 1.15) * np.linspace(1, 1 + r.bend, n)
            waveform = (1 - 0.5 * r.voice) * waveform + r.voice * _pulse(rng, f0, r.vowel, 0.2)
        waveform = peak(waveform, 1) * envelope(n, *r.shape)
        if r.tremble:
            waveform = waveform * (1 + r.tremble * np.sin(2 * np.pi * rng.uniform(7, 10) * np.arange(n) / SAMPLE_RATE))
        parts += [waveform, _silence(0.05)]
    return np.concatenate(parts)


# --- crying: sobs with breath drawn in between -----------------------------------------------------------------------


@dataclass(frozen=True)
class Sobs:
    """count, seconds: of the sobs. vowel, pitch, bend: as above. tremor: depth at 8 to 11 Hz. gulp: s of the breath in
    after each; sniff: it goes through the nose. breath: in the voice."""

    count: tuple[int, int]
    seconds: tuple[float, float]
    vowel: Formants
    pitch: float
    bend: float = -0.3
    tremor: float = 0.6
    gulp: float = 0.14
    sniff: bool = False
    breath: float = 0.15


CRYING = (
    Sobs((2, 3), (0.3, 0.45), SCHWA, 2.2),
    Sobs((1, 2), (0.7, 1.1), A, 2.0, bend=-0.4, tremor=0.4),  # a wail
    Sobs((3, 5), (0.12, 0.2), SCHWA, 2.3, tremor=0.2, gulp=0.1),  # hiccups
    Sobs((2, 3), (0.25, 0.4), HUM, 2.0, sniff=True),  # whimpers, lips closed
    Sobs((2, 3), (0.3, 0.5), U, 2.1, bend=-0.2),
    Sobs((2, 3), (0.2, 0.35), I, 2.6, breath=0.3),  # thin
    Sobs((2, 3), (0.25, 0.4), SILENT, 1.0, tremor=0.8, gulp=0.2),  # breath alone, shuddering
    Sobs((1, 2), (0.6, 0.9), O, 1.6, bend=-0.35, tremor=0.7),  # a moan
    Sobs((2, 4), (0.2, 0.3), E, 2.2, bend=0.15, sniff=True),
)


def _sobs(r: Sobs, rng: Rng, pitch: float) -> np.ndarray:
    parts = []
    for _ in range(int(rng.integers(r.count[0], r.count[1] + 1))):
        n, gulp = _count(rng.uniform(*r.seconds)), _count(r.gulp * rng.uniform(0.8, 1.4))
        t = np.arange(n) / SAMPLE_RATE
        f0 = pitch * r.pitch * rng.uniform(0.9, 1.1) * np.linspace(1 - r.bend / 3, 1 + r.bend, n)
        sob = _pulse(rng, f0 * (1 + 0.05 * np.sin(2 * np.pi * 9 * t)), r.vowel, r.breath)
        sob = sob * envelope(n, 0.2, 0.5) * (1 + r.tremor * np.sin(2 * np.pi * rng.uniform(8, 11) * t))
        breath = swept_noise(rng, gulp, *((700, 1500) if r.sniff else (1500, 2800))) * envelope(gulp, 0.5, 0.2)
        parts += [peak(sob, 1), _silence(rng.uniform(0.02, 0.08)), 0.3 * peak(breath, 1)]
    return np.concatenate(parts)


SOUNDS: dict[str, tuple[Callable, tuple]] = {
    "laughs": (_laugh, LAUGHS),
    "sighs": (_breath, SIGHS),
    "gasps": (_breath, GASPS),
    "clears throat": (_clearing, CLEARINGS),
    "crying": (_sobs, CRYING),
}
LEVELS = {
    "laughs": (0.5, 0.95),
    "sighs": (0.2, 0.5),
    "gasps": (0.3, 0.7),
    "clears throat": (0.35, 0.7),
    "crying": (0.4, 0.8),
}


def make(name: str, rng: Rng, pitch: float, recipe: int | None = None) -> np.ndarray:
    """A sound of SOUNDS, (T,) with a peak as it has beside a voice whose peak is 1.

    pitch: the voice's median, in Hz. recipe: which one; None draws it.
    """
    model, recipes = SOUNDS[name]
    chosen = recipes[int(rng.integers(len(recipes))) if recipe is None else recipe]
    return peak(model(chosen, rng, pitch), rng.uniform(*LEVELS[name]))

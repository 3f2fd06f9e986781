"""Clips that hold no English speech: noises, music, telephones, and other languages in a natural voice."""

from collections.abc import Callable
from itertools import cycle, islice

import numpy as np

from evoxtral.audio import SAMPLE_RATE
from evoxtral.bench.recordings import Recording
from evoxtral.speech import acoustics, kokoro
from evoxtral.speech.effects import bandpass, highpass, lowpass, peak

Rng = np.random.Generator
# espeak-ng's language, a voice of Kokoro that speaks it, and two sentences.
FOREIGN = (
    ("es", "ef_dora", "La vieja casa está cerca del río y nadie vive allí desde el invierno."),
    ("es", "em_alex", "Mañana vamos a comprar pan, queso y tres botellas de agua."),
    ("it", "if_sara", "Questa mattina il treno è arrivato con due ore di ritardo."),
    ("it", "im_nicola", "Non so ancora se verrò alla festa di domani sera."),
    ("fr", "ff_siwis", "Le petit chat dort sur la chaise pendant que la pluie tombe."),
    ("fr", "ff_siwis", "Je voudrais un café et un morceau de gâteau, s'il vous plaît."),
    ("pt-br", "pf_dora", "O menino correu pela praia atrás de um cachorro preto."),
    ("pt-br", "pm_santa", "Amanhã cedo eu preciso levar o carro para a oficina."),
)


def _t(seconds: float) -> np.ndarray:
    return np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE


def rain(rng: Rng, seconds: float) -> np.ndarray:
    """A wash of noise with single drops."""
    n = int(seconds * SAMPLE_RATE)
    out = 0.3 * highpass(rng.standard_normal(n), 800)
    for at in rng.integers(0, n - 400, int(60 * seconds)):
        out[at : at + 200] += rng.uniform(0.3, 2) * rng.standard_normal(200) * np.exp(-np.arange(200) / 40)
    return out


def fan(rng: Rng, seconds: float) -> np.ndarray:
    t = _t(seconds)
    return lowpass(rng.standard_normal(len(t)), 900) * (1 + 0.3 * np.sin(2 * np.pi * rng.uniform(8, 25) * t))


def hiss(rng: Rng, seconds: float) -> np.ndarray:
    return acoustics.coloured(rng.standard_normal(int(seconds * SAMPLE_RATE)), rng.uniform(0, 2))


def dial_tone(rng: Rng, seconds: float) -> np.ndarray:
    """Dialling (DTMF), ringing or busy tones of a North American exchange (ITU-T Q.23, E.180)."""
    t, kind = _t(seconds), rng.integers(3)
    if kind == 0:
        out = np.zeros(len(t))
        for first in range(0, len(t) - 2000, 3200):
            low, high = rng.choice((697, 770, 852, 941)), rng.choice((1209, 1336, 1477))
            out[first : first + 1600] = sum(np.sin(2 * np.pi * f * t[:1600]) for f in (low, high))
        return out
    low, high, on, off = ((350, 440, 99, 0), (440, 480, 2, 4), (480, 620, 0.5, 0.5))[kind]
    return (np.sin(2 * np.pi * low * t) + np.sin(2 * np.pi * high * t)) * (t % (on + off) < on)


def music(rng: Rng, seconds: float) -> np.ndarray:
    """Plucked strings (Karplus & Strong 1983) over a drum."""
    t = _t(seconds)
    out, beat = np.zeros(len(t)), rng.uniform(0.18, 0.4)
    root = rng.uniform(110, 220)
    scale = 2 ** (np.array((0, 2, 4, 7, 9, 12, 14, 16)) / 12)
    for k, at in enumerate(np.arange(0, seconds - 0.05, beat)):
        first = int(at * SAMPLE_RATE)
        for f in root * rng.choice(scale, 1 + k % 2):
            period, length = int(SAMPLE_RATE / f), min(len(t) - first, int(0.8 * SAMPLE_RATE))
            string = rng.uniform(-1, 1, period)
            note = np.concatenate(
                [(string := 0.996 * (string + np.roll(string, 1)) / 2) for _ in range(length // period + 1)]
            )
            out[first : first + length] += note[:length]
        if k % 2 == 0:
            n = min(1600, len(t) - first)
            out[first : first + n] += 1.5 * np.sin(2 * np.pi * 70 * t[:n]) * np.exp(-np.arange(n) / 400)
    return out


def alarm(rng: Rng, seconds: float) -> np.ndarray:
    """A siren or a bird: a tone that sweeps."""
    t = _t(seconds)
    centre, swing, rate = rng.uniform(600, 2500), rng.uniform(0.1, 0.5), rng.uniform(0.3, 8)
    phase = 2 * np.pi * np.cumsum(centre * (1 + swing * np.sin(2 * np.pi * rate * t))) / SAMPLE_RATE
    return np.sin(phase) * (0.6 + 0.4 * np.sin(2 * np.pi * rng.uniform(0.5, 6) * t))


def knocks(rng: Rng, seconds: float) -> np.ndarray:
    """Typing, steps, knocks."""
    out = 0.005 * rng.standard_normal(int(seconds * SAMPLE_RATE))
    for at in np.cumsum(rng.uniform(0.08, 0.6, 100)):
        first = int(at * SAMPLE_RATE)
        if first + 1200 < len(out):
            hit = bandpass(rng.standard_normal(1200), 150, rng.uniform(800, 5000)) * np.exp(-np.arange(1200) / 150)
            out[first : first + 1200] += rng.uniform(0.3, 1) * peak(hit, 1)
    return out


KINDS: dict[str, Callable[[Rng, float], np.ndarray]] = {
    "rain": rain, "fan": fan, "hiss": hiss, "dial tone": dial_tone, "music": music, "alarm": alarm, "knocks": knocks,
}  # fmt: skip


def foreign(number: int) -> np.ndarray:
    """A sentence that is not English, (T,) at 16 kHz. Raises SpeechError where Kokoro is not installed."""
    language, voice, text = FOREIGN[number % len(FOREIGN)]
    waveform, _ = kokoro.read_foreign(text.split(), language, voice, 0.9 + 0.05 * (number // len(FOREIGN) % 6))
    return waveform


def clips(count: int, seed: int = 0) -> list[Recording]:
    """`count` clips of two to eight seconds, kinds in turn; a quarter are other languages if Kokoro is installed."""
    rng, out = np.random.default_rng(seed), []
    kinds = [*KINDS] if kokoro.missing() else [*KINDS, "language", "language"]
    for k, kind in enumerate(islice(cycle(kinds), count)):
        seconds = rng.uniform(2, 8)
        waveform = foreign(k) if kind == "language" else KINDS[kind](rng, seconds)
        out.append(Recording(f"{kind}-{k}", peak(waveform, rng.uniform(0.1, 0.8)).astype(np.float32), ""))
    return out

"""Natural voices: which there are, and how one of them speaks phrases and makes sounds.

A reader says plain words (Kokoro, Piper or flite); deliveries, stress and stammers come from `deliveries`, sounds from
`sounds`, in the reader's own pitch and level.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from evoxtral import tags
from evoxtral.audio import SAMPLE_RATE
from evoxtral.errors import SpeechError
from evoxtral.speech import deliveries, effects, flite, kokoro, piper, sounds
from evoxtral.speech.deliveries import NEUTRAL, Timbre

KINDS = ("natural", "piper", "flite")
VOICES = (
    *(f"natural:{name}" for name in kokoro.VOICES),
    *(f"piper:{name}" for name in piper.VOICES),
    *(f"flite:{name}" for name in flite.VOICES),
)
PITCH = {True: 205.0, False: 120.0}  # Hz, by `female`, where a phrase has no voice to measure
Read = Callable[[list[str]], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Reader:
    """read: words -> waveform (T,) float32 at 16 kHz, and seconds at which each word begins and ends, (words, 2)."""

    read: Read
    female: bool


def is_natural(voice: str) -> bool:
    """Whether a voice's name is for this module: `natural:heart`, `piper:joe`, `flite:slt`."""
    return voice.partition(":")[0] in KINDS


def missing(voice: str) -> str | None:
    """What to install before a voice can speak; None when it can."""
    kind = voice.partition(":")[0]
    return {"natural": kokoro, "piper": piper, "flite": flite}[kind].missing() or deliveries.missing()


def installed() -> tuple[str, ...]:
    """Those of VOICES that can speak here."""
    there = {kind for kind in KINDS if not missing(f"{kind}:")}
    return tuple(voice for voice in VOICES if voice.partition(":")[0] in there)


def title(voice: str) -> str:
    """ "natural:heart" → "Natural: Heart, American woman"."""
    kind, _, name = voice.partition(":")
    if kind == "natural":
        chosen = kokoro.first(name)
        british = chosen in kokoro.BRITISH["female"] + kokoro.BRITISH["male"]
        woman = chosen in kokoro.AMERICAN["female"] + kokoro.BRITISH["female"]
        return f"Natural: {name.capitalize()}, {'British' if british else 'American'} {'woman' if woman else 'man'}"
    return f"{kind.capitalize()}: {name.capitalize()}"


def reader(voice: str, rate: float = 1.0) -> Reader:
    """The reader of a voice. Raises SpeechError for one that does not exist or is not installed."""
    kind, _, name = voice.partition(":")
    if complaint := missing(voice):
        raise SpeechError(complaint)
    if kind == "natural":
        chosen = kokoro.voice(name)
        return Reader(lambda words: kokoro.read(words, chosen, rate), chosen.female)
    module = {"piper": piper, "flite": flite}[kind]
    if name not in module.VOICES:
        raise SpeechError(f"There is no voice {voice!r}: use one of {', '.join(f'{kind}:{v}' for v in module.VOICES)}.")
    return Reader(lambda words: module.synthesize(words, name, rate), module.VOICES[name] == "female")


class NaturalSpeaker:
    """One speaker of a recording, with its own random numbers."""

    def __init__(self, reader: Reader, rng: np.random.Generator, timbre: Timbre = Timbre()) -> None:  # noqa: B008
        self._read, self.female, self.rng, self._timbre = reader.read, reader.female, rng, timbre
        self._pitch = PITCH[self.female] * timbre.pitch
        self._tearful = False  # whoever sobbed speaks on with a crying voice

    def sound(self, name: str) -> np.ndarray:
        """A non-verbal sound, as loud as it is beside this voice."""
        self._tearful = name == "crying"
        return effects.NORMAL * sounds.make(name, self.rng, self._pitch)

    def phrase(
        self, words: Sequence[str], names: Sequence[str], stammered: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Words in one breath and the named deliveries, of which several add up.

        Gives what is stammered before it (T,), the waveform (T,) and the seconds in it at which words begin and end.
        """
        stressed = [i for i, word in enumerate(words) if tags.emphasised(word)]
        spoken = [word.lower() if i in stressed else word for i, word in enumerate(words)]
        waveform, times = trimmed(*self._read(spoken))
        mark = words[-1].rstrip("\"')]")[-1:]
        names = [*names, *(["crying"] if self._tearful and not names else [])]
        self._tearful = False
        chosen = [deliveries.DELIVERIES[name] for name in names] or [NEUTRAL]
        for k, delivery in enumerate(chosen):
            first = (stressed, mark, self._timbre) if k == 0 else ()
            waveform, times = deliveries.perform(waveform, times, delivery, self.rng, *first)
        return self._stammer(waveform, times) if stammered else np.zeros(0, np.float32), waveform, times

    def _stammer(self, waveform: np.ndarray, times: np.ndarray) -> np.ndarray:
        """The begin of the first word, two or three times, each cut short and shorter than a word."""
        begin, end = times[0]
        count = int(min(self.rng.uniform(0.11, 0.18), max(end - begin, 0.08)) * SAMPLE_RATE)
        piece = waveform[int(begin * SAMPLE_RATE) :][:count].copy()
        fade = min(len(piece), int(0.02 * SAMPLE_RATE))
        piece[len(piece) - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
        gaps = [effects.silence(self.rng.uniform(0.05, 0.12)) for _ in range(self.rng.integers(2, 4))]
        return np.concatenate([part for gap in gaps for part in (piece, gap)])


def trimmed(waveform: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Without the silence before the first word and after the last; times move along."""
    if not len(times):
        return waveform, times
    begin, end = max(0.0, times[0, 0] - 0.03), times[-1, 1] + 0.06
    return waveform[int(begin * SAMPLE_RATE) : int(end * SAMPLE_RATE)], times - begin

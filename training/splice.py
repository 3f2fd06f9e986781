"""New utterances from a bank without speaking any: phrases of one voice, cut at word boundaries, in another order.

A small model that hears the same thousand sentences again and again learns the sentences. Of `n` words in phrases of
one to five there are more orders than can be heard, and what follows a phrase can no longer be guessed: only the sound
tells. Where two phrases meet, sound that was spoken together is missing, as it is between any two phrases of a speaker
who hesitates; within a phrase it is as it was spoken.
"""

import random
from collections.abc import Sequence
from functools import cache

import numpy as np
import soxr

from evoxtral.audio import SAMPLE_RATE
from training.bank import Item
from training.lexicon import words

PHRASE = (1, 5)  # words, both inclusive
FADE = int(0.01 * SAMPLE_RATE)  # samples over which two phrases are faded into each other
GAP = (0.03, 0.45)  # s of silence where a phrase ends a clause
RATE = (0.88, 1.14)  # of playing: pitch, vocal tract and pace together, another speaker
JITTER = 1.5  # dB, standard deviation of a phrase's level
MAX_WORDS = 22
MARKS = ".,!?;:…"


def spliced(rng: random.Random, items: Sequence[Item], max_seconds: float) -> tuple[str, np.ndarray]:
    """Phrases of these sentences, which one voice speaks, as one utterance: its text, and the waveform (T,) float32.

    It is no longer than `max_seconds`, and has at least one phrase however long that is.
    """
    rate = rng.uniform(*RATE)
    count, parts, seconds = rng.randint(4, MAX_WORDS), [], 0.0
    while count > 0:
        item = rng.choice(items)
        length = min(rng.randint(*PHRASE), len(item.sentence.words), count)
        first = rng.randint(0, len(item.sentence.words) - length)
        waveform = _cut(item, first, first + length)
        gap = rng.uniform(*GAP) if item.sentence.words[first + length - 1][-1] in MARKS else 0.0
        seconds += len(waveform) / SAMPLE_RATE / rate + gap
        if parts and seconds > max_seconds:
            break
        parts.append((item.sentence.words[first : first + length], first == 0, waveform, gap))
        count -= length
    waveform = _joined(rng, [part for _, _, part, _ in parts], [gap for *_, gap in parts])
    text = _written([(said, begins) for said, begins, *_ in parts])
    return text, soxr.resample(waveform, SAMPLE_RATE * rate, SAMPLE_RATE).astype(np.float32)


def _cut(item: Item, first: int, last: int) -> np.ndarray:
    """Words `first` to `last` of a sentence, from the middle of one gap between words to the middle of another."""
    times = np.array(item.times)
    begin = (times[first - 1, 1] + times[first, 0]) / 2 if first else max(0.0, times[0, 0] - 0.05)
    end = (times[last - 1, 1] + times[last, 0]) / 2 if last < len(times) else times[-1, 1] + 0.08
    return item.waveform()[int(begin * SAMPLE_RATE) : max(int(end * SAMPLE_RATE), int(begin * SAMPLE_RATE) + 1)]


def _joined(rng: random.Random, parts: Sequence[np.ndarray], gaps: Sequence[float]) -> np.ndarray:
    """Parts at one level, each faded into the next, or into the silence before it."""
    levels = [np.sqrt(np.mean(part**2)) + 1e-4 for part in parts]
    usual = float(np.median(levels))
    out = np.zeros(0, np.float32)
    for part, level, gap in zip(parts, levels, gaps, strict=True):
        part = part * np.float32(usual / level * 10 ** (rng.gauss(0, JITTER) / 20))
        if gap:
            part = np.concatenate([part, np.zeros(int(gap * SAMPLE_RATE), np.float32)])
        fade = min(FADE, len(out), len(part))
        ramp = np.linspace(0, 1, fade, dtype=np.float32)
        meeting = out[len(out) - fade :] * (1 - ramp) + part[:fade] * ramp
        out = np.concatenate([out[: len(out) - fade], meeting, part[fade:]])
    return out


def _written(parts: Sequence[tuple[Sequence[str], bool]]) -> str:
    """The text of phrases, each with whether it began a sentence: capitals and the last mark as in other texts."""
    out: list[str] = []
    for said, begins in parts:
        first = said[0]
        if not out or out[-1][-1] in ".!?…":
            first = first[:1].upper() + first[1:]
        elif begins and not _always_capital(first):
            first = first[:1].lower() + first[1:]
        out += [first, *said[1:]]
    return " ".join(out).rstrip(",;:") + ("" if out[-1][-1] in ".!?…" else ".")


def _always_capital(word: str) -> bool:
    """Whether a word has its capital within a sentence too: I, a name, a place, a day, a month."""
    bare = word.rstrip(MARKS).removesuffix("'s")
    return bare == "I" or bare.startswith("I'") or bare in _capitals()


@cache
def _capitals() -> frozenset[str]:
    return frozenset((*words("names"), *words("cities"), *words("days_months")))

"""When each word and tag sounds: from where the text model looks, and from the energy of the waveform.

The query that predicts a token looks, in some heads, at the audio that the token is of. Which heads is measured by
`python -m training.alignment` on speech with known times, and lies in `alignment.json` beside a model. Whisper finds
word times from its cross-attention in the same way (https://github.com/openai/whisper/blob/main/whisper/timing.py).

A path of highest score gives each word and tag a stretch of the waveform, one after another, with gaps between. A word
scores where its tokens look and where there is sound, a pause where there is none. Without a table, a word is expected
where its share of the letters lies in what sounds.

Shapes: T tokens, A audio tokens, U words and tags, F frames of 1/64 s.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from evoxtral import audio, tags, words
from evoxtral.errors import CheckpointError, reading
from evoxtral.model.cache import Cache

FILE = "alignment.json"
FRAME = 1 / audio.FRAMES_PER_SECOND  # s
MIN_FRAMES = 2  # of a word
# The scores of a frame, measured on validation clips of the embedded voice; twice or half of each changes little.
FAR = 0.02  # least share that is told apart, of the highest of a word
FAR_SOUND = 0.1  # the same of a tag: a laugh goes on where its tokens look less
BELONGS = 0.15  # share above which a frame belongs to a word rather than to a gap
SILENT = 2.0  # what a silent frame costs a word
LOUD = 0.3  # what a frame with sound costs a gap
PAUSE = 2.5  # what a silent frame is worth to a [pause], and one with sound costs it
QUIETEST, ABOVE_NOISE, RISE = -70.0, 6.0, 12.0  # dBFS, dB, dB: from the noise to what surely is sound
SPREAD = 0.25  # s, around where a word is expected without a table
SOUND_LETTERS = 8.0  # a laugh lasts about as long as a word of so many letters

Times = tuple[float, float]


@dataclass(frozen=True)
class Heads:
    """Which heads tell where a token sounds.

    heads: (layer, query head, weight), the best first; () if none is known.  clips: how many they were chosen on.
    median_error, p90_error: of word starts there, in seconds, with the true text.
    """

    heads: tuple[tuple[int, int, float], ...] = ()
    clips: int = 0
    median_error: float | None = None
    p90_error: float | None = None

    @property
    def watched(self) -> tuple[tuple[int, int], ...]:
        """(layer, query head) of each, in order."""
        return tuple(sorted((layer, head) for layer, head, _ in self.heads))

    def save(self, folder: Path) -> None:
        """Write the table into a folder. Raises CheckpointError."""
        path = folder / FILE
        try:
            path.write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")
        except OSError as error:
            raise CheckpointError(f"{path} cannot be written: {error.strerror}.") from error


def load(folders: Sequence[Path], layers: int, heads: int) -> Heads:
    """Of a model which has so many layers and heads; none where none of the folders has a table.

    folders: of the base and of its adapters; the first with a table counts. A base that others published may have
    none: so an adapter's may bring it.  Raises CheckpointError.
    """
    path = next((path for folder in folders if (path := folder / FILE).is_file()), None)
    if path is None:
        return Heads()
    with reading(path):
        values = json.loads(path.read_text(encoding="utf-8"))
        found = Heads(**values | {"heads": tuple((int(i), int(j), float(w)) for i, j, w in values["heads"])})
    if not all(0 <= layer < layers and 0 <= head < heads and w > 0 for layer, head, w in found.heads):
        raise CheckpointError(f"{path} is not of this model: it names heads that the model does not have.")
    return found


# ------------------------------------------------------------------------------------------------- attention


def looked(cache: Cache, heads: Heads, row: int, count: int, positions: slice) -> np.ndarray:
    """Where the first `count` tokens of a row of the cache looked: (count, A), shares of `positions`."""
    weights = {(layer, head): weight for layer, head, weight in heads.heads}
    shares = torch.zeros(count, positions.stop - positions.start, device=cache.keys.device)
    if count:
        for head, share in zip(cache.watched, cache.attention(row, count, positions), strict=True):
            shares += share * (weights[head] / sum(weights.values()))
    return shares.cpu().numpy()


# ----------------------------------------------------------------------------------------------------- units


@dataclass(frozen=True)
class Unit:
    """A word or tag, and the tokens [first, stop) that write it."""

    text: str
    kind: words.Kind
    first: int
    stop: int

    @property
    def is_delivery(self) -> bool:
        """Whether it has no sound of its own: it tells how the words after it are said."""
        return self.kind == "tag" and words.is_delivery(self.text) and not words.is_of_next_word(self.text)

    @property
    def is_pause(self) -> bool:
        return self.kind == "tag" and tags.category(self.text[1:-1]) == "pause"

    @property
    def letters(self) -> float:
        """How long it lasts, in letters."""
        return SOUND_LETTERS if self.kind == "tag" else float(len(self.text))


def units(pieces: Sequence[str]) -> list[Unit]:
    """The words and tags of a text that these tokens write."""
    ends = np.cumsum([len(piece) for piece in pieces])
    found = []
    for offset, raw, kind in words.split("".join(pieces)):
        first = int(np.searchsorted(ends, offset, side="right"))
        stop = int(np.searchsorted(ends, offset + len(raw), side="left")) + 1
        found.append(Unit(raw, kind, first, stop))
    return found


def token_times(
    pieces: Sequence[str], shares: np.ndarray | None, loud: np.ndarray, window_seconds: float
) -> list[Times | tuple[None, None]]:
    """Start and end, in seconds from the start of the waveform, of the word or tag that each token is of.

    pieces: T texts.  shares: (T, A), see `looked`; None where no heads are known.  loud: (F,), see `loudness`.
    window_seconds: of A audio tokens.
    """
    found = units(pieces)
    times: list = [(None, None)] * len(pieces)
    for unit, (start, end) in zip(found, unit_times(found, shares, loud, window_seconds), strict=True):
        for token in range(unit.first, unit.stop):
            # A token of two, such as "] so": it starts with the first and ends with the second.
            times[token] = (times[token][0] if times[token][0] is not None else start, end)
    return times


def unit_times(
    found: Sequence[Unit], shares: np.ndarray | None, loud: np.ndarray, window_seconds: float
) -> list[Times]:
    """Start and end of each word and tag in seconds, in order. A delivery has those of the next word."""
    sounding = [unit for unit in found if not unit.is_delivery]
    if shares is None:
        close = _expected(sounding, loud)
    else:
        close = _close(sounding, shares, len(loud), window_seconds / shares.shape[1])
    placed = iter((_path(*_scores(sounding, close, loud)) * FRAME).tolist())
    times: list[Times | None] = [None if unit.is_delivery else tuple(next(placed)) for unit in found]
    return [*_with_deliveries(found, times, len(loud) * FRAME)]


def _with_deliveries(found: Sequence[Unit], times: list[Times | None], duration: float) -> Iterator[Times]:
    ends = max((time[1] for time in times if time), default=duration)
    following: Times = (ends, ends)  # of the next word, or of what is stammered before it
    backwards: list[Times] = []
    for unit, time in zip(reversed(found), reversed(times), strict=True):
        if time and (unit.kind == "word" or words.is_of_next_word(unit.text)):
            following = time
        start, end = time or following
        backwards.append((round(start, 2), round(end, 2)))
    return reversed(backwards)


# ---------------------------------------------------------------------------------------------------- scores


def loudness(waveform: np.ndarray) -> np.ndarray:
    """How surely there is sound in each frame of a waveform (T,), 0 to 1: (F,)."""
    levels = audio.frame_levels(waveform)
    noise, speech = np.percentile(levels, (5, 95))
    low = max(noise, QUIETEST) + ABOVE_NOISE
    high = max(min(low + RISE, speech - ABOVE_NOISE), QUIETEST)
    low = min(low, high - ABOVE_NOISE)
    return np.clip((levels - low) / (high - low), 0, 1)


def _close(sounding: Sequence[Unit], shares: np.ndarray, frames: int, step: float) -> np.ndarray:
    """How much each unit looks at each frame, (U, F), beside the most.  step: s of one audio token."""
    looks = np.stack([shares[unit.first : unit.stop].mean(axis=0) for unit in sounding]) if sounding else shares[:0]
    place = np.clip((np.arange(frames) + 0.5) * FRAME / step - 0.5, 0, shares.shape[1] - 1)
    left = np.minimum(place.astype(int), shares.shape[1] - 2)
    right = (place - left).astype(np.float32)
    looks = looks[:, left] * (1 - right) + looks[:, left + 1] * right
    return looks / np.maximum(looks.max(axis=1, keepdims=True), 1e-9)


def _expected(sounding: Sequence[Unit], loud: np.ndarray) -> np.ndarray:
    """The same without attention: a bell around the unit's share of what sounds."""
    sums = np.cumsum([0.0, *(unit.letters for unit in sounding)])
    heard = np.concatenate([[0], np.cumsum(loud)]) + 1e-6 * np.arange(len(loud) + 1)
    edges = np.interp(sums / max(sums[-1], 1) * heard[-1], heard, np.arange(len(heard)))
    middles = np.array([(start + end) / 2 for start, end in pairwise(edges)])[:, None]
    return np.exp(-(((np.arange(len(loud)) - middles) * FRAME / SPREAD) ** 2) / 2)


def _scores(sounding: Sequence[Unit], close: np.ndarray, loud: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores of each unit (U, F), and of a gap (F,), in each frame."""
    pause = np.array([unit.is_pause for unit in sounding], dtype=bool)[:, None]
    sound = np.where(pause, PAUSE * (1 - 2 * loud), -SILENT * (1 - loud))
    far = np.array([FAR if unit.kind == "word" else FAR_SOUND for unit in sounding])[:, None]
    return np.log((close + far) / BELONGS) + sound, -LOUD * loud


def _path(scores: np.ndarray, gap: np.ndarray) -> np.ndarray:
    """The first and the last frame, plus one, of each unit, (U, 2): the stretches of highest total score in order, with
    gaps between.  scores (U, F), gap (F,)."""
    count, frames = scores.shape
    shortest = min(MIN_FRAMES, frames // max(1, count))
    gaps = np.concatenate([[0], np.cumsum(gap)])
    best = gaps  # (F + 1,): the highest score of all before each frame
    ways = []
    for row in scores:
        sums = np.concatenate([[0], np.cumsum(row)])
        starts = best - sums
        ends = np.full(frames + 1, -np.inf)
        ends[shortest:] = np.maximum.accumulate(starts)[: frames + 1 - shortest] + sums[shortest:] - gaps[shortest:]
        best = np.maximum.accumulate(ends) + gaps
        ways.append((starts, ends))
    found = np.zeros((count, 2), dtype=int)
    stop = frames
    for index in range(count - 1, -1, -1):
        starts, ends = ways[index]
        end = int(np.argmax(ends[: stop + 1]))
        stop = int(np.argmax(starts[: end - shortest + 1]))
        found[index] = stop, end
    return found

"""Calibration of probabilities: of the words and tags given a probability of 0.8, are eight in ten right?

A word is right where it is aligned with an equal word of the reference, a tag by its place (`tag_positions`); a
delivery that overlaps in part counts by its share.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from evoxtral import tags
from evoxtral.metrics.scores import comparable
from evoxtral.metrics.tag_positions import right_one_by_one

WORDS = "words"
BINS = 10  # of equal width
BLOCK = 2_000_000  # clips x resamples that are drawn at once


@dataclass(frozen=True)
class Judged:
    """A word or tag that was written: `words` or its tag's category, its probability, and how right it is."""

    group: str
    probability: float
    right: float


@dataclass(frozen=True)
class Reliability:
    """How probabilities compare with what was right.

    n: words or tags.  probability, right: their means.  error: expected calibration error.  low, high: its 95 %
    bootstrap interval over clips.  bins: those that are not empty, each (n, mean probability, share right).
    """

    n: int
    probability: float
    right: float
    error: float
    low: float
    high: float
    bins: tuple[tuple[int, float, float], ...]


def judge(prediction: str, probabilities: Sequence[float | None], reference: str) -> list[Judged]:
    """Every word and tag of a prediction. probabilities: of each in order, as `transcript.words` has them.

    One without a probability is left out. Raises ValueError where there are not as many as words and tags.
    """
    found = right_one_by_one(comparable(prediction), comparable(reference))
    return [
        Judged(tags.category(text[1:-1]) if text[0] == "[" else WORDS, probability, right)
        for (text, right), probability in zip(found, probabilities, strict=True)
        if probability is not None
    ]


def reliability(clips: Sequence[Iterable[Judged]], resamples: int = 2000, seed: int = 0) -> dict[str, Reliability]:
    """Of each group that any clip has. Expected calibration error: Naeini, Cooper and Hauskrecht, AAAI 2015.

    clips: what `judge` gives of each. resamples: of the bootstrap over clips.
    """
    by_group: defaultdict[str, list[list[tuple[float, float]]]] = defaultdict(lambda: [[] for _ in clips])
    for number, clip in enumerate(clips):
        for one in clip:
            by_group[one.group][number].append((one.probability, one.right))
    return {group: _reliability(found, resamples, seed) for group, found in sorted(by_group.items())}


def _reliability(clips: Sequence[Sequence[tuple[float, float]]], resamples: int, seed: int) -> Reliability:
    sums = np.zeros((len(clips), 3, BINS))  # of each clip and bin: how many, their probabilities, how right they are
    for row, clip in zip(sums, clips, strict=True):
        for probability, right in clip:
            row[:, min(BINS - 1, int(probability * BINS))] += 1, probability, right
    sums = sums[sums[:, 0].any(axis=1)]
    n, probability, right = total = sums.sum(axis=0)
    errors = []
    rng = np.random.default_rng(seed)
    block = max(1, BLOCK // len(sums))
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=size).astype(float)
        errors.append(_error((drawn @ sums.reshape(len(sums), -1)).reshape(-1, 3, BINS)))
    low, high = np.percentile(np.concatenate(errors), (2.5, 97.5))
    some = np.flatnonzero(n)
    return Reliability(
        n=int(n.sum()),
        probability=float(probability.sum() / n.sum()),
        right=float(right.sum() / n.sum()),
        error=float(_error(total[None])[0]),
        low=float(low),
        high=float(high),
        bins=tuple((int(n[b]), float(probability[b] / n[b]), float(right[b] / n[b])) for b in some),
    )


def _error(sums: np.ndarray) -> np.ndarray:
    """Expected calibration errors (...,) of sums (..., 3, bins): |mean probability - share right|, by bins' sizes."""
    return np.abs(sums[..., 1, :] - sums[..., 2, :]).sum(axis=-1) / sums[..., 0, :].sum(axis=-1)

"""Precision and recall over the confidence of tags."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from evoxtral import tags
from evoxtral.metrics.scores import Overlap, comparable


@dataclass(frozen=True)
class CurvePoint:
    """Pooled tag scores when only tags of at least this probability are kept; `kept` is their number."""

    threshold: float
    precision: float
    recall: float
    f1: float
    kept: int


def pr_curve(items: Iterable[tuple[Sequence[tuple[str, float]], str]], points: int = 101) -> list[CurvePoint]:
    """Precision and recall over the confidence threshold, from the strictest to none at all.

    items: per clip, the predicted tags as (name, probability), and the tagged reference.
    points: at most as many, evenly spaced over the distinct probabilities.
    """
    judged: list[tuple[float, bool]] = []
    support = 0
    for predicted, reference in items:
        remaining = Counter(tags.names(comparable(reference)))
        support += remaining.total()
        # A threshold keeps the surest tags first, and of each name as many are right as the reference has.
        for name, probability in sorted(predicted, key=lambda tag: -tag[1]):
            name = comparable(name)
            judged.append((probability, remaining[name] > 0))
            remaining[name] -= 1
    if not judged:
        return []
    probabilities, correct = np.array(sorted(judged, reverse=True)).T
    common = correct.cumsum().astype(int)
    last_of_equals = np.flatnonzero(np.append(np.diff(probabilities) < 0, True))
    picked = np.unique(np.linspace(0, len(last_of_equals) - 1, points).round().astype(int))
    curve = []
    for index in last_of_equals[picked].tolist():
        kept = Overlap(int(common[index]), predicted=index + 1, reference=support)
        threshold = float(probabilities[index])
        curve.append(CurvePoint(threshold, kept.precision, kept.recall, kept.f1, kept.predicted))
    return curve

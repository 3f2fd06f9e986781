"""Evoxtral-Bench: how well a tagged transcript matches its reference.

`scores` has the counts and scores, `tag_positions` matches tags by position, `english` is Whisper's normaliser,
`bootstrap` gives intervals and differences, `curve` precision and recall over confidence, `reliability` whether
probabilities are true, and `pairs` reads files.
"""

from evoxtral.metrics.bootstrap import RESAMPLES, Difference, Interval, compare, intervals, summary
from evoxtral.metrics.curve import CurvePoint, pr_curve
from evoxtral.metrics.pairs import PAIR, Pair, parse_pairs
from evoxtral.metrics.scores import (
    FURTHER,
    METRICS,
    POOLS,
    ClipCounts,
    Edits,
    Metric,
    Overlap,
    Report,
    Scores,
    TagScore,
    count,
    reward,
    score,
)

__all__ = [
    "FURTHER", "METRICS", "PAIR", "POOLS", "RESAMPLES", "ClipCounts", "CurvePoint", "Difference", "Edits", "Interval",
    "Metric", "Overlap", "Pair", "Report", "Scores", "TagScore", "compare", "count", "intervals", "parse_pairs",
    "pr_curve", "reward", "score", "summary",
]  # fmt: skip

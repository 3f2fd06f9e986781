"""Bootstrap over clips: intervals of scores, and paired differences of two systems."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from evoxtral.errors import EvoxtralError
from evoxtral.metrics import english
from evoxtral.metrics.scores import FURTHER, POOLS, ClipCounts, Report, value_of

# With this many, another seed moves the ends of a bootstrap interval by a few hundredths of its width.
RESAMPLES = 2000
# Clips × resamples that are drawn at once: 16 MB of weights.
RESAMPLE_BLOCK = 2_000_000


@dataclass(frozen=True)
class Interval:
    """A score and the ends of its 95 % percentile bootstrap interval over clips."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference(Interval):
    """`after` − `before` with its 95 % interval, and the two-sided p-value that there is no difference."""

    p: float


def intervals(
    report: Report, by_tag: bool = False, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Interval | None]:
    """95 % intervals of `report.terms`, or of each tag's F1: how far other clips of the kind could move them.

    None where the score itself is undefined. Source: Bisani and Ney, "Bootstrap estimates for confidence
    intervals in ASR performance evaluation", ICASSP 2004.
    """
    terms = report.tag_terms if by_tag else report.terms
    drawn = _resample(terms.values(), resamples, seed)
    return {
        name: None if (value := value_of(term)) is None else Interval(value, *_ends(scores))
        for (name, term), scores in zip(terms.items(), drawn, strict=True)
    }


def compare(
    before: Report, after: Report, by_tag: bool = False, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Difference | None]:
    """Paired bootstrap of two systems on the same clips in the same order, for every score that both have.

    Both are scored on each resample, so that what makes a clip hard for both cancels out. Raises
    EvoxtralError when the reports are not of the same references. Source: Koehn, "Statistical significance
    tests for machine translation evaluation", EMNLP 2004.
    """
    if [_reference(clip) for clip in before.clips] != [_reference(clip) for clip in after.clips]:
        raise EvoxtralError("The two systems were scored on different clips; score both on the same list.")
    first, second = (report.tag_terms if by_tag else report.terms for report in (before, after))
    names = [name for name in first if name in second]
    drawn = _resample([first[name] for name in names] + [second[name] for name in names], resamples, seed)
    differences = {}
    for name, old, new in zip(names, drawn[: len(names)], drawn[len(names) :], strict=True):
        was, now = value_of(first[name]), value_of(second[name])
        both = was is not None and now is not None
        differences[name] = Difference(now - was, *_ends(new - old), _p_value(new - old)) if both else None
    return differences


def summary(report: Report, resamples: int = RESAMPLES, seed: int = 0) -> dict:
    """Every figure of a report with its 95 % interval, in JSON's types: what `python -m evoxtral score --json`
    prints and results files hold.
    """
    found = {name: i for name, i in intervals(report, resamples=resamples, seed=seed).items() if i}
    by_tag = {name: i for name, i in intervals(report, True, resamples, seed).items() if i}
    further = {metric.name: found[metric.name].value for metric in FURTHER if metric.name in found}
    return (
        report.to_dict()
        | further
        | {
            "corpus_wer": report.corpus_wer,
            "pooled": {name: found[name].value for name in POOLS if name in found},
            "reward": sum(clip.reward for clip in report.clips) / len(report.clips),
            "intervals": {name: [i.low, i.high] for name, i in found.items()},
            "tag_intervals": {name: [i.low, i.high] for name, i in by_tag.items()},
        }
        | ({"normaliser": english.version()} if report.normalised else {})
    )


def _reference(clip: ClipCounts) -> tuple:
    """The counts that depend on a clip's reference alone."""
    expected = {name: overlap.reference for name, overlap in clip.by_tag.items() if overlap.reference}
    return clip.words.length, clip.characters.length, clip.emphasis.reference, expected


def _ratio(numerators: np.ndarray, denominators: np.ndarray) -> np.ndarray:
    """Elementwise; NaN where nothing counts."""
    undefined = np.full(denominators.shape, np.nan)
    return np.divide(numerators, denominators, out=undefined, where=denominators > 0)


def _resample(terms: Collection[np.ndarray], resamples: int, seed: int) -> np.ndarray:
    """Scores (K, resamples) of K terms: each resample draws n of the n clips, with replacement."""
    if not terms:
        return np.empty((0, resamples))
    numerators, denominators = np.stack(list(terms), axis=-1).astype(float)  # (n, K) each
    rng = np.random.default_rng(seed)
    n = len(numerators)
    block = max(1, RESAMPLE_BLOCK // n)
    scores = []
    for start in range(0, resamples, block):
        drawn = rng.multinomial(n, np.full(n, 1 / n), size=min(block, resamples - start)).astype(float)
        scores.append(_ratio(drawn @ numerators, drawn @ denominators))
    return np.vstack(scores).T


def _ends(drawn: np.ndarray) -> tuple[float, float]:
    """The middle 95 %, of the resamples in which the score is defined."""
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def _p_value(differences: np.ndarray) -> float:
    """Two-sided p-value, from the resamples on the other side of zero; never 0, as resampling cannot show that."""
    defined = differences[~np.isnan(differences)]
    beyond = min((defined <= 0).sum(), (defined >= 0).sum())
    return min(1.0, 2 * (int(beyond) + 1) / (len(defined) + 1))

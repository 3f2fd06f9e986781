"""Evoxtral-Bench: how well a tagged transcript matches its reference. Counts first, scores derived from them.

A pair is `(prediction, reference)`, both tagged text. `parse_pairs` reads a JSONL file of them, `count` turns a
pair into counts, `score` turns pairs into a `Report`, `summary` a report into the JSON of results files. The seven
published scores are means over clips (`METRICS` defines each); what such means hide is here too: corpus error
rates, F1 over pooled counts, bootstrap intervals.
"""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import jiwer
import numpy as np

from evoxtral import tags
from evoxtral.errors import EvoxtralError

Pair = tuple[str, str]
PAIR = '{"prediction": "…", "reference": "…"}'  # how a line of a JSONL file holds one
# A score is a ratio of two sums over clips. Its term, (2, n), holds each clip's share of the numerator and of
# the denominator: in a mean over clips the denominators are ones (zero for a clip that does not count), in a
# pooled score counts. So a bootstrap only reweights clips, and one matrix product scores every resample.
Terms = dict[str, np.ndarray]

HALF_PAIR = re.compile("[\ud800-\udfff]")
# With this many, another seed moves the ends of a bootstrap interval by a few hundredths of its width.
RESAMPLES = 2000
# Clips × resamples that are drawn at once: 16 MB of weights.
RESAMPLE_BLOCK = 2_000_000

# The RAFT reward of the published recipe.
REWARD_WORDS, REWARD_TAGS, REWARD_HONESTY = 0.4, 0.4, 0.2

# Pools of tag categories that are reported next to the mean Tag F1: what is heard at one moment, and how a
# stretch of speech is said.
POOLS: Mapping[str, tuple[str, ...]] = {
    "sound_pause_f1": ("non-verbal", "pause"),
    "delivery_emotion_f1": ("delivery", "emotion"),
}


@dataclass(frozen=True)
class Metric:
    """A published score: its key, its label and what it is in one clip; the score is the mean over clips."""

    name: str
    label: str
    higher_is_better: bool
    definition: str


_BOTH_EMPTY = "1 where neither text has any, 0 where only one has"
_WER = "errors per {0} of the reference, in plain text (no tags, no emphasis; case and punctuation count)"
_INVENTED = "Share of the predicted tags whose type the reference does not have"
METRICS = (
    Metric("wer", "WER", False, "Word " + _WER.format("word")),
    Metric("cer", "CER", False, "Character " + _WER.format("character")),
    Metric("tag_f1", "Tag F1", True, f"2PR / (P + R) of the tags, wherever they stand; {_BOTH_EMPTY}"),
    Metric("tag_precision", "Tag precision", True, f"Share of predicted tags that are right; {_BOTH_EMPTY}"),
    Metric("tag_recall", "Tag recall", True, f"Share of the reference's tags that were found; {_BOTH_EMPTY}"),
    Metric("emphasis_f1", "Emphasis F1", True, f"Tag F1's formula, for the words in capitals; {_BOTH_EMPTY}"),
    Metric("tag_hallucination", "Tag hallucination", False, _INVENTED),
)


@dataclass(frozen=True)
class Edits:
    """Substitutions, deletions and insertions against a reference of `length` words or characters."""

    errors: int
    length: int

    @property
    def rate(self) -> float:
        """Error rate; may exceed 1. Against an empty reference, used by `reward` only, any error is 1."""
        return self.errors / self.length if self.length else float(self.errors > 0)


@dataclass(frozen=True)
class Overlap:
    """Two multisets: how many were predicted, how many are in the reference, how many are in both."""

    common: int = 0
    predicted: int = 0
    reference: int = 0

    @property
    def precision(self) -> float:
        return self.common / self.predicted if self.predicted else float(not self.reference)

    @property
    def recall(self) -> float:
        return self.common / self.reference if self.reference else float(not self.predicted)

    @property
    def f1(self) -> float:
        # 2PR / (P + R), with P and R written out; it covers P + R = 0 as well.
        total = self.predicted + self.reference
        return 2 * self.common / total if total else 1.0

    def __add__(self, other: "Overlap") -> "Overlap":
        return Overlap(self.common + other.common, self.predicted + other.predicted, self.reference + other.reference)


@dataclass(frozen=True)
class TagScore:
    """Scores over pooled counts; `support` is the number of occurrences in the references."""

    precision: float
    recall: float
    f1: float
    support: int

    @classmethod
    def of(cls, overlap: Overlap) -> "TagScore":
        return cls(overlap.precision, overlap.recall, overlap.f1, support=overlap.reference)


@dataclass(frozen=True)
class ClipCounts:
    """Everything that the scores need to know about one clip. `by_tag` has each tag that either text has."""

    words: Edits
    characters: Edits
    emphasis: Overlap
    by_tag: Mapping[str, Overlap]

    @property
    def tags(self) -> Overlap:
        return sum(self.by_tag.values(), Overlap())

    @property
    def grouped(self) -> Overlap:
        """The tags again, a synonym as good as the name: `[chuckles]` for `[laughs]` counts as right."""
        counts: dict[str, Overlap] = {}
        for name, overlap in self.by_tag.items():
            group = tags.group(name)
            counts[group] = counts.get(group, Overlap()) + overlap
        return sum((replace(c, common=min(c.predicted, c.reference)) for c in counts.values()), Overlap())

    @property
    def hallucination(self) -> float:
        """Share of the predicted tags whose type is not in the reference; 0 when nothing was predicted."""
        invented = sum(overlap.predicted for overlap in self.by_tag.values() if not overlap.reference)
        return invented / self.tags.predicted if invented else 0.0

    @property
    def reward(self) -> float:
        """0.4·max(0, 1 − WER) + 0.4·Tag F1 + 0.2·(1 − hallucination), in [0, 1]."""
        return (
            REWARD_WORDS * max(0.0, 1.0 - self.words.rate)
            + REWARD_TAGS * self.tags.f1
            + REWARD_HONESTY * (1.0 - self.hallucination)
        )


def count(prediction: str, reference: str) -> ClipCounts:
    """Compare two tagged texts.

    Emphasis is counted outside tags, in the text that WER is computed on: `[LAUGHS]` is a tag and not a
    stressed word. For tags in lower case, as the published ones are, it makes no difference.
    """
    prediction, reference = _comparable(prediction), _comparable(reference)
    hypothesis, truth = tags.plain(prediction), tags.plain(reference)
    words = jiwer.process_words(truth, hypothesis)
    characters = jiwer.process_characters(truth, hypothesis)
    predicted, expected = Counter(tags.names(prediction)), Counter(tags.names(reference))
    stressed, to_stress = Counter(tags.emphasised(prediction)), Counter(tags.emphasised(reference))
    return ClipCounts(
        words=_edits(words),
        characters=_edits(characters),
        emphasis=Overlap((stressed & to_stress).total(), stressed.total(), to_stress.total()),
        by_tag={
            name: Overlap(min(predicted[name], expected[name]), predicted[name], expected[name])
            for name in predicted | expected
        },
    )


def _comparable(text: str) -> str:
    """Text in NFC, with one space wherever there is white space of any kind.

    A letter is compared as itself, however it is composed, and a line break divides words as a space does: jiwer
    divides at spaces alone.
    """
    return " ".join(unicodedata.normalize("NFC", text).split())


def reward(prediction: str, reference: str) -> float:
    """The RAFT reward of one completion (see `ClipCounts.reward`)."""
    return count(prediction, reference).reward


@dataclass(frozen=True)
class Scores:
    """The published scores as fractions of 1; WER and CER are None when no reference has words."""

    n: int
    wer: float | None
    cer: float | None
    tag_precision: float
    tag_recall: float
    tag_f1: float
    emphasis_f1: float
    tag_hallucination: float


@dataclass(frozen=True)
class Report:
    """The scores of one system on n clips."""

    clips: tuple[ClipCounts, ...]

    @cached_property
    def scores(self) -> Scores:
        return Scores(len(self.clips), **{metric.name: _value(self.terms[metric.name]) for metric in METRICS})

    @cached_property
    def per_tag(self) -> dict[str, TagScore]:
        """Pooled scores of every tag that a prediction or a reference has, the most frequent first."""
        return {name: TagScore.of(overlap) for name, overlap in self._pooled_by_tag.items()}

    @property
    def corpus_wer(self) -> float | None:
        """All word errors over all reference words: long clips weigh more than in the mean of clip WERs."""
        return _value(self.terms["corpus_wer"])

    def pooled(self, names: Collection[str] = (), categories: Collection[str] = ()) -> TagScore:
        """Scores over the counts of several tags together: those named and those of the categories."""
        chosen = [
            overlap
            for name, overlap in self._pooled_by_tag.items()
            if name in names or tags.category(name) in categories
        ]
        return TagScore.of(sum(chosen, Overlap()))

    @cached_property
    def terms(self) -> Terms:
        """Of the seven scores, `corpus_wer`, `corpus_cer`, `pooled_tag_f1`, `grouped_tag_f1` and `POOLS`; for the
        bootstrap."""
        clips = self.clips
        pools = {
            pool: _pooled_f1([_of_categories(clip, categories) for clip in clips]) for pool, categories in POOLS.items()
        }
        return {
            "wer": _mean_rate([clip.words for clip in clips]),
            "cer": _mean_rate([clip.characters for clip in clips]),
            "tag_precision": _mean([clip.tags.precision for clip in clips]),
            "tag_recall": _mean([clip.tags.recall for clip in clips]),
            "tag_f1": _mean([clip.tags.f1 for clip in clips]),
            "emphasis_f1": _mean([clip.emphasis.f1 for clip in clips]),
            "tag_hallucination": _mean([clip.hallucination for clip in clips]),
            "corpus_wer": _corpus_rate([clip.words for clip in clips]),
            "corpus_cer": _corpus_rate([clip.characters for clip in clips]),
            "pooled_tag_f1": _pooled_f1([clip.tags for clip in clips]),
            "grouped_tag_f1": _mean([clip.grouped.f1 for clip in clips]),
        } | pools

    @cached_property
    def tag_terms(self) -> Terms:
        """The pooled F1 of every tag in `per_tag`; for the bootstrap."""
        return {name: _pooled_f1([clip.by_tag.get(name, Overlap()) for clip in self.clips]) for name in self.per_tag}

    def to_dict(self) -> dict:
        """The seven scores, and every tag's."""
        per_tag = {name: asdict(tag_score) for name, tag_score in self.per_tag.items()}
        return asdict(self.scores) | {"per_tag": per_tag}

    @cached_property
    def _pooled_by_tag(self) -> dict[str, Overlap]:
        pooled: dict[str, Overlap] = {}
        for clip in self.clips:
            for name, overlap in clip.by_tag.items():
                pooled[name] = pooled.get(name, Overlap()) + overlap
        return dict(sorted(pooled.items(), key=lambda item: (-item[1].reference, item[0])))


def score(pairs: Iterable[Pair]) -> Report:
    """Score `(prediction, reference)` pairs, one per clip; raises EvoxtralError when there are none."""
    clips = tuple(count(prediction, reference) for prediction, reference in pairs)
    if not clips:
        raise EvoxtralError("There is nothing to score; give at least one prediction with its reference.")
    return Report(clips)


def parse_pairs(content: bytes, name: str) -> list[Pair]:
    """(prediction, reference) of each line of a JSONL file; empty lines are passed over.

    name: what the file is called. Raises EvoxtralError, which says which line is wrong and how.
    """
    try:
        lines = content.decode("utf-8-sig").split("\n")  # str.splitlines would split at U+2028, which JSON allows
    except UnicodeDecodeError:
        raise EvoxtralError(f"{name} is not UTF-8 text: save it as JSON lines in UTF-8.") from None
    pairs = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            pair = _parse_pair(line)
            if isinstance(pair, str):
                raise EvoxtralError(f"{name}, line {number} {pair}: each line should be {PAIR}.")
            pairs.append(pair)
    if not pairs:
        raise EvoxtralError(f"{name} has no lines; each should be {PAIR}.")
    return pairs


def _parse_pair(line: str) -> Pair | str:
    """The pair, or what is wrong with the line."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):  # the decoder's own words are about the inside of the line
        return "is not JSON"
    if not isinstance(found, dict):
        return "is not a JSON object"
    for key in ("prediction", "reference"):
        if key not in found:
            return f'has no "{key}"'
        if not isinstance(found[key], str):
            return f'has a "{key}" that is not text'
        if HALF_PAIR.search(found[key]):  # no file and no page can hold it
            return f'has half a surrogate pair in its "{key}"'
    return found["prediction"], found["reference"]


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
        name: None if (value := _value(term)) is None else Interval(value, *_ends(scores))
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
        was, now = _value(first[name]), _value(second[name])
        both = was is not None and now is not None
        differences[name] = Difference(now - was, *_ends(new - old), _p_value(new - old)) if both else None
    return differences


def summary(report: Report, resamples: int = RESAMPLES, seed: int = 0) -> dict:
    """Every figure of a report with its 95 % interval, in JSON's types: what `python -m evoxtral score --json`
    prints and results files hold.
    """
    found = {name: i for name, i in intervals(report, resamples=resamples, seed=seed).items() if i}
    by_tag = {name: i for name, i in intervals(report, True, resamples, seed).items() if i}
    return report.to_dict() | {
        "corpus_wer": report.corpus_wer,
        "grouped_tag_f1": found["grouped_tag_f1"].value,
        "pooled": {name: found[name].value for name in POOLS if name in found},
        "reward": sum(clip.reward for clip in report.clips) / len(report.clips),
        "intervals": {name: [i.low, i.high] for name, i in found.items()},
        "tag_intervals": {name: [i.low, i.high] for name, i in by_tag.items()},
    }


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
        remaining = Counter(tags.names(_comparable(reference)))
        support += remaining.total()
        # A threshold keeps the surest tags first, and of each name as many are right as the reference has.
        for name, probability in sorted(predicted, key=lambda tag: -tag[1]):
            name = _comparable(name)
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


def _edits(alignment: jiwer.WordOutput | jiwer.CharacterOutput) -> Edits:
    missed = alignment.substitutions + alignment.deletions
    return Edits(errors=missed + alignment.insertions, length=alignment.hits + missed)


def _mean(values: Sequence[float]) -> np.ndarray:
    return np.array([values, np.ones(len(values))])


def _mean_rate(edits: Sequence[Edits]) -> np.ndarray:
    """Mean error rate of the clips whose reference is not empty."""
    return np.array([(edit.rate, 1.0) if edit.length else (0.0, 0.0) for edit in edits]).T


def _corpus_rate(edits: Sequence[Edits]) -> np.ndarray:
    """All errors over the length of all references, of the same clips."""
    return np.array([(edit.errors, edit.length) if edit.length else (0, 0) for edit in edits]).T


def _pooled_f1(overlaps: Sequence[Overlap]) -> np.ndarray:
    return np.array([(2 * overlap.common, overlap.predicted + overlap.reference) for overlap in overlaps]).T


def _of_categories(clip: ClipCounts, categories: Collection[str]) -> Overlap:
    chosen = (overlap for name, overlap in clip.by_tag.items() if tags.category(name) in categories)
    return sum(chosen, Overlap())


def _reference(clip: ClipCounts) -> tuple:
    """What the counts tell of a clip's reference."""
    expected = {name: overlap.reference for name, overlap in clip.by_tag.items() if overlap.reference}
    return clip.words.length, clip.characters.length, clip.emphasis.reference, expected


def _ratio(numerators: np.ndarray, denominators: np.ndarray) -> np.ndarray:
    """Elementwise; NaN where nothing counts."""
    undefined = np.full(denominators.shape, np.nan)
    return np.divide(numerators, denominators, out=undefined, where=denominators > 0)


def _value(term: np.ndarray) -> float | None:
    """The score; None where no clip counts (a WER without a single reference word)."""
    numerator, denominator = term.sum(axis=1).tolist()
    return numerator / denominator if denominator else None


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
    """Two-sided, from the resamples on the far side of zero; never 0, which no resampling can prove."""
    defined = differences[~np.isnan(differences)]
    beyond = min((defined <= 0).sum(), (defined >= 0).sum())
    return min(1.0, 2 * (int(beyond) + 1) / (len(defined) + 1))

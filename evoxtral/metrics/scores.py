"""Evoxtral-Bench: how well a tagged transcript matches its reference. Counts first, scores derived from them.

A pair is `(prediction, reference)`, both tagged text. `count` turns a pair into counts, `score` turns pairs into a
`Report`. The seven published scores are means over clips (`METRICS` defines each); other aggregates are here too
(`FURTHER`): corpus error rates, F1 over pooled counts, of tagged clips alone, and by place.
"""

import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import jiwer
import numpy as np

from evoxtral import tags
from evoxtral.errors import EvoxtralError
from evoxtral.metrics import english
from evoxtral.metrics.pairs import Pair
from evoxtral.metrics.tag_positions import places, right_tags

# A score is a ratio of two sums over clips. Its term, (2, n), holds each clip's share of the numerator and of
# the denominator: in a mean over clips the denominators are ones (zero for a clip that does not count), in a
# pooled score counts. So a bootstrap only reweights clips, and one matrix product scores every resample.
Terms = dict[str, np.ndarray]

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
    """A score: its key, its label and what it is; for `METRICS` in one clip, and the score is the mean over clips."""

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
_TAGGED = "the mean over clips whose reference has tags"
_PLACED = (
    "Tag F1 where a tag is right only in its place: words are aligned first, a sound must stand in the same slot "
    "between aligned words, a delivery counts by the share of words that it covers in both texts"
)
_NORMALISED = "word errors after Whisper's English normaliser, tags taken out before"
FURTHER = (
    Metric("corpus_wer", "Corpus WER", False, "All word errors over all words of the references"),
    Metric("corpus_cer", "Corpus CER", False, "All character errors over all characters of the references"),
    Metric("normalised_wer", "Normalised WER", False, f"Mean over clips of {_NORMALISED}"),
    Metric("normalised_corpus_wer", "Normalised corpus WER", False, f"All {_NORMALISED}, over all words"),
    Metric("tagged_tag_f1", "Tag F1, tagged clips", True, f"Tag F1, {_TAGGED}"),
    Metric("pooled_tag_f1", "Tag F1, pooled", True, "2PR / (P + R) of the tags of all clips together"),
    Metric("grouped_tag_f1", "Tag F1, synonyms", True, "Tag F1 where a synonym is as good as the name"),
    Metric("placed_tag_f1", "Tag F1 by place", True, f"{_PLACED}; {_BOTH_EMPTY}"),
    Metric("tagged_placed_tag_f1", "Tag F1 by place, tagged clips", True, f"{_PLACED}; {_TAGGED}"),
    Metric("near_placed_tag_f1", "Tag F1 by place ± 1 word, tagged clips", True, f"{_PLACED}, one word off or not; "
           f"{_TAGGED}"),
    Metric("pooled_placed_tag_f1", "Tag F1 by place, pooled", True, f"{_PLACED}; the tags of all clips together"),
    Metric("wesr_f1", "Tag F1 as WESR-Bench counts", True, "2PR / (P + R) over the places of all clips together: a "
           "sound is at a slot between aligned words, a delivery at each word that it covers, each place counts once"),
    Metric("plain_tagged", "Plain clips that got a tag", False, "Share of the clips whose reference has no tag to which"
           " a tag was given"),
)  # fmt: skip


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

    common: float = 0  # a whole number, but for stretches that overlap in part
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
    """The counts of one clip, from which all scores are computed. `by_tag` has each tag of either text.

    right, nearly: how many tags of each name are in their place, exactly and within one word; see `tag_positions`.
    places: of all tags, as WESR-Bench counts them; see `tag_positions.places`.
    """

    words: Edits
    characters: Edits
    emphasis: Overlap
    by_tag: Mapping[str, Overlap]
    right: Mapping[str, float]
    nearly: Mapping[str, float]
    places: Overlap

    @property
    def tags(self) -> Overlap:
        return sum(self.by_tag.values(), Overlap())

    @property
    def placed(self) -> Overlap:
        """The tags again, right only in their place."""
        return replace(self.tags, common=sum(self.right.values()))

    @property
    def nearly_placed(self) -> Overlap:
        """The tags again, right in their place or one word beside it."""
        return replace(self.tags, common=sum(self.nearly.values()))

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
    prediction, reference = comparable(prediction), comparable(reference)
    hypothesis, truth = tags.plain(prediction), tags.plain(reference)
    words = jiwer.process_words(truth, hypothesis)
    characters = jiwer.process_characters(truth, hypothesis)
    predicted, expected = Counter(tags.names(prediction)), Counter(tags.names(reference))
    stressed, to_stress = Counter(tags.emphasised(prediction)), Counter(tags.emphasised(reference))
    right, nearly = right_tags(prediction, reference, tolerances=(0, 1))
    return ClipCounts(
        words=_edits(words),
        characters=_edits(characters),
        emphasis=Overlap((stressed & to_stress).total(), stressed.total(), to_stress.total()),
        by_tag={
            name: Overlap(min(predicted[name], expected[name]), predicted[name], expected[name])
            for name in predicted | expected
        },
        right=right,
        nearly=nearly,
        places=sum((Overlap(*counts) for counts in places(prediction, reference).values()), Overlap()),
    )


def comparable(text: str) -> str:
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
    """The scores of one system on n clips. normalised: word errors of each after Whisper's normaliser, if asked for."""

    clips: tuple[ClipCounts, ...]
    normalised: tuple[Edits, ...] = ()

    @cached_property
    def scores(self) -> Scores:
        return Scores(len(self.clips), **{metric.name: value_of(self.terms[metric.name]) for metric in METRICS})

    @cached_property
    def per_tag(self) -> dict[str, TagScore]:
        """Pooled scores of every tag that a prediction or a reference has, the most frequent first."""
        return {name: TagScore.of(overlap) for name, overlap in self._pooled_by_tag.items()}

    @property
    def corpus_wer(self) -> float | None:
        """All word errors over all reference words: long clips weigh more than in the mean of clip WERs."""
        return value_of(self.terms["corpus_wer"])

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
        """Of `METRICS`, `FURTHER` and `POOLS`; for the bootstrap."""
        clips = self.clips
        tagged = [bool(clip.tags.reference) for clip in clips]
        pools = {
            pool: _pooled_f1([_of_categories(clip, categories) for clip in clips]) for pool, categories in POOLS.items()
        }
        terms = {
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
            "tagged_tag_f1": _mean([clip.tags.f1 for clip in clips], tagged),
            "placed_tag_f1": _mean([clip.placed.f1 for clip in clips]),
            "tagged_placed_tag_f1": _mean([clip.placed.f1 for clip in clips], tagged),
            "near_placed_tag_f1": _mean([clip.nearly_placed.f1 for clip in clips], tagged),
            "pooled_placed_tag_f1": _pooled_f1([clip.placed for clip in clips]),
            "wesr_f1": _pooled_f1([clip.places for clip in clips]),
            "plain_tagged": _mean(
                [float(clip.tags.predicted > 0) for clip in clips], [not is_tagged for is_tagged in tagged]
            ),
        }
        if self.normalised:
            terms |= {
                "normalised_wer": _mean_rate(self.normalised),
                "normalised_corpus_wer": _corpus_rate(self.normalised),
            }
        return terms | pools

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


def score(pairs: Iterable[Pair], normalised: bool = False) -> Report:
    """Score `(prediction, reference)` pairs, one per clip; raises EvoxtralError when there are none.

    normalised: whether WER after Whisper's normaliser is among the scores.
    """
    pairs = list(pairs)
    clips = tuple(count(prediction, reference) for prediction, reference in pairs)
    if not clips:
        raise EvoxtralError("There is nothing to score; give at least one prediction with its reference.")
    return Report(clips, tuple(_edits(english.align(*pair)) for pair in pairs) if normalised else ())


def _edits(alignment: jiwer.WordOutput | jiwer.CharacterOutput) -> Edits:
    missed = alignment.substitutions + alignment.deletions
    return Edits(errors=missed + alignment.insertions, length=alignment.hits + missed)


def _mean(values: Sequence[float], counted: Sequence[bool] | None = None) -> np.ndarray:
    """counted: which clips are in the mean; None for all."""
    weights = np.ones(len(values)) if counted is None else np.array(counted, float)
    return np.array([values, np.ones(len(values))]) * weights


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


def value_of(term: np.ndarray) -> float | None:
    """The score; None where no clip counts (a WER without a single reference word)."""
    numerator, denominator = term.sum(axis=1).tolist()
    return numerator / denominator if denominator else None

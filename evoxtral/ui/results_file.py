"""Results files of Evoxtral-Bench: what the report shows of them, and how figures are written."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evoxtral.metrics import FURTHER, METRICS, CurvePoint
from evoxtral.ui import view
from evoxtral.ui.charts import Series

Interval = tuple[float, float]


@dataclass(frozen=True)
class Row:
    """A metric as a row of a table. name: its key in a results file."""

    name: str
    label: str
    higher_is_better: bool
    definition: str


_MEAN = "The mean over clips."
_POOLED = (
    "2 × right / (predicted + true) of {}, over the counts of all clips together: clips without tags give no points."
)
_GROUPED = f"Tag F1 with each tag's group in its place, so that [chuckles] is right for [laughs]. {_MEAN}"
_CORPUS = "All word errors over all words of the references: long clips weigh more."
_ORDINARY = "WER on sentences that no generator of this project wrote."
ROWS = (
    *(Row(m.name, m.label, m.higher_is_better, f"{m.definition}. {_MEAN}") for m in METRICS),
    Row("sound_pause_f1", "F1 of sounds and pauses, pooled", True, _POOLED.format("non-verbal sounds and pauses")),
    Row("delivery_emotion_f1", "F1 of delivery and emotion, pooled", True, _POOLED.format("delivery and emotion")),
    Row("grouped_tag_f1", "Tag F1, synonyms alike", True, _GROUPED),
    Row("corpus_wer", "WER over all words", False, _CORPUS),
    Row("ordinary_wer", "WER on ordinary sentences", False, _ORDINARY),
    *(
        Row(m.name, m.label, m.higher_is_better, f"{m.definition}.")
        for m in FURTHER
        if m.name not in ("grouped_tag_f1", "corpus_wer")
    ),
)

# Fields of a results file that state the origin of its figures, in the order shown.
ORIGIN = {
    "model": "{}",
    "source": "{}",
    "n": "n = {}",
    "seed": "seed {}",
    "date": "{}",
    "commit": "commit {}",
}


@dataclass(frozen=True)
class System:
    """One variant's figures, as fractions, with 95 % intervals for the metrics and tags that have them."""

    scores: Mapping[str, float]
    intervals: Mapping[str, Interval]
    tag_f1: Mapping[str, float]
    tag_intervals: Mapping[str, Interval]
    support: Mapping[str, int]

    @classmethod
    def of(cls, entry: Mapping, ordinary_wer: float | None = None) -> "System":
        """entry: from `metrics.summary`, or the part of it that was published."""
        figures = {**entry, **entry.get("pooled", {}), "ordinary_wer": ordinary_wer}
        return cls(
            scores={row.name: figures[row.name] for row in ROWS if figures.get(row.name) is not None},
            intervals=_pairs(entry.get("intervals", {})),
            tag_f1={name: tag["f1"] for name, tag in entry["per_tag"].items()},
            tag_intervals=_pairs(entry.get("tag_intervals", {})),
            support={name: tag["support"] for name, tag in entry["per_tag"].items()},
        )


def _pairs(intervals: Mapping[str, Sequence[float]]) -> dict[str, Interval]:
    return {name: (low, high) for name, (low, high) in intervals.items()}


@dataclass(frozen=True)
class Difference:
    """A paired difference of two variants with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def significant(self) -> bool:
        """Whether the interval excludes zero."""
        return not self.low <= 0 <= self.high


Differences = Mapping[str, Mapping[str, Difference]]  # "rl - sft" → row or tag


def variant_series(variants: Sequence[str], name: str) -> Series:
    """How a variant is drawn in all charts: the last one, RL, has the strongest colour."""
    colour = max(0, 2 - (len(variants) - 1 - list(variants).index(name)))
    return Series(view.heading(name).title, colour, dashed=colour < 2)


@dataclass(frozen=True)
class Results:
    """A results file.

    origin: the fields of ORIGIN that are known.  unstated: those that the source does not state.  clips: number of
    clips by kind.  confidence: variant → precision-recall curve over the threshold of a tag's probability, strictest
    first.
    """

    origin: Mapping[str, object]
    systems: Mapping[str, System]
    unstated: Sequence[str] = ()
    clips: Mapping[str, int] = field(default_factory=dict)
    differences: Differences = field(default_factory=dict)
    tag_differences: Differences = field(default_factory=dict)
    confidence: Mapping[str, Sequence[CurvePoint]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "Results | None":
        """Read a file; None where it does not exist, as nothing has been measured yet."""
        if not path.is_file():
            return None
        content = json.loads(path.read_text(encoding="utf-8"))
        ordinary = content.get("ordinary_sentences", {})
        return cls(
            origin={name: content[name] for name in ORIGIN if content.get(name) is not None},
            systems={name: System.of(entry, ordinary.get(name)) for name, entry in content["variants"].items()},
            unstated=[name for name in ORIGIN if name in content and content[name] is None],
            clips=content.get("clips", {}),
            differences=_differences(content.get("differences", {})),
            tag_differences=_differences(content.get("tag_differences", {})),
            confidence={
                name: [CurvePoint(**point) for point in points]
                for name, points in content.get("confidence", {}).items()
            },
        )

    def series(self, name: str) -> Series:
        return variant_series(list(self.systems), name)

    def differ(self, one: str, other: str, row: str) -> bool:
        """Whether two variants differ significantly: by the interval of their paired difference where it is known, else
        by intervals that do not overlap, which is stricter.
        """
        for pair in (f"{one} - {other}", f"{other} - {one}"):
            if found := self.differences.get(pair, {}).get(row):
                return found.significant
        ends = [self.systems[name].intervals.get(row) for name in (one, other)]
        return all(ends) and max(low for low, _ in ends) > min(high for _, high in ends)

    @property
    def tagging_variants(self) -> list[str]:
        """The variants that get any tag right; a single variant always counts."""
        names = [name for name, system in self.systems.items() if any(system.tag_f1.values())]
        return names or [name for name, system in self.systems.items() if system.support][:1]

    def by_support(self) -> dict[str, int]:
        """Tag → number of times in the references, most frequent first."""
        support: dict[str, int] = {}
        for name in self.tagging_variants:
            support |= self.systems[name].support
        return dict(sorted(support.items(), key=lambda item: (-item[1], item[0])))


def _differences(content: Mapping) -> Differences:
    return {
        pair: {name: Difference(d["value"], d["low"], d["high"]) for name, d in rows.items()}
        for pair, rows in content.items()
    }


def origin(results: Results) -> str:
    """ "model · source · n = 400 · seed 7"; what the source leaves out is said at the end."""
    parts = _origins(results.origin)
    if results.unstated:
        parts.append(f"{_listed(results.unstated)} not stated")
    return " · ".join(parts)


def _origins(known: Mapping) -> list[str]:
    return [form.format(known[name]) for name, form in ORIGIN.items() if name in known]


def stated_origin(entry: Mapping) -> str:
    """Where a training curve comes from, in brackets."""
    return f" ({', '.join(parts)})" if (parts := _origins(entry)) else ""


def _listed(names: Sequence[str]) -> str:
    """ "seed, date and commit"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def points(share: float) -> str:
    return f"{100 * share:.1f}"


def percent(share: float) -> str:
    return f"{points(share)}\u00a0%"


def signed(share: float) -> str:
    """A difference in points, with a true minus sign and no sign on what rounds to nothing."""
    points = round(100 * share, 1)
    return f"{points:+.1f}".replace("-", "−") if points else "0.0"


def pair_title(pair: str) -> str:
    return " − ".join(view.heading(variant).title for variant in pair.split(" - "))

"""Results of Evoxtral-Bench and of training as HTML: tables, charts and plain words, from files and nowhere else."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from markupsafe import Markup

from evoxtral import tags
from evoxtral.metrics import METRICS, CurvePoint
from evoxtral.ui import view
from evoxtral.ui.charts import Axis, Mark, Series, bar, change, histogram, key, plot

WITHOUT_INTERVALS = "Without intervals: they need what each clip gave."
ENOUGH = 30  # clips; the bootstrap of fewer promises too much
MOST_TAGS = 40  # in a chart; a visitor's file may have any number

Interval = tuple[float, float]


@dataclass(frozen=True)
class Row:
    """One line of a table. name: its key in a results file."""

    name: str
    label: str
    higher_is_better: bool
    definition: str


_MEAN = "The mean over clips."
_POOLED = (
    "2 × right / (predicted + true) of {}, over the counts of all clips together: clips without tags give no points."
)
_CORPUS = "All word errors over all words of the references: long clips weigh more."
_ORDINARY = "WER on sentences that no generator of this project wrote."
ROWS = (
    *(Row(m.name, m.label, m.higher_is_better, f"{m.definition}. {_MEAN}") for m in METRICS),
    Row("sound_pause_f1", "F1 of sounds and pauses, pooled", True, _POOLED.format("non-verbal sounds and pauses")),
    Row("delivery_emotion_f1", "F1 of delivery and emotion, pooled", True, _POOLED.format("delivery and emotion")),
    Row("corpus_wer", "WER over all words", False, _CORPUS),
    Row("ordinary_wer", "WER on ordinary sentences", False, _ORDINARY),
)

# Where figures come from, in the order in which it is said.
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
    """One variant's figures, as fractions. Intervals are 95 % ones, of the rows and tags for which they are known."""

    scores: Mapping[str, float]
    intervals: Mapping[str, Interval]
    tag_f1: Mapping[str, float]
    tag_intervals: Mapping[str, Interval]
    support: Mapping[str, int]

    @classmethod
    def of(cls, entry: Mapping, ordinary_wer: float | None = None) -> "System":
        """entry: what `metrics.summary` gives, or the part of it that was published."""
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
class Change:
    """A paired difference of two variants and the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether the interval leaves zero out."""
        return not self.low <= 0 <= self.high


Differences = Mapping[str, Mapping[str, Change]]  # "rl - sft" → row or tag


@dataclass(frozen=True)
class Results:
    """A results file.

    origin: of ORIGIN, what is known.  unstated: of ORIGIN, what the source does not say.  clips: how many of
    which kind.  confidence: variant → its tags over the threshold of their probability, the strictest first.
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
        """None where the file does not exist: nothing has been measured yet."""
        if not path.is_file():
            return None
        content = json.loads(path.read_text(encoding="utf-8"))
        ordinary = content.get("ordinary_sentences", {})
        return cls(
            origin={name: content[name] for name in ORIGIN if content.get(name) is not None},
            systems={name: System.of(entry, ordinary.get(name)) for name, entry in content["variants"].items()},
            unstated=[name for name in ORIGIN if name in content and content[name] is None],
            clips=content.get("clips", {}),
            differences=_changes(content.get("differences", {})),
            tag_differences=_changes(content.get("tag_differences", {})),
            confidence={
                name: [CurvePoint(**point) for point in points]
                for name, points in content.get("confidence", {}).items()
            },
        )

    def series(self, name: str) -> Series:
        """How a variant is drawn, everywhere: its place from the end gives the colour, as RL is the strongest."""
        names = list(self.systems)
        colour = max(0, 2 - (len(names) - 1 - names.index(name)))
        return Series(view.heading(name).title, colour, dashed=colour < 2)

    @property
    def tagging(self) -> list[str]:
        """The variants that get any tag right; the only one in any case."""
        names = [name for name, system in self.systems.items() if any(system.tag_f1.values())]
        return names or [name for name, system in self.systems.items() if system.support][:1]

    def by_support(self) -> dict[str, int]:
        """Every tag and how often the references have it, the most frequent first."""
        support: dict[str, int] = {}
        for name in self.tagging:
            support |= self.systems[name].support
        return dict(sorted(support.items(), key=lambda item: (-item[1], item[0])))


def _changes(content: Mapping) -> Differences:
    return {
        pair: {name: Change(d["value"], d["low"], d["high"]) for name, d in rows.items()}
        for pair, rows in content.items()
    }


def origin(results: Results) -> str:
    """ "model · source · n = 400 · seed 7"; what the source leaves out is said at the end."""
    parts = [form.format(results.origin[name]) for name, form in ORIGIN.items() if name in results.origin]
    if results.unstated:
        parts.append(f"{_listed(results.unstated)} not stated")
    return " · ".join(parts)


def _listed(names: Sequence[str]) -> str:
    """ "seed, date and commit"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _points(share: float) -> str:
    return f"{100 * share:.1f}"


def _percent(share: float) -> str:
    return f"{_points(share)}\u00a0%"


def _signed(share: float) -> str:
    """A difference in points, with a true minus sign and no sign on what rounds to nothing."""
    points = round(100 * share, 1)
    return f"{points:+.1f}".replace("-", "−") if points else "0.0"


def _pair_title(pair: str) -> str:
    return " − ".join(view.heading(variant).title for variant in pair.split(" - "))


def card(title: str, *parts: str) -> Markup:
    """A section of the page with its heading."""
    return Markup('<section class="ev-card"><h2>{}</h2>{}</section>').format(title, Markup("").join(parts))


def note(sentence: str) -> Markup:
    return Markup('<p class="ev-origin">{}</p>').format(sentence)


# ------------------------------------------------------------------------------------- tables


def _best(results: Results, row: Row) -> str | None:
    """The variant with the best figure; None where figures tie or only one is known."""
    known = {name: system.scores[row.name] for name, system in results.systems.items() if row.name in system.scores}
    best = (max if row.higher_is_better else min)(known.values(), default=None)
    names = [name for name, value in known.items() if value == best]
    return names[0] if len(names) == 1 < len(known) else None


def _cell(system: System, row: Row, best: bool) -> Markup:
    value = system.scores.get(row.name)
    if value is None:
        return Markup("<td>–</td>")
    ends = system.intervals.get(row.name)
    interval = Markup("") if ends is None else Markup("<small>{}–{}</small>").format(*map(_points, ends))
    figure = Markup("<b>{}</b>" if best else "{}").format(_points(value))
    return Markup("<td>{}{}</td>").format(figure, interval)


def _difference(found: Change | None) -> Markup:
    if found is None:
        return Markup("<td>–</td>")
    verdict = f"{_signed(found.low)} to {_signed(found.high)}" if found.clear else "within noise"
    return Markup("<td>{}<small>{}</small></td>").format(_signed(found.value), verdict)


def _metric(row: Row, where: str) -> Markup:
    """A metric's name that opens its definition, and which way is better."""
    arrow, hint = ("↑", "higher is better") if row.higher_is_better else ("↓", "lower is better")
    return Markup(
        '<button type="button" class="ev-define" popovertarget="{id}">{label}</button>'
        '\u00a0<span title="{hint}">{arrow}</span>'
        '<span popover id="{id}" class="ev-definition"><b>{label}</b> {definition} {Hint}.</span>'
    ).format(
        id=f"ev-{where}-{row.name}",
        label=row.label,
        hint=hint,
        Hint=hint.capitalize(),
        arrow=arrow,
        definition=row.definition,
    )


def _shown_rows(results: Results) -> list[Row]:
    return [row for row in ROWS if any(row.name in system.scores for system in results.systems.values())]


def table(results: Results, where: str) -> Markup:
    """Metrics by variants, in percent; the best of a row is bold; small: 95 % intervals.

    The last column is the paired difference of the last two variants, where it was measured. where: on the page,
    for ids.
    """
    last = dict(list(results.differences.items())[-1:])
    names = [view.heading(variant).title for variant in results.systems] + [_pair_title(pair) for pair in last]
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(name) for name in names)
    rows = []
    for row in _shown_rows(results):
        best = _best(results, row)
        cells = [_cell(system, row, name == best) for name, system in results.systems.items()]
        cells += [_difference(found.get(row.name)) for found in last.values()]
        rows.append(Markup('<tr><th scope="row">{}</th>{}</tr>').format(_metric(row, where), Markup("").join(cells)))
    return Markup(
        '<table class="ev-table"><thead><tr><th scope="col">%</th>{}</tr></thead><tbody>{}</tbody></table>'
    ).format(head, Markup("").join(rows))


def _chart_table(heads: Iterable[str], rows: Iterable[Markup]) -> Markup:
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(name) for name in heads)
    return Markup('<table class="ev-chart"><thead><tr>{}</tr></thead><tbody>{}</tbody></table>').format(
        head, Markup("").join(rows)
    )


def _chart_row(head: str, *cells: str | int) -> Markup:
    data = Markup("").join(Markup("<td>{}</td>").format(cell) for cell in cells)
    return Markup('<tr><th scope="row">{}</th>{}</tr>').format(head, data)


def _tag(name: str) -> Markup:
    return Markup('<span class="ev-tag ev-{}" title="{}">{}</span>').format(tags.category(name), name, name)


# ------------------------------------------------------------------------------------- charts of scores


def metric_chart(results: Results) -> Markup:
    """A bar for each metric and variant, with its 95 % interval where that is known."""
    rows = []
    for row in ROWS[: len(METRICS)]:  # the published ones, so that both charts are alike
        bars = (
            bar(
                system.scores[row.name],
                results.series(name),
                _points(system.scores[row.name]),
                system.intervals.get(row.name),
            )
            for name, system in results.systems.items()
            if row.name in system.scores
        )
        rows.append(_chart_row(row.label, Markup("").join(bars)))
    known = any(system.intervals for system in results.systems.values())
    hint = "Whiskers: 95 % bootstrap intervals over clips." if known else WITHOUT_INTERVALS
    return key(map(results.series, results.systems)) + _chart_table(("Metric", "%"), rows) + note(hint)


def tag_chart(results: Results) -> Markup:
    """F1 per tag as bars, one per variant that writes tags; tags in order of support."""
    support, shown = results.by_support(), results.tagging
    rows = []
    for tag in list(support)[:MOST_TAGS]:
        bars = (
            bar(
                results.systems[name].tag_f1[tag],
                results.series(name),
                _points(results.systems[name].tag_f1[tag]),
                results.systems[name].tag_intervals.get(tag),
            )
            for name in shown
            if tag in results.systems[name].tag_f1
        )
        rows.append(_chart_row(_tag(tag), Markup("").join(bars), support[tag]))
    more = len(support) - len(rows)
    rest = note(f"{view.counted(more, 'rarer tag')} left out here.") if more > 0 else Markup("")
    return key(map(results.series, shown)) + _chart_table(("Tag", "F1, %", "Support"), rows) + rest


def change_chart(results: Results) -> Markup | None:
    """How each tag's F1 changed from the last variant but one to the last; None with fewer than two."""
    if len(results.tagging) < 2:
        return None
    before, after = results.tagging[-2:]
    pair = f"{after} - {before}"
    measured = results.tag_differences.get(pair, {})
    support = results.by_support()
    values = {
        tag: results.systems[after].tag_f1[tag] - results.systems[before].tag_f1[tag]
        for tag in support
        if tag in results.systems[before].tag_f1 and tag in results.systems[after].tag_f1
    }
    reach = max((abs(end) for tag, value in values.items() for end in _ends(measured.get(tag), value)), default=0.0)
    rows = [
        _chart_row(
            _tag(tag),
            change(value, max(reach, 0.1), _ends(measured.get(tag)) or None),
            Markup("{}{}").format(*_figures(value, measured.get(tag))),
            support[tag],
        )
        for tag, value in values.items()
    ]
    table = _chart_table(("Tag", f"F1, {_pair_title(pair)}", "Points", "Support"), rows)
    if not measured:
        return table + note(f"{WITHOUT_INTERVALS} A rare tag jumps with a single clip.")
    clear = sum(found.clear for found in measured.values())
    return table + note(
        f"Whiskers: paired 95 % bootstrap intervals. Filled: the interval leaves zero out, as for {clear} of"
        f" {view.counted(len(measured), 'tag')}; one in twenty would by chance."
    )


def _ends(found: Change | None, *more: float) -> tuple[float, ...]:
    return (*more, *((found.low, found.high) if found else ()))


def _figures(value: float, found: Change | None) -> tuple[Markup, Markup]:
    if found is None:
        return Markup("{}").format(_signed(value)), Markup("")
    figure = Markup("<b>{}</b>" if found.clear else "{}").format(_signed(value))
    return figure, Markup("<small>{} to {}</small>").format(_signed(found.low), _signed(found.high))


def confidence_chart(results: Results) -> Markup:
    """Precision over recall as the threshold on a tag's probability falls; ringed: the page's default."""
    lines, marks, words = [], [], []
    for name, points in results.confidence.items():
        series = results.series(name)
        lines.append((series, [(100 * point.recall, 100 * point.precision) for point in points]))
        usual = [point for point in points if point.threshold >= view.EVERYTHING.min_probability][-1]
        best = max(points, key=lambda point: point.f1)
        marks.append(Mark(100 * usual.recall, 100 * usual.precision, f"{series.name}, every tag shown", series))
        words.append(
            f"{series.name}: every tag shown, {_percent(usual.precision)} of {usual.kept:,} tags are right and"
            f" {_percent(usual.recall)} are found. F1 is highest ({_percent(best.f1)}, here {_percent(usual.f1)})"
            f" with tags that are at least {view.percent(best.threshold)} sure: {_percent(best.precision)} right,"
            f" {_percent(best.recall)} found."
        )
    precisions = [y for _, points in lines for _, y in points]
    picture = plot(
        "Precision over recall. " + " ".join(words),
        Axis("Recall, %", 0, 100, [(value, str(value)) for value in range(0, 101, 20)]),
        Axis.around("Precision, %", precisions),
        lines,
        marks,
    )
    sentences = Markup("").join(Markup("<li>{}</li>").format(sentence) for sentence in words)
    return (
        note("What the slider of the Compare tab trades. Rings: its default, every tag shown.")
        + key((series for series, _ in lines), lines=True)
        + Markup('<div class="ev-halves">{}<ul>{}</ul></div>').format(picture, sentences)
    )


# ------------------------------------------------------------------------------------- words


def caveats(published: Results, measured: Results | None) -> Markup:
    """What the published figures hide, in plain words."""
    clips, n = published.clips, published.origin["n"]
    gain = published.systems["rl"].scores["tag_f1"] - published.systems["sft"].scores["tag_f1"]
    sentences = (
        f"{clips['untagged']} of the {n} published clips have no tags, and give a system that never writes one full"
        f" marks: that alone is a Tag F1 of {view.percent(clips['untagged'] / n)}.",
        "Tag F1 ignores where a tag stands: only its name and how often it comes count.",
        f"WER is a mean over clips: short clips weigh as much as long ones.{_over_all_words(measured)}",
        f"With {n} clips and {clips['tags']} tags, the published gain of RL over SFT ({_points(gain)} points of Tag F1)"
        f" lies inside the noise{_noise(gain, n, measured)}.",
        "The two tables cannot be compared with each other: the published one is Voxtral Mini 3B on speech by"
        " ElevenLabs, the measured one is the scale model on this project's embedded voice.",
    )
    points = Markup("").join(Markup("<li>{}</li>").format(sentence) for sentence in sentences)
    return card("What these numbers hide", Markup("<ul>{}</ul>").format(points))


def _over_all_words(measured: Results | None) -> str:
    if not measured:
        return ""
    name, system = list(measured.systems.items())[-1]
    if "corpus_wer" not in system.scores:
        return ""
    mean, pooled = (_percent(system.scores[metric]) for metric in ("wer", "corpus_wer"))
    return f" Over all words together, {view.heading(name).title}'s measured {mean} is {pooled}."


def _noise(gain: float, n: int, measured: Results | None) -> str:
    """How wide the same difference is here, and would be on so few clips: widths go with the root of n."""
    found = measured and measured.differences.get("rl - sft", {}).get("tag_f1")
    if not found:
        return ""
    here = (found.high - found.low) / 2
    there = here * math.sqrt(measured.origin["n"] / n)
    if there <= gain:
        return ""
    return (
        f": on the {measured.origin['n']} clips measured here the same difference is known to ±{_points(here)},"
        f" which {n} clips would make ±{_points(there)}"
    )


# ------------------------------------------------------------------------------------- training

STAGES = {
    "pretrain": "Base: pretraining",
    "sft": "SFT: fine-tuning on tagged text",
    "rl": "RL: RAFT on the best samples",
}
# What is drawn of a stage's log.
LOSSES = {
    "loss": Series("training clips", 1),
    "validation_loss": Series("validation clips", 2, dashed=True),
    "transcribe": Series("transcription", 2),
    "phonemes": Series("phonemes heard by the encoder", 1),
    "letters": Series("letters, before the phonemes", 1, dashed=True),
    "describe": Series("tags and stress", 0),
}
SAMPLED, CURATED = Series("all samples", 0), Series("learned from", 2)


def stage_chart(stage: Mapping) -> Markup:
    """The losses of one stage over its steps."""
    lines = [(series, stage["series"][name]) for name, series in LOSSES.items() if name in stage["series"]]
    steps = Axis.around("Step", [0, stage["steps"]])
    words = [f"{series.name} from {points[0][1]:.2f} to {points[-1][1]:.2f}" for series, points in lines]
    losses = Axis.around("Loss, nats", [value for _, points in lines for _, value in points], ratio=20)
    summary = f"Loss over {stage['steps']:,} steps: {'; '.join(words)}."
    about = f"{stage['steps']:,} steps in {_duration(stage['seconds'])}.{_on_validation(stage['series'].get('wer'))}"
    if len(lines) > 2:
        about += " Of several losses each has its share of the sum; in steps that it sits out it counts as 0."
    return note(about) + key((series for series, _ in lines), lines=True) + plot(summary, steps, losses, lines)


def _on_validation(wer: Sequence[tuple[int, float]] | None) -> str:
    if not wer:
        return ""
    (first, before), (last, after) = wer[0], wer[-1]
    return f" WER on validation clips: {_percent(before)} at step {first:,}, {_percent(after)} at step {last:,}."


def _duration(seconds: float) -> str:
    """4530 → "1 h 16 min"."""
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min" if minutes else f"{seconds} s"


def rewards_chart(raft: Mapping) -> Markup:
    """How the rewards of RAFT are spread, before and after curation, as shares of each."""
    bars = [
        (series, [100 * count / sum(counts) for count in counts])
        for series, counts in ((SAMPLED, raft["histogram"]["sampled"]), (CURATED, raft["histogram"]["curated"]))
    ]
    about = (
        f"{raft['samples']} samples of each of {raft['clips']:,} clips: mean reward {raft['mean_reward']:.2f}."
        f" Learned from: the best of each clip, without the lowest {raft['drop']:.0%} (below"
        f" {raft['threshold']:.2f}): {raft['kept']:,} clips, mean {raft['mean_curated_reward']:.2f}."
    )
    top = max(height for _, heights in bars for height in heights)
    picture = histogram(
        f"Distribution of rewards. {about}",
        Axis("Reward", 0, 1, [(tenth / 10, f"{tenth / 10:g}") for tenth in range(0, 11, 2)]),
        Axis.around("Share, %", [0, top]),
        bars,
    )
    return note(about) + key(series for series, _ in bars) + picture


def training(curves: Mapping) -> Markup:
    """Every stage of the run that made the scale model."""
    cards = [card(STAGES[name], stage_chart(curves["stages"][name])) for name in STAGES if name in curves["stages"]]
    cards.append(card("RAFT: rewards before and after curation", rewards_chart(curves["raft"])))
    return side_by_side(cards)


# ------------------------------------------------------------------------------------- page


def nothing_measured() -> Markup:
    return card("Measured", note("Nothing has been measured on this checkpoint yet: `make train` writes this table."))


def side_by_side(cards: Iterable[Markup]) -> Markup:
    return Markup('<div class="ev-report">{}</div>').format(Markup("").join(cards))


def stacked(*cards: Markup) -> Markup:
    return Markup('<div class="ev-stack">{}</div>').format(Markup("").join(cards))


def results_page(published: Results, measured: Results | None) -> Markup:
    """Published figures on the left, measured ones on the right, each of the same kind side by side."""
    hidden = caveats(published, measured)
    tables = [stacked(card("Published", note(origin(published)), table(published, "published")), hidden)]
    both = {"Published": published}
    if measured:
        tables.append(card("Measured", note(origin(measured)), table(measured, "measured")))
        both["Measured"] = measured
    else:
        tables.append(nothing_measured())
    rows = [tables, [card(f"{title}, per metric", metric_chart(results)) for title, results in both.items()]]
    if measured and measured.confidence:
        rows.append([card("Measured, over the confidence threshold", confidence_chart(measured))])
    rows.append([card(f"{title}, per tag", tag_chart(results)) for title, results in both.items()])
    changes = {title: change_chart(results) for title, results in both.items()}
    rows.append([card(f"{title}, what RL changed", chart) for title, chart in changes.items() if chart])
    return Markup("").join(map(side_by_side, rows))


def own_report(entry: Mapping, name: str) -> Markup:
    """The report on a visitor's file. entry: what `metrics.summary` gives."""
    results = Results({"source": name, "n": entry["n"]}, {"Score": System.of(entry)})
    content = json.dumps(entry, indent=2, allow_nan=False)
    link = view.download(
        f"{view.file_stem(name)}.scores.json",
        "application/json;charset=utf-8",
        content,
        "Download JSON",
        "Every figure with its interval, as `python -m evoxtral score --json` prints it",
    )
    few = note(f"Intervals from fewer than {ENOUGH} clips are too narrow.") if entry["n"] < ENOUGH else Markup("")
    exports = Markup('<p class="ev-exports">{}</p>').format(link)
    cards = [card("Your scores", note(origin(results)), table(results, "own"), few, exports)]
    if results.tagging:
        cards.append(card("Your scores, per tag", tag_chart(results)))
    return side_by_side(cards)

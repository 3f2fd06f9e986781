"""The Metrics tab: published and measured results of Evoxtral-Bench, from their files and nowhere else."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
from markupsafe import Markup

from evoxtral.errors import CheckpointError
from evoxtral.metrics import METRICS
from evoxtral.ui import view

RESULTS = Path(__file__).parents[1] / "assets" / "results"

# What the published figures hide, in plain words.
CAVEATS = (
    "Clips without tags give every system the same points: one that never writes a tag scores {floor} Tag F1 "
    "on the published clips, because that share of them has none.",
    "Tag F1 ignores where a tag stands; only its name and how often it comes count.",
    "WER is a mean over clips, so short clips weigh as much as long ones.",
    "With 50 clips and about 130 tags, the published gain of RL over SFT (2.2 points) lies inside the noise.",
    "The two tables are not comparable with each other: the published one is Voxtral Mini 3B on speech by "
    "ElevenLabs, the measured one is the scale model on this project's embedded voice.",
)


@dataclass(frozen=True)
class Row:
    """One line of a table. name: its key in a results file."""

    name: str
    label: str
    higher_is_better: bool


ROWS = (
    *(Row(metric.name, metric.label, metric.higher_is_better) for metric in METRICS),
    Row("sound_pause_f1", "F1 of sounds and pauses, pooled", True),
    Row("delivery_emotion_f1", "F1 of delivery and emotion, pooled", True),
    Row("ordinary_wer", "WER on ordinary sentences", False),
)


@dataclass(frozen=True)
class System:
    """One variant's figures, as fractions. intervals: row → the ends of its 95 % interval, where known."""

    scores: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    tag_f1: Mapping[str, float]
    support: Mapping[str, int]

    @classmethod
    def of(cls, entry: Mapping, ordinary_wer: float | None = None) -> "System":
        figures = {**entry, **entry.get("pooled", {}), "ordinary_wer": ordinary_wer}
        return cls(
            scores={row.name: figures[row.name] for row in ROWS if figures.get(row.name) is not None},
            intervals={name: (low, high) for name, (low, high) in entry.get("intervals", {}).items()},
            tag_f1={name: tag["f1"] for name, tag in entry["per_tag"].items()},
            support={name: tag["support"] for name, tag in entry["per_tag"].items()},
        )


@dataclass(frozen=True)
class Results:
    """A results file.

    origin: model, n, seed, commit, date and source, those that are known.  differences: "rl - sft" → row → its
    value and the ends of its 95 % interval.
    """

    origin: Mapping[str, object]
    systems: Mapping[str, System]
    differences: Mapping[str, Mapping[str, tuple[float, float, float]]]

    @classmethod
    def read(cls, path: Path) -> "Results | None":
        """None where the file does not exist: nothing has been measured yet."""
        if not path.is_file():
            return None
        content = json.loads(path.read_text(encoding="utf-8"))
        ordinary = content.get("ordinary_sentences", {})
        return cls(
            origin={key: content[key] for key in ORIGIN if content.get(key) is not None},
            systems={name: System.of(entry, ordinary.get(name)) for name, entry in content["variants"].items()},
            differences={
                pair: {name: (d["value"], d["low"], d["high"]) for name, d in rows.items()}
                for pair, rows in content.get("differences", {}).items()
            },
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


def origin(results: Results) -> str:
    """ "model · source · n = 400 · seed 7"; what is not known is left out."""
    return " · ".join(form.format(results.origin[key]) for key, form in ORIGIN.items() if key in results.origin)


# ------------------------------------------------------------------------------------- table


def _points(share: float) -> str:
    return f"{100 * share:.1f}"


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


def _difference(found: tuple[float, float, float] | None) -> Markup:
    if found is None:
        return Markup("<td>–</td>")
    value, low, high = found
    verdict = "within noise" if low <= 0 <= high else f"{_signed(low)} to {_signed(high)}"
    return Markup("<td>{}<small>{}</small></td>").format(_signed(value), verdict)


def _signed(share: float) -> str:
    """A difference in points, with a true minus sign and no sign on what rounds to nothing."""
    points = round(100 * share, 1)
    return f"{points:+.1f}".replace("-", "−") if points else "0.0"


def table(title: str, results: Results) -> Markup:
    """Metrics by variants, in percent; the best of a row is bold; small: 95 % intervals.

    The last column is the paired difference of the last two variants, where it was measured.
    """
    last = dict(list(results.differences.items())[-1:])
    names = [view.heading(variant).title for variant in results.systems]
    names += [" − ".join(view.heading(v).title for v in pair.split(" - ")) for pair in last]
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(name) for name in names)
    rows = []
    for row in ROWS:
        if not any(row.name in system.scores for system in results.systems.values()):
            continue
        best = _best(results, row)
        cells = [_cell(system, row, name == best) for name, system in results.systems.items()]
        cells += [_difference(found.get(row.name)) for found in last.values()]
        arrow, hint = ("↑", "higher is better") if row.higher_is_better else ("↓", "lower is better")
        rows.append(
            Markup('<tr><th scope="row">{} <span title="{}">{}</span></th>{}</tr>').format(
                row.label, hint, arrow, Markup("").join(cells)
            )
        )
    return Markup(
        '<section class="ev-card"><h2>{}</h2><p class="ev-origin">{}</p><table class="ev-table"><thead><tr>'
        '<th scope="col">%</th>{}</tr></thead><tbody>{}</tbody></table></section>'
    ).format(title, origin(results), head, Markup("").join(rows))


def nothing_measured() -> Markup:
    return Markup('<section class="ev-card"><h2>Measured</h2><p class="ev-origin">{}</p></section>').format(
        "Nothing has been measured on this checkpoint yet: `make bench` writes this table."
    )


# ------------------------------------------------------------------------------------- chart


def _bar(value: float | None, series: int, name: str) -> Markup:
    if value is None:
        return Markup("")
    return Markup(
        '<div class="ev-bar"><i style="--ev-value:{:.3f};background:var(--ev-series-{})"></i><span>{}</span>'
        '<span class="ev-unseen">{}</span></div>'
    ).format(value, series, _points(value), name)


def tag_chart(title: str, results: Results) -> Markup:
    """F1 per tag as bars, one per variant that writes tags; tags in order of support."""
    shown = [name for name, system in results.systems.items() if any(system.tag_f1.values())]
    support: dict[str, int] = {}
    for name in shown:
        support |= results.systems[name].support
    rows = []
    for tag in sorted(support, key=lambda name: (-support[name], name)):
        bars = Markup("").join(
            _bar(results.systems[name].tag_f1.get(tag), _series(results, name), view.heading(name).title)
            for name in shown
        )
        rows.append(
            Markup('<tr><th scope="row">{}</th><td>{}</td><td>{}</td></tr>').format(
                view.chip(f"[{tag}]", tag), bars, support[tag]
            )
        )
    keys = Markup("").join(
        Markup('<span><i style="background:var(--ev-series-{})"></i>{}</span>').format(
            _series(results, name), view.heading(name).title
        )
        for name in shown
    )
    return Markup(
        '<section class="ev-card"><h2>{}</h2><p class="ev-key">{}</p><table class="ev-chart"><thead><tr>'
        '<th scope="col">Tag</th><th scope="col">F1, %</th><th scope="col">Support</th></tr></thead>'
        "<tbody>{}</tbody></table></section>"
    ).format(title, keys, Markup("").join(rows))


def _series(results: Results, name: str) -> int:
    """The same variant has the same colour everywhere: its place from the end, as RL is the strongest."""
    names = list(results.systems)
    return max(0, 2 - (len(names) - 1 - names.index(name)))


# ------------------------------------------------------------------------------------- page


def definitions() -> Markup:
    rows = (Markup("<dt>{}</dt><dd>{}</dd>").format(metric.label, metric.definition) for metric in METRICS)
    return Markup('<details class="ev-card"><summary>What each metric means</summary><dl>{}</dl></details>').format(
        Markup("").join(rows)
    )


def caveats(published: Results) -> Markup:
    floor = view.percent(published.systems["base"].scores["tag_f1"])
    points = Markup("").join(Markup("<li>{}</li>").format(text.format(floor=floor)) for text in CAVEATS)
    return Markup('<section class="ev-card"><h2>What these numbers hide</h2><ul>{}</ul></section>').format(points)


def report(published: Results, measured: Results | None) -> Markup:
    """The whole tab: two stacks of cards side by side, then the charts."""
    left = (table("Published", published), caveats(published), definitions())
    right = (table("Measured", measured) if measured else nothing_measured(),)
    charts = [tag_chart("Published, per tag", published)]
    if measured:
        charts.append(tag_chart("Measured, per tag", measured))
    stack = Markup('<div class="ev-stack">{}</div>')
    side_by_side = Markup('<div class="ev-report">{}</div>')
    stacks = Markup("").join(stack.format(Markup("").join(cards)) for cards in (left, right))
    return side_by_side.format(stacks) + side_by_side.format(Markup("").join(charts))


def metrics_tab(folder: Path = RESULTS) -> None:
    """Lays the tab out, inside the Blocks that is being built. The published figures ship with it."""
    published = Results.read(folder / "published.json")
    if published is None:
        raise CheckpointError(f"{folder / 'published.json'} is missing from this installation; install it again.")
    gr.HTML(report(published, Results.read(folder / "measured.json")), elem_id="report", apply_default_css=False)

"""The Metrics tab: published and measured results of Evoxtral-Bench, from their files and nowhere else."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
from markupsafe import Markup

from evoxtral.errors import CheckpointError
from evoxtral.metrics import METRICS, Metric
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
class System:
    """One variant's figures, as fractions. intervals: metric → the ends of its 95 % interval, where known."""

    scores: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    tag_f1: Mapping[str, float]
    support: Mapping[str, int]


@dataclass(frozen=True)
class Results:
    """A results file. origin: model, n, seed, commit, date and source, those that are known."""

    origin: Mapping[str, object]
    systems: Mapping[str, System]

    @classmethod
    def read(cls, path: Path) -> "Results | None":
        """None where the file does not exist: nothing has been measured yet."""
        if not path.is_file():
            return None
        content = json.loads(path.read_text(encoding="utf-8"))
        keys = ("model", "n", "seed", "commit", "date", "source")
        return cls(
            origin={key: content[key] for key in keys if content.get(key) is not None},
            systems={name: _system(entry) for name, entry in content["variants"].items()},
        )


def _system(entry: Mapping) -> System:
    scores = entry.get("scores", entry)  # the published file has its scores next to `per_tag`
    return System(
        scores={
            metric.name: scores[metric.name] for metric in METRICS if scores.get(metric.name) is not None
        },
        intervals={name: tuple(ends) for name, ends in entry.get("intervals", {}).items()},
        tag_f1={name: row["f1"] for name, row in entry["per_tag"].items()},
        support={name: row["support"] for name, row in entry["per_tag"].items()},
    )


# ------------------------------------------------------------------------------------------------ table


def _points(share: float) -> str:
    return f"{100 * share:.1f}"


def _best(results: Results, metric: Metric) -> str | None:
    """The variant with the best figure; None where figures tie."""
    known = {
        name: system.scores[metric.name]
        for name, system in results.systems.items()
        if metric.name in system.scores
    }
    best = (max if metric.higher_is_better else min)(known.values(), default=None)
    names = [name for name, value in known.items() if value == best]
    return names[0] if len(names) == 1 else None


def _cell(system: System, metric: Metric, best: bool) -> Markup:
    value = system.scores.get(metric.name)
    if value is None:
        return Markup("<td>–</td>")
    ends = system.intervals.get(metric.name)
    interval = Markup("") if ends is None else Markup("<small>{}–{}</small>").format(*map(_points, ends))
    figure = Markup("<b>{}</b>" if best else "{}").format(_points(value))
    return Markup('<td class="{}">{}{}</td>').format("ev-best" if best else "", figure, interval)


def table(title: str, results: Results) -> Markup:
    """Metrics by variants, in percent; the best of a row is bold; small: 95 % intervals."""
    head = Markup("").join(
        Markup('<th scope="col">{}</th>').format(view.heading(v).title) for v in results.systems
    )
    rows = []
    for metric in METRICS:
        best = _best(results, metric)
        cells = Markup("").join(
            _cell(system, metric, name == best) for name, system in results.systems.items()
        )
        arrow, hint = ("↑", "higher is better") if metric.higher_is_better else ("↓", "lower is better")
        rows.append(
            Markup('<tr><th scope="row">{} <span title="{}" aria-label="{}">{}</span></th>{}</tr>').format(
                metric.label, hint, hint, arrow, cells
            )
        )
    return Markup(
        '<section class="ev-card"><h2>{}</h2><p class="ev-origin">{}</p><table class="ev-table"><thead><tr>'
        '<th scope="col">%</th>{}</tr></thead><tbody>{}</tbody></table></section>'
    ).format(title, origin(results), head, Markup("").join(rows))


def origin(results: Results) -> str:
    """Where figures come from: "model · source · n = 400 · seed 7"; what is not known is left out."""
    written = {
        "model": "{}",
        "source": "{}",
        "n": "n = {}",
        "seed": "seed {}",
        "date": "{}",
        "commit": "commit {}",
    }
    return " · ".join(
        form.format(results.origin[key]) for key, form in written.items() if key in results.origin
    )


def nothing_measured() -> Markup:
    return Markup('<section class="ev-card"><h2>Measured</h2><p class="ev-origin">{}</p></section>').format(
        "Nothing has been measured on this checkpoint yet: `make bench` writes this table."
    )


# ------------------------------------------------------------------------------------------------ chart


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


# ------------------------------------------------------------------------------------------------ page


def definitions() -> Markup:
    rows = (Markup("<dt>{}</dt><dd>{}</dd>").format(metric.label, metric.definition) for metric in METRICS)
    return Markup(
        '<details class="ev-card"><summary>What each metric means</summary><dl>{}</dl></details>'
    ).format(Markup("").join(rows))


def caveats(published: Results) -> Markup:
    floor = view.percent(published.systems["base"].scores["tag_f1"])
    points = Markup("").join(Markup("<li>{}</li>").format(text.format(floor=floor)) for text in CAVEATS)
    return Markup('<section class="ev-card"><h2>What these numbers hide</h2><ul>{}</ul></section>').format(
        points
    )


def report(published: Results, measured: Results | None) -> Markup:
    """The whole tab."""
    tables = [table("Published", published), table("Measured", measured) if measured else nothing_measured()]
    charts = [tag_chart("Published, per tag", published)]
    if measured:
        charts.append(tag_chart("Measured, per tag", measured))
    rows = [tables, [caveats(published), definitions()], charts]
    return Markup("").join(
        Markup('<div class="ev-report">{}</div>').format(Markup("").join(cards)) for cards in rows
    )


def metrics_tab(folder: Path = RESULTS) -> None:
    """Lays the tab out, inside the Blocks that is being built. The published figures ship with it."""
    published = Results.read(folder / "published.json")
    if published is None:
        raise CheckpointError(
            f"{folder / 'published.json'} is missing from this installation; install it again."
        )
    gr.HTML(
        report(published, Results.read(folder / "measured.json")), elem_id="report", apply_default_css=False
    )

"""The Ladders page of the Metrics tab: where each variant falls as clips get harder, and what RL changed there."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from evoxtral.metrics import FURTHER, METRICS
from evoxtral.ui.charts import bar, difference_bar, legend
from evoxtral.ui.layout import note, section, side_by_side
from evoxtral.ui.report import chart_row, chart_table
from evoxtral.ui.results_file import Row, pair_title, points, signed, variant_series

COMMAND = "python training/ladders.py results"
ENOUGH = 30  # clips of a rung: intervals of fewer are too narrow
TITLES = {
    "noise": "Noise", "room": "Rooms", "telephone": "Telephone", "pace": "Pace", "level": "Level",
    "speakers": "Two speakers", "natural": "Natural voices", "unusual": "Tags at unusual places",
    "contradict": "Tags against the words", "dense": "Eight tags and more", "pairs": "Minimal pairs",
    "plain": "Plain speech", "people": "People", "controls": "Controls",
    "clean": "Clean",
}  # fmt: skip
FROM_CLEAN = ("noise", "room", "telephone", "pace", "level", "natural", "controls")  # degradations of clean's clips
PLACED, WER, PLAIN, BOTH = "tagged_placed_tag_f1", "normalised_corpus_wer", "plain_tagged", "both_right"
SHOWN = {"plain": (PLAIN, WER), "people": (WER, PLAIN), "pairs": (PLACED, BOTH, WER)}  # of the others: PLACED and WER
BOTH_ROW = Row(
    BOTH, "Both of a pair right", True, "Share of pairs, the same words with two tags, of which both got exactly the "
    "right one. Interval: Wilson, 1927",
)  # fmt: skip
ROWS = {m.name: Row(m.name, m.label, m.higher_is_better, m.definition) for m in (*METRICS, *FURTHER)} | {BOTH: BOTH_ROW}


def page(content: Mapping) -> Markup:
    """content: what `evoxtral.bench.running.brief` gives."""
    variants = content["variants"]
    names = [name for name in TITLES if name in content["sets"] and name != "clean"]
    cards = [section(TITLES[name], *_ladder(content, name, variants)) for name in names]
    head = section(
        "Ladders", note(_origin(content)), *_reading(content), legend(variant_series(variants, v) for v in variants)
    )
    changed = [_changes(content, variants, key) for key in (PLACED, WER)] if len(variants) > 1 else []
    return side_by_side([head]) + side_by_side(cards) + side_by_side(filter(None, changed))


def _origin(content: Mapping) -> str:
    counts = [one["n"] for entry in content["sets"].values() for one in entry["rungs"].values()]
    n = f"n = {min(counts)}" if min(counts) == max(counts) else f"n = {min(counts)} to {max(counts)}"
    parts = [
        content["model"],
        f"weights {content['weights']}",
        *_precision(content),
        f"{n} clips of each rung",
        f"seed {content['seed']}",
    ]
    parts += [content["date"], f"commit {content['commit']}" if content.get("commit") else ""]
    return " · ".join(filter(None, parts))


def _precision(content: Mapping) -> list[str]:
    return [f"in {content['precision']}"] if content.get("precision") else []


def _reading(content: Mapping) -> list[Markup]:
    counts = [one["n"] for entry in content["sets"].values() for one in entry["rungs"].values()]
    few = " With so few clips they are too narrow." if min(counts) < ENOUGH else ""
    words = [
        "The same clips on every rung, ever harder: where does each variant fall? Whiskers: 95 % bootstrap intervals"
        f" over clips.{few} Error rates, where less is better, are marked ↓.",
        f"{COMMAND} writes these figures, with --limit N for fewer clips; python -m evoxtral bench runs the same sets"
        f" on any model. WER: {content['normaliser']}.",
        *([f"Not installed where this was measured: {', '.join(content['left_out'])}."] if content["left_out"] else []),
    ]
    return [note(sentence) for sentence in words]


def _ladder(content: Mapping, name: str, variants: Sequence[str]) -> list[Markup]:
    """A chart of each figure: a row for each rung, the clean clips first."""
    entry = content["sets"][name]
    rungs = dict(entry["rungs"])
    if name in FROM_CLEAN and "clean" in content["sets"]:
        rungs = {"clean": content["sets"]["clean"]["rungs"]["as spoken"]} | rungs
    parts = [note(f"{entry['about'][0].upper()}{entry['about'][1:]}.")]
    for key in SHOWN.get(name, (PLACED, WER)):
        rows = [
            chart_row(rung, Markup("").join(_bar(one, v, key, variants) for v in variants), one["n"])
            for rung, one in rungs.items()
            if any(key in figures for figures in one["variants"].values())
        ]
        if rows:
            parts += [_definition(ROWS[key]), chart_table(("Rung", "%", "Clips"), rows)]
    return parts


def _definition(row: Row) -> Markup:
    arrow, hint = ("", "Higher is better.") if row.higher_is_better else (" ↓", "Lower is better.")
    return Markup('<details class="ev-figure"><summary>{}{}</summary><p>{}. {}</p></details>').format(
        row.label, arrow, row.definition, hint
    )


def _bar(one: Mapping, variant: str, key: str, variants: Sequence[str]) -> Markup:
    found = one["variants"][variant].get(key)
    if found is None:
        return Markup("")
    value, low, high = found
    return bar(value, variant_series(variants, variant), points(value), (low, high))


def _changes(content: Mapping, variants: Sequence[str], key: str) -> Markup | None:
    """The paired difference of the last two variants on every rung."""
    pair = f"{variants[-1]} - {variants[-2]}"
    found = [
        (
            f"{TITLES[name]}, {rung}" if len(entry["rungs"]) > 1 else TITLES[name],
            one["differences"][pair][key],
            one["n"],
        )
        for name, entry in content["sets"].items()
        for rung, one in entry["rungs"].items()
        if key in one["differences"].get(pair, {})
    ]
    if not found:
        return None
    extent = max(0.02, *(abs(end) for _, ends, _ in found for end in ends))
    rows = [
        chart_row(
            label,
            difference_bar(value, extent, (low, high)),
            Markup("{}<small>{} to {}</small>").format(_strong(value, low, high), signed(low), signed(high)),
            n,
        )
        for label, (value, low, high), n in found
    ]
    clear = [(label, ends[0]) for label, ends, _ in found if not ends[1] <= 0 <= ends[2]]
    better = [label for label, value in clear if (value > 0) == ROWS[key].higher_is_better]
    worse = [label for label, value in clear if (value > 0) != ROWS[key].higher_is_better]
    told = [f"{what}: {', '.join(some)}." for what, some in (("Better", better), ("Worse", worse)) if some]
    told.append(
        f"Elsewhere the interval has zero in it. Of {len(found)} rungs one in twenty would leave it out by chance."
    )
    return section(
        f"{pair_title(pair)} by rung: {ROWS[key].label}",
        note(" ".join(told)),
        _definition(ROWS[key]),
        chart_table(("Rung", "Paired difference", "Points", "Clips"), rows),
    )


def _strong(value: float, low: float, high: float) -> Markup:
    return Markup("{}" if low <= 0 <= high else "<b>{}</b>").format(signed(value))

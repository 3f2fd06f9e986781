"""The Confidence page of the Metrics tab: whether the probabilities of words and tags are true, by category."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from evoxtral.ui import view
from evoxtral.ui.charts import Axis, Series, legend, line_chart
from evoxtral.ui.layout import note, section, side_by_side
from evoxtral.ui.report import chart_row, chart_table
from evoxtral.ui.results_file import points, variant_series

TITLES = {
    "words": "Words", "non-verbal": "Sounds", "pause": "Pauses", "delivery": "Deliveries", "emotion": "Emotions",
    "other": "Other tags",
}  # fmt: skip
FEW = 20  # words or tags: what is measured on fewer is not shown
ERROR = (
    "Expected calibration error (ECE): the gap between probability and share of right ones, the mean over ten bins of "
    "equal width, weighed by how many are in each (Naeini et al., 2015). Small: its 95 % bootstrap interval over clips."
)
RIGHT = (
    "A word is right where it is aligned with an equal one of the reference, a tag where it stands in its place; a "
    "delivery that overlaps in part counts by its share. Case and punctuation do not count."
)


def page(content: Mapping) -> Markup:
    """content: what `evoxtral.bench.running.brief` gives."""
    variants, pools = content["variants"], content["calibration"]
    last = list(pools.values())[-1]
    groups = [name for name in TITLES if any(last[v][name]["n"] >= FEW for v in variants if name in last[v])]
    head = section(
        "Are probabilities true?",
        note(
            "Of the words and tags that are 80 % sure, are eight in ten right? Below the diagonal a model is surer "
            f"than it should be. All sets but people and controls; what has fewer than {FEW} is left out."
        ),
        note(RIGHT),
        note(f"Mean: of the probabilities. {ERROR}"),
        note(f"{content['model']} · weights {content['weights']} · {content['date']}"),
    )
    return side_by_side([head]) + side_by_side(_card(pools, group, variants) for group in groups)


def _card(pools: Mapping, group: str, variants: Sequence[str]) -> Markup:
    drawn = list(pools.values())[-1]
    lines = [
        (variant_series(variants, name), found)
        for name in variants
        if group in drawn[name] and (found := _points(drawn[name][group]))
    ]
    rows = [
        chart_row(
            f"{view.heading(name).title}, {pool}",
            f"{one['n']:,}",
            points(one["probability"]),
            points(one["right"]),
            Markup("{}<small>{}–{}</small>").format(points(one["error"]), points(one["low"]), points(one["high"])),
        )
        for name in variants
        for pool, some in pools.items()
        if (one := some[name].get(group)) and one["n"] >= FEW
    ]
    table = chart_table(("", "Number", "Mean, %", "Right, %", "ECE, points"), rows, figures=True)
    return section(TITLES[group], legend([series for series, _ in lines], lines=True), _chart(group, lines), table)


def _points(one: Mapping) -> list[tuple[float, float]]:
    return [(100 * probability, 100 * right) for n, probability, right in one["bins"] if n >= FEW]


def _chart(group: str, lines: Sequence[tuple[Series, Sequence[tuple[float, float]]]]) -> Markup:
    told = " ".join(
        f"{series.name}: "
        + ", ".join(f"{right:.0f} % right at {probability:.0f} %" for probability, right in found)
        + "."
        for series, found in lines
    )
    ticks = [(value, str(value)) for value in range(0, 101, 20)]
    return line_chart(
        f"{TITLES[group]}, share that is right over probability. {told}",
        Axis("Probability, %", 0, 100, ticks),
        Axis("Right, %", 0, 100, ticks),
        lines,
        diagonal=True,
    )

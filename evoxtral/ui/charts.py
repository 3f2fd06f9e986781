"""Charts as HTML and SVG, without scripts. Drawings stretch with the page; text keeps its size.

Colour never carries meaning alone: series also differ in lightness and line style, and are named in a legend. A screen
reader sees a chart as one image and reads its summary.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

MAX_MARKED_POINTS = 12  # lines with more points have no dots


@dataclass(frozen=True)
class Axis:
    """ticks: values and their labels. log: logarithmic scale."""

    label: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    log: bool = False

    @classmethod
    def fitting(cls, label: str, values: Sequence[float], ratio: float = math.inf, parts: int = 4) -> "Axis":
        """An axis with round ends; logarithmic where the largest value is more than `ratio` times the smallest.

        parts: the least number of intervals between ticks; there are at most 2.5 times as many.
        """
        low, high = min(values), max(values)
        if 0 < low * ratio < high:
            decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            rounds = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
            low, high = max(r for r in rounds if r <= low), min(r for r in rounds if r >= high)
            return cls(label, low, high, _ticks(r for r in rounds if low <= r <= high), log=True)
        step = _step(high - low or abs(high) or 1.0, parts)
        first, last = math.floor(low / step), math.ceil(high / step)
        marks = [step * i for i in range(first, max(last, first + 1) + 1)]
        return cls(label, marks[0], marks[-1], _ticks(marks))

    def fraction(self, value: float) -> float:
        """Position of a value on the axis, from 0 to 1."""
        low, high, here = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return min(1.0, max(0.0, (here - low) / (high - low)))


def _step(width: float, parts: int) -> float:
    """The largest round step (1, 2 or 5 times a power of ten) that divides the width into at least `parts`."""
    decade = 10.0 ** math.floor(math.log10(width / parts))
    return max(digit * decade for digit in (1, 2, 5) if digit * decade <= width / parts)


def _ticks(values: Iterable[float]) -> list[tuple[float, str]]:
    return [(value, f"{round(value, 10):,g}") for value in values]


@dataclass(frozen=True)
class Series:
    """name: in the legend. colour: index into the palette's series. dashed: line style."""

    name: str
    colour: int
    dashed: bool = False


@dataclass(frozen=True)
class LabelledPoint:
    """A point that is marked with a ring and named."""

    x: float
    y: float
    name: str
    series: Series


def legend(series: Iterable[Series], lines: bool = False) -> Markup:
    """The legend of a chart. lines: with line samples as in `line_chart`, else with blocks as in bar charts."""
    entries = (
        Markup('<span><i class="{}" style="--ev-colour:var(--ev-series-{})"></i>{}</span>').format(
            _line_class(one) if lines else "ev-block", one.colour, one.name
        )
        for one in series
    )
    return Markup('<p class="ev-key">{}</p>').format(Markup("").join(entries))


def line_chart(
    summary: str,
    x: Axis,
    y: Axis,
    lines: Sequence[tuple[Series, Sequence[tuple[float, float]]]],
    marks: Sequence[LabelledPoint] = (),
    diagonal: bool = False,
) -> Markup:
    """Lines through (x, y) points. summary: what the chart shows, for screen readers. diagonal: one in the grid."""
    drawn = [Markup('<line class="ev-grid" x1="0" x2="100" y1="100" y2="0"/>')] if diagonal else []
    drawn += [
        Markup('<polyline class="{}" style="--ev-colour:var(--ev-series-{})" points="{}"/>').format(
            _line_class(series),
            series.colour,
            " ".join(f"{px:.2f},{py:.2f}" for px, py in _viewbox_points(x, y, points)),
        )
        for series, points in lines
    ]
    dots = [
        _dot("ev-dot", series, x.fraction(px), y.fraction(py))
        for series, points in lines
        if len(points) <= MAX_MARKED_POINTS
        for px, py in points
    ]
    rings = [_dot("ev-ring", mark.series, x.fraction(mark.x), y.fraction(mark.y), mark.name) for mark in marks]
    return _frame(summary, x, y, drawn, dots + rings)


def histogram(summary: str, x: Axis, y: Axis, bars: Sequence[tuple[Series, Sequence[float]]]) -> Markup:
    """Vertical bars: the x axis has equal bins, each with one bar per series."""
    drawn = []
    for number, (series, heights) in enumerate(bars):
        width = 100 / len(heights)
        for i, height in enumerate(heights):
            top = 100 * y.fraction(height)
            drawn.append(
                Markup(
                    '<rect style="fill:var(--ev-series-{})" x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}"/>'
                ).format(
                    series.colour, width * (i + 0.1 + 0.8 * number / len(bars)), 100 - top, 0.8 * width / len(bars), top
                )
            )
    return _frame(summary, x, y, drawn, [])


def _viewbox_points(x: Axis, y: Axis, points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(100 * x.fraction(px), 100 - 100 * y.fraction(py)) for px, py in points]


def _line_class(series: Series) -> str:
    return "ev-line ev-dashed" if series.dashed else "ev-line"


def _dot(kind: str, series: Series, across: float, up: float, name: str = "") -> Markup:
    return Markup(
        '<i class="{}" style="--ev-across:{:.4f};--ev-up:{:.4f};--ev-colour:var(--ev-series-{})" title="{}"></i>'
    ).format(kind, across, up, series.colour, name)


def _frame(summary: str, x: Axis, y: Axis, drawn: list[Markup], over: list[Markup]) -> Markup:
    """Axes around an SVG of 100 × 100 units that is stretched to fit. over: elements placed over the SVG."""
    grid = Markup("").join(
        Markup('<line class="ev-grid" x1="0" x2="100" y1="{0:.2f}" y2="{0:.2f}"/>').format(
            100 - 100 * y.fraction(value)
        )
        for value, _ in y.ticks
    )
    across = Markup("").join(
        Markup('<span class="ev-tick-x" style="--ev-across:{:.4f}">{}</span>').format(x.fraction(value), name)
        for value, name in x.ticks
    )
    up = Markup("").join(
        Markup('<span class="ev-tick-y" style="--ev-up:{:.4f}">{}</span>').format(y.fraction(value), name)
        for value, name in y.ticks
    )
    return Markup(
        '<div class="ev-plot" role="img" aria-label="{}"><p class="ev-axis-y">{}</p><div class="ev-area">'
        '<svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">{}{}</svg>{}{}{}</div>'
        '<p class="ev-axis-x">{}</p></div>'
    ).format(summary, y.label, grid, Markup("").join(drawn), Markup("").join(over), across, up, x.label)


# ------------------------------------------------------------------------------------- in table cells


def bar(value: float, series: Series, figure: str, interval: tuple[float, float] | None = None) -> Markup:
    """A horizontal bar from 0 to a value of at most 1, followed by its figure. interval: drawn as a whisker.

    An error rate may be above 1: then the bar is clipped, and the figure is not.
    """
    whisker = (
        Markup("") if interval is None or interval[0] == interval[1] else _whisker(*(min(end, 1) for end in interval))
    )
    return Markup(
        '<div class="ev-bar" style="--ev-colour:var(--ev-series-{});--ev-value:{:.4f};--ev-extent:{:.4f}"><i></i>{}'
        '<span>{}</span><span class="ev-unseen">{}</span></div>'
    ).format(series.colour, min(value, 1), min(max(value, *(interval or (0,))), 1), whisker, figure, series.name)


def difference_bar(value: float, extent: float, interval: tuple[float, float] | None = None) -> Markup:
    """A bar from the middle, to the right for positive values. extent: the value at the right end.

    It is filled where its interval excludes zero, else hollow.
    """
    significant = interval is not None and not interval[0] <= 0 <= interval[1]
    low, high = sorted((0.5, _from_centre(value, extent)))
    whisker = Markup("") if interval is None else _whisker(*(_from_centre(end, extent) for end in interval))
    return Markup('<div class="ev-change"><i class="{}" style="--ev-from:{:.4f};--ev-to:{:.4f}"></i>{}</div>').format(
        "ev-significant" if significant else "ev-not-significant", low, high, whisker
    )


def _from_centre(value: float, extent: float) -> float:
    return min(1.0, max(0.0, 0.5 + value / extent / 2))


def _whisker(low: float, high: float) -> Markup:
    return Markup('<b class="ev-whisker" style="--ev-from:{:.4f};--ev-to:{:.4f}"></b>').format(low, high)

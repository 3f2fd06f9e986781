"""Charts as HTML: pure functions, no script. What is drawn stretches with the page; its text keeps its size.

Every series has a colour of the palette that differs in lightness, a line of its own and its name, so that colour
never carries meaning alone. A plot is one picture to a screen reader, which reads its summary.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

FEW = 12  # so many points or fewer are marked, not only joined


@dataclass(frozen=True)
class Axis:
    """ticks: values and what stands there. log: equal ratios take equal room."""

    label: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    log: bool = False

    @classmethod
    def around(cls, label: str, values: Sequence[float], ratio: float = math.inf, parts: int = 4) -> "Axis":
        """From round number to round number; logarithmic where the values' ratio is greater than `ratio`.

        parts: the fewest between ticks, two and a half times as many are the most.
        """
        low, high = min(values), max(values)
        if 0 < low * ratio < high:
            decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            rounds = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
            low, high = max(r for r in rounds if r <= low), min(r for r in rounds if r >= high)
            return cls(label, low, high, _named(r for r in rounds if low <= r <= high), log=True)
        step = _step(high - low or abs(high) or 1.0, parts)
        first, last = math.floor(low / step), math.ceil(high / step)
        marks = [step * i for i in range(first, max(last, first + 1) + 1)]
        return cls(label, marks[0], marks[-1], _named(marks))

    def at(self, value: float) -> float:
        """Share of the axis, from 0 to 1."""
        low, high, here = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return min(1.0, max(0.0, (here - low) / (high - low)))


def _step(width: float, parts: int) -> float:
    """A round number of which `parts` make the width, or up to two and a half times as many."""
    decade = 10.0 ** math.floor(math.log10(width / parts))
    return max(digit * decade for digit in (1, 2, 5) if digit * decade <= width / parts)


def _named(values: Iterable[float]) -> list[tuple[float, str]]:
    return [(value, f"{round(value, 10):,g}") for value in values]


@dataclass(frozen=True)
class Series:
    """name: in the key. colour: number in the palette's series. dashed: its line."""

    name: str
    colour: int
    dashed: bool = False


@dataclass(frozen=True)
class Mark:
    """A ringed point with its name."""

    x: float
    y: float
    name: str
    series: Series


def key(series: Iterable[Series], lines: bool = False) -> Markup:
    """The names of series. lines: as drawn by `plot`, else as bars."""
    entries = (
        Markup('<span><i class="{}" style="--ev-colour:var(--ev-series-{})"></i>{}</span>').format(
            _line_class(one) if lines else "ev-block", one.colour, one.name
        )
        for one in series
    )
    return Markup('<p class="ev-key">{}</p>').format(Markup("").join(entries))


def plot(
    summary: str,
    x: Axis,
    y: Axis,
    lines: Sequence[tuple[Series, Sequence[tuple[float, float]]]],
    marks: Sequence[Mark] = (),
) -> Markup:
    """Lines through (x, y) points. summary: what the picture shows, in words."""
    drawn = [
        Markup('<polyline class="{}" style="--ev-colour:var(--ev-series-{})" points="{}"/>').format(
            _line_class(series), series.colour, " ".join(f"{px:.2f},{py:.2f}" for px, py in _placed(x, y, points))
        )
        for series, points in lines
    ]
    dots = [
        _dot("ev-dot", series, x.at(px), y.at(py))
        for series, points in lines
        if len(points) <= FEW
        for px, py in points
    ]
    rings = [_dot("ev-ring", mark.series, x.at(mark.x), y.at(mark.y), mark.name) for mark in marks]
    return _frame(summary, x, y, drawn, dots + rings)


def histogram(summary: str, x: Axis, y: Axis, bars: Sequence[tuple[Series, Sequence[float]]]) -> Markup:
    """Upright bars, those of all series side by side in each of the equal parts of the x axis."""
    drawn = []
    for number, (series, heights) in enumerate(bars):
        width = 100 / len(heights)
        for i, height in enumerate(heights):
            top = 100 * y.at(height)
            drawn.append(
                Markup(
                    '<rect style="fill:var(--ev-series-{})" x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}"/>'
                ).format(
                    series.colour, width * (i + 0.1 + 0.8 * number / len(bars)), 100 - top, 0.8 * width / len(bars), top
                )
            )
    return _frame(summary, x, y, drawn, [])


def _placed(x: Axis, y: Axis, points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(100 * x.at(px), 100 - 100 * y.at(py)) for px, py in points]


def _line_class(series: Series) -> str:
    return "ev-line ev-dashed" if series.dashed else "ev-line"


def _dot(kind: str, series: Series, across: float, up: float, name: str = "") -> Markup:
    return Markup(
        '<i class="{}" style="--ev-across:{:.4f};--ev-up:{:.4f};--ev-colour:var(--ev-series-{})" title="{}"></i>'
    ).format(kind, across, up, series.colour, name)


def _frame(summary: str, x: Axis, y: Axis, drawn: list[Markup], over: list[Markup]) -> Markup:
    """Axes around a picture of 100 × 100 that is stretched to fit, and what is laid over it."""
    grid = Markup("").join(
        Markup('<line class="ev-grid" x1="0" x2="100" y1="{0:.2f}" y2="{0:.2f}"/>').format(100 - 100 * y.at(value))
        for value, _ in y.ticks
    )
    across = Markup("").join(
        Markup('<span class="ev-tick-x" style="--ev-across:{:.4f}">{}</span>').format(x.at(value), name)
        for value, name in x.ticks
    )
    up = Markup("").join(
        Markup('<span class="ev-tick-y" style="--ev-up:{:.4f}">{}</span>').format(y.at(value), name)
        for value, name in y.ticks
    )
    return Markup(
        '<div class="ev-plot" role="img" aria-label="{}"><p class="ev-axis-y">{}</p><div class="ev-area">'
        '<svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">{}{}</svg>{}{}{}</div>'
        '<p class="ev-axis-x">{}</p></div>'
    ).format(summary, y.label, grid, Markup("").join(drawn), Markup("").join(over), across, up, x.label)


# ------------------------------------------------------------------------------------- in table cells


def bar(value: float, series: Series, figure: str, ends: tuple[float, float] | None = None) -> Markup:
    """A bar from 0 to a share of 1, with its figure behind it. ends: of its interval.

    An error rate may be above 1: what is drawn ends there, the figure does not.
    """
    whisker = Markup("") if ends is None or ends[0] == ends[1] else _whisker(*(min(end, 1) for end in ends))
    return Markup(
        '<div class="ev-bar" style="--ev-colour:var(--ev-series-{});--ev-value:{:.4f};--ev-reach:{:.4f}"><i></i>{}'
        '<span>{}</span><span class="ev-unseen">{}</span></div>'
    ).format(series.colour, min(value, 1), min(max(value, *(ends or (0,))), 1), whisker, figure, series.name)


def change(value: float, reach: float, ends: tuple[float, float] | None = None) -> Markup:
    """A bar from the middle, to the right for more and to the left for less. reach: what half the width stands for.

    It is filled where its interval leaves zero out, hollow otherwise.
    """
    clear = ends is not None and not ends[0] <= 0 <= ends[1]
    low, high = sorted((0.5, _centred(value, reach)))
    whisker = Markup("") if ends is None else _whisker(*(_centred(end, reach) for end in ends))
    return Markup('<div class="ev-change"><i class="{}" style="--ev-from:{:.4f};--ev-to:{:.4f}"></i>{}</div>').format(
        "ev-clear" if clear else "ev-unsure", low, high, whisker
    )


def _centred(value: float, reach: float) -> float:
    return min(1.0, max(0.0, 0.5 + value / reach / 2))


def _whisker(low: float, high: float) -> Markup:
    return Markup('<b class="ev-whisker" style="--ev-from:{:.4f};--ev-to:{:.4f}"></b>').format(low, high)

"""Reports as HTML: tables, charts and sentences on results files of Evoxtral-Bench."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence

from markupsafe import Markup

from evoxtral import tags
from evoxtral.metrics import METRICS, CurvePoint
from evoxtral.ui import theme, view, wording
from evoxtral.ui.charts import Axis, LabelledPoint, bar, difference_bar, legend, line_chart
from evoxtral.ui.layout import address, note, section, side_by_side, stacked
from evoxtral.ui.results_file import ROWS, Difference, Results, Row, System, origin, pair_title, percent, points, signed

WITHOUT_INTERVALS = "Without intervals: they need what each clip gave."
LIMITATIONS = "What these numbers hide"
MIN_CLIPS = 30  # with fewer clips, bootstrap intervals are too narrow
MAX_TAGS = 40  # in a chart: a visitor's file may have any number


# ------------------------------------------------------------------------------------- tables


def _best(results: Results, row: Row) -> str | None:
    """The variant that is significantly better than the second best, if any."""
    known = [name for name, system in results.systems.items() if row.name in system.scores]
    best = sorted(known, key=lambda name: results.systems[name].scores[row.name], reverse=row.higher_is_better)[:2]
    return best[0] if len(best) == 2 and results.differ(*best, row.name) else None


def _cell(system: System, row: Row, best: bool) -> Markup:
    value = system.scores.get(row.name)
    if value is None:
        return Markup("<td>–</td>")
    ends = system.intervals.get(row.name)
    interval = Markup("") if ends is None else Markup("<small>{}–{}</small>").format(*map(points, ends))
    figure = Markup("<b>{}</b>" if best else "{}").format(points(value))
    return Markup("<td>{}{}</td>").format(figure, interval)


def _difference(found: Difference | None) -> Markup:
    if found is None:
        return Markup("<td>–</td>")
    verdict = _range(found) if found.significant else "within noise"
    return Markup('<td>{}<small class="ev-verdict">{}</small></td>').format(signed(found.value), verdict)


def _range(found: Difference) -> str:
    return f"{signed(found.low)} to {signed(found.high)}"


def _row(row: Row, id_prefix: str, cells: Sequence[Markup]) -> Markup:
    """A table row: a metric's name (a button for its definition), the direction that is better, and its figures.

    The definition is there twice: in a popover for screen readers, and in a second row that CSS shows while the popover
    is open, so that it does not cover the table.
    """
    arrow, hint = ("↑", "higher is better") if row.higher_is_better else ("↓", "lower is better")
    return Markup(
        '<tr><th scope="row"><button type="button" class="ev-define" popovertarget="{id}">{label}'
        '<span aria-hidden="true" title="{hint}">\u00a0{arrow}</span></button>'
        '<span popover id="{id}" class="ev-unseen">{definition}</span></th>{cells}</tr>'
        '<tr class="ev-definition" aria-hidden="true"><td colspan="{columns}">{definition}</td></tr>'
    ).format(
        id=f"ev-{id_prefix}-{row.name}",
        label=row.label,
        hint=hint,
        arrow=arrow,
        definition=f"{row.definition} {hint.capitalize()}.",
        cells=Markup("").join(cells),
        columns=1 + len(cells),
    )


def _shown_rows(results: Results) -> list[Row]:
    return [row for row in ROWS if any(row.name in system.scores for system in results.systems.values())]


def table(results: Results, id_prefix: str) -> Markup:
    """Metrics by variants, in percent; small: 95 % intervals; bold: the best of a row, if significant.

    The last column is the paired difference of the last two variants, where it was measured.
    id_prefix: makes ids unique on the page.
    """
    last = dict(list(results.differences.items())[-1:])
    names = [view.heading(variant).title for variant in results.systems] + [pair_title(pair) for pair in last]
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(name) for name in names)
    rows = []
    for row in _shown_rows(results):
        best = _best(results, row)
        cells = [_cell(system, row, name == best) for name, system in results.systems.items()]
        cells += [_difference(found.get(row.name)) for found in last.values()]
        rows.append(_row(row, id_prefix, cells))
    return Markup(
        '<table class="ev-table"><thead><tr><th scope="col">%</th>{}</tr></thead><tbody>{}</tbody></table>{}'
    ).format(head, Markup("").join(rows), note(_how_to_read(results)))


def _how_to_read(results: Results) -> str:
    """A note on how to read a table."""
    if not _with_intervals(results):
        return WITHOUT_INTERVALS
    best = " Bold: better than the next best by more than the noise." if len(results.systems) > 1 else ""
    return f"Small: 95 % intervals.{best}"


def _with_intervals(results: Results) -> bool:
    return any(system.intervals for system in results.systems.values())


def chart_table(heads: Iterable[str], rows: Iterable[Markup], figures: bool = False) -> Markup:
    """The second column has a chart in it; figures: or a figure, as all others."""
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(name) for name in heads)
    return Markup('<table class="{}"><thead><tr>{}</tr></thead><tbody>{}</tbody></table>').format(
        "ev-chart ev-figures" if figures else "ev-chart", head, Markup("").join(rows)
    )


def chart_row(head: str, *cells: str | int) -> Markup:
    data = Markup("").join(Markup("<td>{}</td>").format(cell) for cell in cells)
    return Markup('<tr><th scope="row">{}</th>{}</tr>').format(head, data)


def _key(results: Results, names: Sequence[str]) -> Markup:
    """The legend of variants; empty for a single one."""
    return legend(map(results.series, names)) if len(results.systems) > 1 else Markup("")


def _tag(name: str) -> Markup:
    return Markup('<span class="ev-tag ev-{}" title="{}">{}</span>').format(tags.category(name), name, name)


# ------------------------------------------------------------------------------------- charts of scores


def metric_chart(results: Results) -> Markup:
    """A bar for each metric and variant, with its 95 % interval where that is known."""
    rows = []
    for row in ROWS[: len(METRICS)]:  # the published ones, so that both charts have the same rows
        bars = (
            bar(
                system.scores[row.name],
                results.series(name),
                points(system.scores[row.name]),
                system.intervals.get(row.name),
            )
            for name, system in results.systems.items()
            if row.name in system.scores
        )
        rows.append(chart_row(row.label, Markup("").join(bars)))
    hint = "Whiskers: 95 % bootstrap intervals over clips." if _with_intervals(results) else WITHOUT_INTERVALS
    return _key(results, list(results.systems)) + chart_table(("Metric", "%"), rows) + note(hint)


def tag_chart(results: Results) -> Markup:
    """F1 per tag as bars, one for each variant that writes tags; sorted by support."""
    support, shown = results.by_support(), results.tagging_variants
    rows = []
    for tag in list(support)[:MAX_TAGS]:
        bars = (
            bar(
                results.systems[name].tag_f1[tag],
                results.series(name),
                points(results.systems[name].tag_f1[tag]),
                results.systems[name].tag_intervals.get(tag),
            )
            for name in shown
            if tag in results.systems[name].tag_f1
        )
        rows.append(chart_row(_tag(tag), Markup("").join(bars), support[tag]))
    more = len(support) - len(rows)
    rest = note(f"{wording.counted(more, 'rarer tag')} left out here.") if more > 0 else Markup("")
    return _key(results, shown) + chart_table(("Tag", "F1, %", "Support"), rows) + rest


def change_chart(results: Results) -> Markup | None:
    """How each tag's F1 changed from the last variant but one to the last; None with fewer than two."""
    if len(results.tagging_variants) < 2:
        return None
    before, after = results.tagging_variants[-2:]
    pair = f"{after} - {before}"
    measured = results.tag_differences.get(pair, {})
    support = results.by_support()
    values = {
        tag: results.systems[after].tag_f1[tag] - results.systems[before].tag_f1[tag]
        for tag in support
        if tag in results.systems[before].tag_f1 and tag in results.systems[after].tag_f1
    }
    extent = max((abs(end) for tag, value in values.items() for end in _bounds(measured.get(tag), value)), default=0.0)
    rows = [
        chart_row(
            _tag(tag),
            difference_bar(value, max(extent, 0.1), _bounds(measured.get(tag)) or None),
            Markup("{}{}").format(*_figures(value, measured.get(tag))),
            support[tag],
        )
        for tag, value in values.items()
    ]
    table = chart_table(("Tag", f"F1, {pair_title(pair)}", "Points", "Support"), rows)
    if not measured:
        return table + note(f"{WITHOUT_INTERVALS} A rare tag jumps with a single clip.")
    significant = sum(found.significant for found in measured.values())
    return table + note(
        f"Whiskers: paired 95 % bootstrap intervals. Filled: the interval leaves zero out, as for {significant} of"
        f" {wording.counted(len(measured), 'tag')}; one in twenty would by chance."
    )


def _bounds(found: Difference | None, *more: float) -> tuple[float, ...]:
    return (*more, *((found.low, found.high) if found else ()))


def _figures(value: float, found: Difference | None) -> tuple[Markup, Markup]:
    if found is None:
        return Markup("{}").format(signed(value)), Markup("")
    figure = Markup("<b>{}</b>" if found.significant else "{}").format(signed(value))
    return figure, Markup("<small>{}</small>").format(_range(found))


def confidence_chart(results: Results) -> Markup | None:
    """Precision over recall as the threshold on a tag's probability falls; ringed: the page's default.

    None where it was not measured.
    """
    if not results.confidence:
        return None
    lines, marks, words = [], [], []
    for name, curve in results.confidence.items():
        series = results.series(name)
        lines.append((series, [(100 * point.recall, 100 * point.precision) for point in curve]))
        usual = [point for point in curve if point.threshold >= view.EVERYTHING.min_probability][-1]
        best = max(curve, key=lambda point: point.f1)
        marks.append(
            LabelledPoint(100 * usual.recall, 100 * usual.precision, f"{series.name}, every tag shown", series)
        )
        words.append(
            f"{series.name}: every tag shown, {percent(usual.precision)} of {usual.kept:,} tags are right and"
            f" {percent(usual.recall)} are found. {_better(usual, best)}"
        )
    precisions = [y for _, line in lines for _, y in line]
    picture = line_chart(
        "Precision over recall. " + " ".join(words),
        Axis("Recall, %", 0, 100, [(value, str(value)) for value in range(0, 101, 20)]),
        Axis.fitting("Precision, %", precisions),
        lines,
        marks,
    )
    sentences = Markup("").join(Markup("<li>{}</li>").format(sentence) for sentence in words)
    return (
        note("What the slider of the Compare tab trades. Rings: its default, every tag shown.")
        + legend((series for series, _ in lines), lines=True)
        + Markup('<div class="ev-halves">{}<ul>{}</ul></div>').format(picture, sentences)
    )


def _better(usual: CurvePoint, best: CurvePoint) -> str:
    if points(best.f1) == points(usual.f1):
        return f"Hiding the less sure ones makes F1 ({percent(usual.f1)}) no higher."
    return (
        f"F1 rises from {percent(usual.f1)} to {percent(best.f1)} with only those that are at least"
        f" {wording.percent(best.threshold)} sure: {percent(best.precision)} right, {percent(best.recall)} found."
    )


CHARTS = {
    "per metric": metric_chart,
    "over the confidence threshold": confidence_chart,
    "per tag": tag_chart,
    "what RL changed": change_chart,
}


# ------------------------------------------------------------------------------------- words


def caveats(published: Results, measured: Results | None) -> Markup:
    """Limitations of the published figures, in sentences."""
    clips, n = published.clips, published.origin["n"]
    sentences = (
        f"{clips['untagged']} of the {n} published clips have no tags, and give a system that never writes one full"
        f" marks: that alone is a Tag F1 of {wording.percent(clips['untagged'] / n)}.",
        "Tag F1 ignores where a tag stands: only its name and how often it comes count.",
        f"WER is a mean over clips: short clips weigh as much as long ones.{_over_all_words(measured)}",
        _significance(published),
        "The two tables cannot be compared with each other: the published one is Voxtral Mini 3B on speech by"
        " ElevenLabs, the measured one is the scale model on this project's embedded voice.",
    )
    points = Markup("").join(Markup("<li>{}</li>").format(sentence) for sentence in sentences)
    return section(LIMITATIONS, Markup("<ul>{}</ul>").format(points))


def _over_all_words(measured: Results | None) -> str:
    if not measured:
        return ""
    name, system = list(measured.systems.items())[-1]
    if "corpus_wer" not in system.scores:
        return ""
    mean, pooled = (percent(system.scores[metric]) for metric in ("wer", "corpus_wer"))
    return f" Over all words together, {view.heading(name).title}'s measured {mean} is {pooled}."


def _significance(published: Results) -> str:
    """Significance of the published gain: in clips, and by a sign test over tags, as single clips were not published.

    Tags of one clip are correlated, so the test is too lenient rather than too strict.
    """
    n = published.origin["n"]
    before, after = (published.systems[name] for name in ("sft", "rl"))
    gain = after.scores["tag_f1"] - before.scores["tag_f1"]
    changes = [after.tag_f1[tag] - f1 for tag, f1 in before.tag_f1.items() if tag in after.tag_f1]
    rose, fell = sum(change > 0 for change in changes), sum(change < 0 for change in changes)
    uneven = sum(math.comb(rose + fell, k) for k in range(min(rose, fell) + 1))
    by_chance = min(1.0, uneven / 2 ** (rose + fell - 1))
    worth = (
        f"The published gain of RL over SFT, {points(gain)} points of Tag F1, is as much as {gain * n:.1f} of {n}"
        " clips give when all their tags turn from wrong to right"
    )
    if by_chance < 0.05:
        return f"{worth}; how far other clips would move it is not known."
    return (
        f"{worth}. It cannot be told from chance: F1 rose for {wording.counted(rose, 'tag')} and fell for {fell}, and"
        f" chance alone is as uneven {wording.percent(by_chance)} of the time."
    )


# ------------------------------------------------------------------------------------- page


def nothing_measured() -> Markup:
    return section(
        "Measured", note("Nothing has been measured on this checkpoint yet: `make train` writes this table.")
    )


def results_page(published: Results, measured: Results | None) -> Markup:
    """Published figures on the left, measured ones on the right."""
    first = section("Published", note(origin(published)), table(published, "published"))
    tables, both = [stacked(first, caveats(published, measured))], {"Published": published}
    if measured:
        tables.append(section("Measured", note(origin(measured)), table(measured, "measured")))
        both["Measured"] = measured
    else:
        tables.append(nothing_measured())
    rows, jumps = [tables], {title: title for title in (*both, LIMITATIONS)}
    for what, draw in CHARTS.items():
        drawn = {f"{title}, {what}": chart for title, results in both.items() if (chart := draw(results))}
        if drawn:
            rows.append([section(title, chart) for title, chart in drawn.items()])
            jumps[what[0].upper() + what[1:]] = next(iter(drawn))
    return _jump_list(jumps) + Markup("").join(map(side_by_side, rows))


def _jump_list(jumps: Mapping[str, str]) -> Markup:
    """Links to sections. jumps: text of the link → heading of the section.

    Gradio's page has a base address: a plain `#…` link would reload a page that was opened with `?…`.
    """
    link = Markup('<a href="#{}" onclick="location.hash = this.hash; return false">{}</a>')
    links = (link.format(address(title), name) for name, title in jumps.items())
    return Markup('<nav class="ev-links" aria-label="On this page">{}</nav>').format(Markup("").join(links))


def upload_report(entry: Mapping, name: str) -> Markup:
    """The report on a visitor's file, with downloads. entry: from `metrics.summary`."""
    results = Results({"n": entry["n"]}, {"Score": System.of(entry)})
    few = note(f"Intervals from fewer than {MIN_CLIPS} clips are too narrow.") if entry["n"] < MIN_CLIPS else Markup("")
    charts = [section("Per metric", metric_chart(results))]
    if results.tagging_variants:
        charts.append(section("Per tag", tag_chart(results)))
    report = side_by_side([section("Scores", note(origin(results)), table(results, "own"), few), stacked(*charts)])
    title, file = f"Scores of {name}", f"{view.file_stem(name)}.scores"
    links = (
        view.download(
            f"{file}.json",
            "application/json;charset=utf-8",
            json.dumps(entry, indent=2, allow_nan=False),
            "Download JSON",
            "Every figure with its interval, as `python -m evoxtral score --json` prints it",
        ),
        view.download(
            f"{file}.html", "text/html;charset=utf-8", page(title, report), "Download HTML", "This report as one file"
        ),
    )
    return Markup('<div class="ev-own"><h2>{}</h2><p class="ev-exports">{}</p></div>{}').format(
        title, Markup("").join(links), report
    )


def page(title: str, content: Markup) -> Markup:
    """A complete HTML file that fetches nothing and follows the system's dark mode."""
    dark = f"@media (prefers-color-scheme: dark) {{ :root {{ {theme.css_variables('dark')} }} }}"
    return Markup(
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        '<title>{title}</title><style>{style}</style><body class="ev-alone"><h1>{title}</h1>{content}</body></html>'
    ).format(title=title, style=Markup(theme.css() + dark), content=content)

"""The report of a bench run: one HTML file that fetches nothing, with the worst clips to hear."""

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup

from evoxtral import audio
from evoxtral.bench.sets import Clip
from evoxtral.metrics import FURTHER, METRICS

MAX_SECONDS = 60  # of a clip in the report
COLUMNS = ("tagged_placed_tag_f1", "tag_f1", "emphasis_f1", "tag_hallucination", "normalised_corpus_wer", "wer")
BOTH_RIGHT = "Both of a pair right"
STYLE = """
:root { color-scheme: light dark; --line: #d6d6de; --muted: #5c5b6a; --mark: #8a3d00 }
@media (prefers-color-scheme: dark) { :root { --line: #44434f; --muted: #b3b2c0; --mark: #ffa866 } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1320px; margin: 24px auto; padding: 0 14px }
h1 { font-size: 22px } h2 { font-size: 18px; margin: 28px 0 4px }
p, dd { margin: 2px 0 } .muted, small { color: var(--muted) } small { display: block; font-size: 12px }
.wide { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: 4px 10px; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top }
th:first-child, td:first-child, .worst td { text-align: left } th { font-weight: 600 } b { color: var(--mark) }
.worst audio { width: 260px; max-width: 60vw } details { margin: 8px 0 } dt { font-weight: 600; margin-top: 6px }
"""


def page(found: Mapping, worst: Sequence[tuple[Clip, Mapping]], variant: str) -> str:
    """found: what results.json has.  worst: clips with their rows, by `variant`, the worst first."""
    title = f"Evoxtral-Bench: {found['model']}"
    clips = sum(one["n"] for entry in found["sets"].values() for one in entry["rungs"].values())
    origin = " · ".join(
        f"{label} {found[key]}".strip()
        for key, label in (
            ("date", ""),
            ("commit", "commit"),
            ("weights", "weights"),
            ("precision", "in"),
            ("seed", "seed"),
        )  # fmt: skip
        if found.get(key) is not None
    )
    parts = [
        Markup('<p class="muted">{} · {} clips · {}</p>').format(origin, clips, found["normaliser"]),
        Markup("<p>In percent; small: 95 % bootstrap intervals over clips. {}</p>").format(
            f"Δ: the paired difference {found['variants'][-1]} − {found['variants'][-2]}, in points; bold where its "
            "interval leaves zero out."
            if len(found["variants"]) > 1
            else ""
        ),
        _definitions(),
        *(Markup('<p class="muted">{} is left out. {}</p>').format(*pair) for pair in found["left_out"].items()),
        *(Markup('<p class="muted">{}: {}</p>').format(*pair) for pair in found["failed"].items()),
        *(_set(name, entry, found["variants"]) for name, entry in found["sets"].items()),
        *(_precision(kind, other, found) for kind, other in found["other_precisions"].items()),
        _worst(worst, variant),
    ]
    return Markup(
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        "<title>{title}</title><style>{style}</style><h1>{title}</h1>{parts}</html>\n"
    ).format(title=title, style=Markup(STYLE), parts=Markup("").join(parts))


def _definitions() -> Markup:
    entries = (
        Markup("<dt>{}</dt><dd>{}.</dd>").format(metric.label, metric.definition)
        for metric in (*METRICS, *FURTHER)
        if metric.name in COLUMNS
    )
    return Markup("<details><summary>What each figure is</summary><dl>{}</dl></details>").format(
        Markup("").join(entries)
    )


def _set(name: str, entry: Mapping, variants: Sequence[str]) -> Markup:
    labels = {metric.name: metric.label for metric in (*METRICS, *FURTHER)}
    present = [
        key
        for key in COLUMNS
        if any(one["variants"][v].get(key) is not None for one in entry["rungs"].values() for v in variants)
    ]
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(labels[key]) for key in present)
    rows = [
        Markup('<tr><th scope="row">{}{}</th><td>{}</td><td>{}</td>{}</tr>').format(
            rung, _both(one, v), v, one["n"], Markup("").join(_cell(one, v, key, variants) for key in present)
        )
        for rung, one in entry["rungs"].items()
        for v in variants
    ]
    return Markup(
        '<h2>{}</h2><p class="muted">{}.</p><div class="wide" tabindex="0"><table><thead><tr><th></th>'
        '<th scope="col">variant</th><th scope="col">clips</th>{}</tr></thead><tbody>{}</tbody></table></div>'
    ).format(name, entry["about"][0].upper() + entry["about"][1:], head, Markup("").join(rows))


def _precision(kind: str, other: Mapping, found: Mapping) -> Markup:
    """Every rung with weights in another precision, and what that changes."""
    labels = {metric.name: metric.label for metric in (*METRICS, *FURTHER)}
    lines = [
        (f"{name} {rung}", variant, other["sets"][name]["rungs"][rung]["variants"][variant], one)
        for name, rungs in other["cost"].items()
        for rung, by_variant in rungs.items()
        for variant, one in by_variant.items()
    ]
    lines += [("all together", variant, {}, one) for variant, one in other["pooled"].items()]
    rows = []
    for title, variant, summary, one in lines:
        apart = "–" if one["tag_probability"] is None else f"{one['tag_probability']:.4f}"
        line = Markup('<tr><th scope="row">{}</th><td>{}</td>{}<td>{:.0f}</td><td>{}</td></tr>')
        rows.append(line.format(title, variant, _costs(summary, one), 100 * one["same_text"], apart))
    return Markup(
        '<h2>Weights in {kind}</h2><p class="muted">Δ: the paired difference {kind} − {exact}, in points; bold where '
        "its interval leaves zero out. Same: texts that are equal, in percent. Tags: the mean difference of the "
        'probabilities of tags that both wrote.</p><div class="wide" tabindex="0"><table><thead><tr><th></th>'
        '<th scope="col">variant</th>{head}<th scope="col">Same</th><th scope="col">Tags</th></tr></thead>'
        "<tbody>{rows}</tbody></table></div>"
    ).format(
        kind=kind,
        exact=found["precision"],
        head=Markup("").join(Markup('<th scope="col">{}</th>').format(labels[key]) for key in COLUMNS),
        rows=Markup("").join(rows),
    )


def _costs(summary: Mapping, one: Mapping) -> Markup:
    """A cell for each of COLUMNS: the figure, where it is known, and how it differs."""
    figures = (f"{100 * summary[key]:.1f}" if summary.get(key) is not None else "" for key in COLUMNS)
    changes = (_change(one["differences"].get(key)) for key in COLUMNS)
    cells = (Markup("{}{}").format(*cell) or "–" for cell in zip(figures, changes, strict=True))
    return Markup("").join(Markup("<td>{}</td>").format(cell) for cell in cells)


def _both(one: Mapping, variant: str) -> Markup:
    if "both_right" not in one:
        return Markup("")
    share, low, high = one["both_right"][variant]
    return Markup("<small>{}: {:.1f} ({:.1f}–{:.1f})</small>").format(BOTH_RIGHT, 100 * share, 100 * low, 100 * high)


def _cell(one: Mapping, variant: str, key: str, variants: Sequence[str]) -> Markup:
    summary = one["variants"][variant]
    if summary.get(key) is None:
        return Markup("<td>–</td>")
    low, high = summary["intervals"][key]
    found = Markup("{:.1f}<small>{:.1f}–{:.1f}</small>").format(100 * summary[key], 100 * low, 100 * high)
    if len(variants) > 1 and variant == variants[-1]:
        found += _change(one["differences"].get(f"{variants[-1]} - {variants[-2]}", {}).get(key))
    return Markup("<td>{}</td>").format(found)


def _change(change: Mapping | None) -> Markup:
    """A paired difference; bold where its interval leaves zero out."""
    if not change:
        return Markup("")
    figures = [f"{100 * change[end]:+.1f}".replace("-", "−") for end in ("value", "low", "high")]
    clear = not change["low"] <= 0 <= change["high"]
    return Markup("<small>Δ <b>{}</b> ({} to {})</small>" if clear else "<small>Δ {} ({} to {})</small>").format(
        *figures
    )


def _worst(worst: Sequence[tuple[Clip, Mapping]], variant: str) -> Markup:
    rows = [
        Markup("<tr><td>{}<small>{:.1f} s</small>{}</td><td>{}</td><td>{}</td></tr>").format(
            clip.id, row["seconds"], _audio(clip), row["reference"], row["predictions"][variant]
        )
        for clip, row in worst
    ]
    return Markup(
        '<h2>The worst {} of {}</h2><p class="muted">By the reward: words, tags and inventions together.</p>'
        '<div class="wide" tabindex="0"><table class="worst"><thead><tr><th scope="col">clip</th>'
        '<th scope="col">reference</th><th scope="col">{}</th></tr></thead><tbody>{}</tbody></table></div>'
    ).format(len(rows), variant, variant, Markup("").join(rows))


def _audio(clip: Clip) -> Markup:
    """The clip to hear, at most MAX_SECONDS of it, as FLAC."""
    import soundfile

    if clip.sound is None:
        return Markup("")
    waveform = clip.sound() if callable(clip.sound) else audio.load(clip.sound)
    data = io.BytesIO()
    heard = np.clip(waveform[: MAX_SECONDS * audio.SAMPLE_RATE], -1, 1)
    soundfile.write(data, heard, audio.SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    content = base64.b64encode(data.getvalue()).decode()
    return Markup('<audio controls preload="none" src="data:audio/flac;base64,{}"></audio>').format(content)

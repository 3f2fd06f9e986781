"""A corpus on one HTML page: hours, lengths, tags, speakers, levels, ten clips to listen to, and every finding."""

import base64
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

from evoxtral import tags
from evoxtral.audio import SAMPLE_RATE
from training.corpora.checking import Heard, Report
from training.corpora.splitting import SHARES

MAX_ROWS = 500  # of a table
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: #1d1b26; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; } th, td { text-align: left; padding: .2rem .8rem .2rem 0;
vertical-align: top; } th { font-weight: 600; border-bottom: 1px solid #767189; } td.n { text-align: right;
font-variant-numeric: tabular-nums; } .bar { background: #5b46c9; height: .7rem; display: inline-block; }
.fatal { color: #a3103c; font-weight: 600; } audio { height: 2rem; } h2 { margin-top: 2rem; }
@media (prefers-color-scheme: dark) { body { background: #17151f; color: #eceaf4; } .fatal { color: #ff8fab; }
.bar { background: #a99bff; } }
"""


def page(report: Report) -> str:
    """The page, whole: it needs no other file."""
    name = escape(report.corpus.name)
    parts = [
        f"<h1>{name}</h1>", _verdict(report), _findings(report), "<h2>Clips</h2>", _figures(report),
        "<h2>Lengths</h2>", _histogram([clip.seconds for clip in report.clips], "s"),
        "<h2>Levels</h2>", _histogram([clip.level for clip in report.clips], "LUFS"),
        "<h2>Tags</h2>", _tags(report.clips), "<h2>Speakers</h2>", _speakers(report.clips),
        "<h2>Clips to listen to</h2>", _listen(report),
    ]  # fmt: skip
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Corpus '
        f"{name}</title><style>{STYLE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def figures(clips: Sequence[Heard]) -> dict[str, str]:
    """What the page and the command line tell of all clips together."""
    seconds = [clip.seconds for clip in clips]
    splits = Counter(clip.row.split for clip in clips)
    untagged = sum(not tags.names(clip.row.text) for clip in clips)
    unstressed = sum(not tags.emphasised(clip.row.text) for clip in clips)
    speakers = {clip.row.speaker for clip in clips} - {""}
    count = len(clips) or 1
    return {
        "clips": f"{len(clips)}" + "".join(f", {name} {splits[name]}" for name in SHARES),
        "hours": f"{sum(seconds) / 3600:.2f}",
        "length": f"{min(seconds, default=0):.1f} to {max(seconds, default=0):.1f} s, "
        f"{np.mean(seconds or [0]):.1f} on average",
        "without a tag": f"{untagged} ({untagged / count:.0%})",
        "without emphasis": f"{unstressed} ({unstressed / count:.0%})",
        "speakers": f"{len(speakers)}" if speakers else "unknown",
        "level": f"{np.median([clip.level for clip in clips] or [0]):.0f} LUFS, the median",
    }


def _verdict(report: Report) -> str:
    if report.fatal:
        return f'<p class="fatal">Findings that make training wrong: {report.fatal}. Put them right first.</p>'
    return f"<p>This corpus can be trained on. {escape(report.splitting)}</p>"


def _findings(report: Report) -> str:
    if not report.findings:
        return "<p>Nothing was found wrong.</p>"
    rows = (
        f"<tr><td{' class=fatal' if f.fatal else ''}>{'wrong' if f.fatal else 'note'}</td>"
        f"<td>{escape(f.where)}</td><td>{escape(f.sentence)}</td></tr>"
        for f in report.findings
    )
    return f"<h2>Findings</h2>{_table(('', 'where', 'what'), rows)}"


def _figures(report: Report) -> str:
    return _table((), (f"<tr><th>{k}</th><td>{escape(v)}</td></tr>" for k, v in figures(report.clips).items()))


def _tags(clips: Sequence[Heard]) -> str:
    """Tags by group, most frequent first, with the names that the corpus writes for each."""
    written = Counter(name for clip in clips for name in tags.names(clip.row.text))
    groups: dict[str, Counter] = {}
    for name, count in written.items():
        groups.setdefault(tags.group(name), Counter())[name] += count
    order = sorted(groups, key=lambda group: (-groups[group].total(), group))
    rows = []
    for group in order[:MAX_ROWS]:
        names = ", ".join(f"{name} {count}" for name, count in groups[group].most_common())
        known = tags.category(group) if group in tags.VOCABULARY else "not in the vocabulary"
        rows.append(
            f"<tr><td>[{escape(group)}]</td><td class=n>{groups[group].total()}</td><td>{escape(known)}</td>"
            f"<td>{escape(names)}</td></tr>"
        )
    return _table(("tag", "count", "kind", "as written"), rows)


def _speakers(clips: Sequence[Heard]) -> str:
    counts = Counter((clip.row.speaker or "unknown", clip.row.split) for clip in clips)
    rows = (
        f"<tr><td>{escape(speaker)}</td><td>{split}</td><td class=n>{count}</td></tr>"
        for (speaker, split), count in counts.most_common(MAX_ROWS)
    )
    return _table(("speaker", "split", "clips"), rows)


def _histogram(values: Sequence[float], unit: str, bins: int = 12) -> str:
    counts, edges = np.histogram([value for value in values if np.isfinite(value)], bins)
    rows = (
        f"<tr><td class=n>{low:.1f} to {high:.1f} {unit}</td><td class=n>{count}</td>"
        f'<td><span class=bar style="width:{20 * count / max(1, counts.max()):.1f}rem"></span></td></tr>'
        for low, high, count in zip(edges, edges[1:], counts, strict=False)
    )
    return _table((), rows)


def _listen(report: Report) -> str:
    rows = (
        f"<tr><td>{escape(clip.row.name)}<br>{clip.seconds:.1f} s</td>"
        f'<td><audio controls preload="none" aria-label="{escape(clip.row.name)}" src="{_flac(waveform)}"></audio></td>'
        f"<td>{escape(clip.row.text)}</td></tr>"
        for clip, waveform in report.ten
    )
    return _table(("recording", "sound", "text"), rows)


def _flac(waveform: np.ndarray) -> str:
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, waveform, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return f"data:audio/flac;base64,{base64.b64encode(file.getvalue()).decode()}"


def _table(head: Sequence[str], rows: Iterable[str]) -> str:
    header = "<tr>" + "".join(f"<th>{name}</th>" for name in head) + "</tr>" if head else ""
    return f"<table>{header}{''.join(rows)}</table>"

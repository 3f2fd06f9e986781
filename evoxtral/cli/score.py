"""The command `score`: Evoxtral-Bench over a file of predictions."""

import argparse
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from evoxtral import foreign_formats
from evoxtral.cli.arguments import OK, UsageError, add_json, print_json

if TYPE_CHECKING:
    from evoxtral.metrics import Report


def add_score(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("score", help="Evoxtral-Bench over predictions and references")
    parser.add_argument("file", metavar="FILE.jsonl", help='lines of {"prediction": "…", "reference": "…"}')
    known = {"choices": foreign_formats.FORMATS, "default": "evoxtral"}
    marks = "[laughs] (evoxtral, the default), (laughter), <|LAUGHTER|>, <whispering>…</whispering>, none; SRT as well"
    parser.add_argument("--format", **known, help=f"how predictions are written: {marks}")
    parser.add_argument("--reference-format", **known, help="and references")
    add_json(parser)
    parser.set_defaults(command=_score)


def _score(args: argparse.Namespace) -> int:
    from evoxtral import metrics

    try:
        content = Path(args.file).read_bytes()
    except OSError as error:
        raise UsageError(f"{args.file} cannot be read: {error.strerror}.") from error
    pairs = metrics.parse_pairs(content, args.file)
    pairs = [foreign_formats.pair(*pair, args.format, args.reference_format) for pair in pairs]
    report = metrics.score(pairs, normalised=True)
    if args.json:
        print_json(metrics.summary(report))
    else:
        print("\n".join(_table(report)))
    return OK


def _table(report: "Report") -> Iterator[str]:
    from evoxtral.metrics import intervals

    for name, value in asdict(report.scores).items():
        yield f"{name:21} {value:8d}" if name == "n" else f"{name:21} {_percent(value):>8}"
    yield f"\n{'':21} {'':8} 95 % interval"
    for name, interval in intervals(report).items():
        if interval and name not in asdict(report.scores):
            yield f"{name:21} {_percent(interval.value):>8} {_percent(interval.low)} – {_percent(interval.high)}"
    if report.per_tag:
        yield f"\n{'tag':21} precision   recall       f1  support"
    for name, tag in report.per_tag.items():
        yield f"{name:21} {tag.precision:9.3f}{tag.recall:9.3f}{tag.f1:9.3f}{tag.support:9d}"


def _percent(fraction: float | None) -> str:
    return "–" if fraction is None else f"{fraction:.1%}"

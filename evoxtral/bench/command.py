"""`python -m evoxtral bench`. Heavy modules are imported when it runs."""

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path

from evoxtral.errors import EvoxtralError

log = logging.getLogger(__name__)

# Of results, what is printed: key, heading.
SHOWN = (
    ("tagged_placed_tag_f1", "Tag F1 by place"),
    ("tag_hallucination", "invented"),
    ("normalised_corpus_wer", "WER"),
)


def add(commands: argparse._SubParsersAction, add_model: Callable) -> None:
    parser = commands.add_parser("bench", help="run a model on ladders of noise, rooms and texts, or on your folder")
    parser.add_argument(
        "sets",
        nargs="+",
        metavar="SET|FOLDER",
        help="all, ladders, one such as noise (`bench list` names them), or a folder with metadata.jsonl: lines of "
        '{"file_name": "…", "text": "…"}',
    )
    parser.add_argument("--variant", help="base, sft, rl …, several with commas (default: all)")
    parser.add_argument("-o", "--output", metavar="FOLDER", help="new, or to go on with (default: bench-MODEL)")
    parser.add_argument("--limit", type=int, metavar="N", help="clips of each rung at most (default: 300)")
    parser.add_argument("--seed", type=int, default=0, help="of noises and rooms (default: 0)")
    add_model(parser)
    help = "precisions, such as int8,int4,bf16: the others are compared with the most exact (default: as transcribe)"
    parser.add_argument("--weights", metavar="KIND,…", help=help)
    parser.set_defaults(command=_bench)


def _bench(args: argparse.Namespace) -> int:
    from evoxtral.bench import precisions, running, sets
    from evoxtral.model import checkpoints

    if args.sets == ["list"]:
        print("\n".join(f"{name:11} {one.about}: {', '.join(one.rungs)}" for name, one in sets.SETS.items()))
        return 0
    if args.limit is not None and args.limit < 1:
        raise sets.BenchError(f"--limit is {args.limit}: it must be at least 1.")
    if args.seed < 0:
        raise sets.BenchError(f"--seed is {args.seed}: it must be 0 or a whole number above.")
    weights = precisions.chosen(args.weights)
    checkpoint = checkpoints.resolve(args.model)
    variants = tuple(args.variant.split(",")) if args.variant and args.variant != "all" else checkpoint.variants
    if unknown := [name for name in variants if name not in checkpoint.variants]:
        known = ", ".join(checkpoint.variants)
        raise EvoxtralError(f"{checkpoint.name} has no variant {unknown[0]!r}; choose of {known}, or all.")
    out = Path(args.output or f"bench-{Path(checkpoint.name).name}")
    found = running.bench(checkpoint, args.sets, out, variants, args.limit, args.seed, args.quiet, weights)
    print("\n".join([*_table(found), *_costs(found)]))
    log.info("%s: results.json, predictions.jsonl, report.html", out)
    for identity, complaint in found["failed"].items():
        print(f"{identity}: {complaint}", file=sys.stderr)
    return 2 if found["failed"] else 0


def _table(found: dict) -> list[str]:
    """Figures in percent, a column for each variant."""
    names = found["variants"]
    width = 8 * len(names)
    lines = [f"{'':34}{'n':>5}  " + "".join(f"{title:<{width}}" for _, title in SHOWN)]
    lines.append(f"{'':41}" + "".join("".join(f"{name:<8}" for name in names) for _ in SHOWN))
    for name, entry in found["sets"].items():
        for rung, one in entry["rungs"].items():
            cells = (_percent(one["variants"][variant].get(key)) for key, _ in SHOWN for variant in names)
            lines.append(f"{name + ' ' + rung:34}{one['n']:5}  " + "".join(f"{cell:<8}" for cell in cells))
    return lines


def _costs(found: dict) -> list[str]:
    """Differences from the most exact precision in points, with their intervals, a line for each variant."""
    lines = []
    for kind, other in found["other_precisions"].items():
        title = f"{kind} - {found['precision']}, points"
        lines += ["", f"{title:41}" + "".join(f"{heading:<26}" for _, heading in SHOWN) + "same text"]
        rungs = {f"{name} {rung}": one for name, some in other["cost"].items() for rung, one in some.items()}
        for title, by_variant in (rungs | {"all together": other["pooled"]}).items():
            for variant, one in by_variant.items():
                cells = "".join(f"{_points(one['differences'].get(key)):<26}" for key, _ in SHOWN)
                lines.append(f"{title:34}{variant:7}{cells}{one['same_text']:.0%}")
    return lines


def _points(change: dict | None) -> str:
    return (
        "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * change[end] for end in ("value", "low", "high")))
        if change
        else "–"
    )


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"

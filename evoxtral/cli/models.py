"""The commands `info`, `merge` and `quantize`: what a model is made of, and copies of it in other forms."""

import argparse
import logging
from pathlib import Path

from evoxtral.cli.arguments import OK, add_json, add_model, print_json, show_progress

log = logging.getLogger(__name__)


def add_info(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("info", help="what a model is made of")
    add_model(parser)
    add_json(parser)
    parser.set_defaults(command=_info)


def _info(args: argparse.Namespace) -> int:
    from evoxtral.model import checkpoints

    checkpoint = checkpoints.resolve(args.model)
    total, trainable = checkpoints.parameter_counts(checkpoint)
    result = {
        "model": checkpoint.name,
        "variants": checkpoint.variants,
        "total_parameters": total,
        "trainable_parameters": trainable,
    }
    if args.json:
        print_json(result)
    else:
        print(f"{checkpoint.name}: {', '.join(checkpoint.variants)}")
        print(f"{total:,} parameters, {trainable:,} of them trainable ({trainable / total:.4%})")
    return OK


def add_merge(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("merge", help="write a model with its adapter merged in, for other engines")
    parser.add_argument("--variant", help="the adapter (default: the model's last, as a rule rl)")
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="a new folder")
    parser.add_argument(
        "--layout", choices=("transformers", "mistral"), default="transformers", help="mistral: for vLLM's Voxtral"
    )
    add_model(parser)
    parser.set_defaults(command=_merge)


def _merge(args: argparse.Namespace) -> int:
    from evoxtral.model import checkpoints

    show_progress(not args.quiet)
    checkpoint = checkpoints.resolve(args.model)
    variant = args.variant or checkpoint.variants[-1]
    checkpoints.write_merged(checkpoint, variant, Path(args.output), args.layout)
    log.info("%s: %s with %s merged in", args.output, checkpoint.name, variant)
    return OK


def add_quantize(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("quantize", help="write a model with weights in 8 or 4 bits, for a CPU")
    parser.add_argument("source", nargs="?", default="auto", metavar="MODEL", help="as of --model elsewhere")
    parser.add_argument("--weights", choices=("int8", "int4"), default="int8", help="default: int8")
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="a new folder, with base/ and adapters")
    parser.set_defaults(command=_quantize)


def _quantize(args: argparse.Namespace) -> int:
    from evoxtral.model import checkpoints, quantized_files

    show_progress(not args.quiet)
    checkpoint = checkpoints.resolve(args.source)
    written = quantized_files.write(checkpoint, args.weights, Path(args.output))
    state = "written" if written else "there already, from the same weights"
    log.info("%s: %s in %s, %s", args.output, checkpoint.name, args.weights, state)
    return OK

"""What the commands share: the parser, arguments that several take, exit codes, JSON on stdout."""

import argparse
import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NoReturn

from evoxtral.errors import EvoxtralError

if TYPE_CHECKING:
    from evoxtral.transcript import Transcript

OK, FAILED, INTERRUPTED = 0, 2, 130  # exit codes; 130 is the shell's own for Ctrl-C


class UsageError(EvoxtralError):
    """Arguments that do not fit together, or a file of the command line that cannot be read or written."""


class Parser(argparse.ArgumentParser):
    """argparse with errors in one sentence, and help texts that may need a slow import."""

    late_epilog: Callable[[], str] | None = None

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message[0].upper()}{message[1:]}; see `{self.prog} --help`.")

    def format_help(self) -> str:
        if self.late_epilog is not None:
            self.epilog = self.late_epilog()
        return super().format_help()


def add_request(parser: Parser) -> None:
    """Arguments of the commands that transcribe."""
    parser.add_argument("--variant", help="base, sft, rl … or all (default: the model's last, as a rule rl)")
    parser.add_argument("--language", default="en", help="ISO 639-1 code, auto to detect it (default: en)")
    parser.add_argument("--max-seconds", type=float, metavar="S", help="longest recording taken (default: 1800)")
    parser.add_argument("--strict", action="store_true", help="refuse a recording that is incomplete")
    add_model(parser)
    add_weights(parser)


def max_seconds(args: argparse.Namespace) -> float:
    from evoxtral.audio import MAX_SECONDS

    return MAX_SECONDS if args.max_seconds is None else args.max_seconds


def language_of(args: argparse.Namespace) -> str | None:
    return None if args.language == "auto" else args.language


def missing(file: str, transcript: "Transcript") -> Iterator[str]:
    """Sentences on what is missing of a recording, and on what was left out."""
    if transcript.incomplete:
        yield f"{file}: incomplete: {transcript.incomplete}."
    for note in transcript.notes:
        yield f"{file}: {note}."


def add_model(parser: Parser) -> None:
    help = "tiny, mini-3b, a base's folder, or one with base/, sft/, rl/ (default: what this machine can run)"
    parser.add_argument("--model", default="auto", metavar="tiny|mini-3b|FOLDER", help=help)


def add_weights(parser: Parser) -> None:
    choices = ("auto", "fp32", "bf16", "fp16", "int8", "int4")
    help = "precision of the weights (default: EVOXTRAL_WEIGHTS, or what is fastest here and fits)"
    parser.add_argument("--weights", choices=choices, help=help)
    help = "encode windows of S seconds: faster for short clips, less exact (default: EVOXTRAL_WINDOW, or its own)"
    parser.add_argument("--window", type=float, metavar="S", help=help)


def add_json(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")


def show_progress(shown: bool) -> None:
    """Whether progress bars of downloading and loading weights go to stderr."""
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars
    from transformers.utils import logging as transformers_logging

    if shown:
        enable_progress_bars()
        transformers_logging.enable_progress_bar()
    else:
        disable_progress_bars()
        transformers_logging.disable_progress_bar()


def print_json(value: object) -> None:
    print(json.dumps(value, indent=2, allow_nan=False))

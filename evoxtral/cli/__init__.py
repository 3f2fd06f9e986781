"""`python -m evoxtral`: the command line.

Results go to stdout and everything else to stderr, so that a pipe carries only results. An error of the caller ends
with exit code 2 and one sentence. Heavy modules are imported by the command that needs them: `--help` is instant.
"""

import io
import logging
import os
import sys
from collections.abc import Sequence

from evoxtral import __version__
from evoxtral.bench import command as bench_command
from evoxtral.cli import bulk, models, score, serve, speak, transcribe
from evoxtral.cli.arguments import FAILED, INTERRUPTED, OK, Parser, add_model
from evoxtral.errors import EvoxtralError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0, 2 for an error of the caller, 130 for Ctrl-C."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that cannot show "…" gets an escape instead
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        args = build_parser().parse_args(argv)
        logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
        logging.getLogger("evoxtral").setLevel(logging.WARNING if args.quiet else logging.INFO)
        code = args.command(args)
        sys.stdout.flush()
        return code
    except EvoxtralError as error:
        print(error, file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader (`| head`) has seen enough; the interpreter must not flush again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK


def build_parser() -> Parser:
    parser = Parser(prog="python -m evoxtral", description="Expressive speech-to-text with inline tags.")
    parser.add_argument("--version", action="version", version=f"evoxtral {__version__}")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    transcribe.add_transcribe(commands)
    transcribe.add_tracks(commands)
    bulk.add_bulk(commands)
    speak.add_speak(commands)
    score.add_score(commands)
    bench_command.add(commands, add_model)
    models.add_info(commands)
    models.add_merge(commands)
    models.add_quantize(commands)
    serve.add_serve(commands)
    return parser

"""Corpora of your own: check one before training on it, or convert one that others published.

    python training/corpus.py check FOLDER
    python training/corpus.py convert nonverbaltts deepvk/NonverbalTTS FOLDER

docs/training.md shows what a corpus is, and the way from one to an adapter.
"""

import argparse
import logging
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # see run.py

from evoxtral.errors import EvoxtralError  # noqa: E402
from training.corpora import checking, page, reading  # noqa: E402

TOLD = 20  # findings on the command line; the page has all


def check(options: argparse.Namespace) -> int:
    """Read and hear a whole corpus, write the page; 2 if training on it would be wrong."""
    columns = reading.Columns(options.text_column, options.audio_column)
    report = checking.check(reading.read(options.corpus, columns, options.subset), options.window)
    options.page.write_text(page.page(report), encoding="utf-8")
    for finding in report.findings[:TOLD]:
        print(f"{'' if finding.fatal else 'note: '}{finding}", file=sys.stderr)
    if len(report.findings) > TOLD:
        print(f"… and {len(report.findings) - TOLD} more on {options.page}.", file=sys.stderr)
    for name, value in page.figures(report.clips).items():
        print(f"{name + ':':18}{value}")
    print(report.splitting)
    print(f"Everything is on {options.page}.")
    if report.fatal:
        print(f"{report.fatal} findings make training wrong: put them right first.", file=sys.stderr)
    return 2 if report.fatal else 0


def _add_check(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("check", help="what is wrong with a corpus, and one HTML page about it")
    parser.add_argument("corpus", help="a folder, a Parquet file or a Hub dataset (owner/name)")
    parser.add_argument("--page", type=Path, default=Path("corpus.html"), help="where the page goes (corpus.html)")
    parser.add_argument("--window", type=float, default=30.0, help="seconds the model hears at once (30; tiny: 10)")
    parser.add_argument("--text-column", default="", help="where it is not `text`")
    parser.add_argument("--audio-column", default="", help="where it is not `file_name` or `audio`")
    parser.add_argument("--subset", default="", help="a folder inside the corpus")
    parser.set_defaults(command=check)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="training/corpus.py", description=__doc__.split("\n\n")[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_check(commands)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        return options.command(options)
    except EvoxtralError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{error.filename or 'A file'} cannot be used: {error.strerror or error}.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted: the same command goes on from here.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

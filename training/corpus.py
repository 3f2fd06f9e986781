"""Corpora of your own: check one before training on it, make one, or convert one that others published.

    python training/corpus.py check FOLDER
    python training/corpus.py make FOLDER --voice elevenlabs --dry-run
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

from evoxtral.errors import RecipeError  # noqa: E402
from training.corpora import checking, converting, making, page, reading  # noqa: E402
from training.exit_codes import exit_code  # noqa: E402

TOLD = 20  # findings on the command line; the page has all


def check(options: argparse.Namespace) -> int:
    """Read and hear a whole corpus, write the page; 2 if training on it would be wrong."""
    if not options.window > 0:
        raise RecipeError(f"--window {options.window:g} must be more than 0 seconds.")
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
        print(f"Findings that make training wrong: {report.fatal}. Put them right first.", file=sys.stderr)
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


def convert(options: argparse.Namespace) -> int:
    """Write a published corpus as a folder."""
    count = converting.convert(options.kind, options.source, options.folder, options.emotions)
    print(f"{count} clips are in {options.folder}: check them with `training/corpus.py check {options.folder}`.")
    return 0


def _add_convert(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("convert", help="a corpus that others published, as a folder of ours")
    parser.add_argument("kind", choices=converting.KINDS)
    parser.add_argument("source", help="a folder, or a Hub dataset")
    parser.add_argument("folder", type=Path, help="a new one")
    parser.add_argument("--emotions", action="store_true", help="begin each text with the clip's emotion as a tag")
    parser.set_defaults(command=convert)


def make(options: argparse.Namespace) -> int:
    """Speak a corpus; 2 if clips stayed implausible."""
    config = making.MakeConfig(
        options.clips,
        options.voice,
        tuple(options.speaker),
        options.model,
        options.seed,
        options.concurrency,
        options.form,
        scripts_from=options.scripts_from,
        scripts_model=options.scripts_model,
    )
    price = making.cost(options.folder, config)
    print(f"{price}.")
    if options.dry_run:
        return 0
    if price.dollars > options.budget:
        raise RecipeError(f"That is more than the budget of ${options.budget:.2f}: give --budget {price.dollars:.2f}.")
    key = making.key_of() if options.voice == "elevenlabs" else ""
    wrong = making.make(options.folder, config, key)
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    print(f"{config.clips - len(wrong)} clips are in {options.folder}.")
    return 2 if wrong else 0


def _add_make(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("make", help="a corpus in the embedded voice, natural ones, or ElevenLabs'")
    parser.add_argument("folder", type=Path, help="a new one, or one that was interrupted")
    parser.add_argument("--voice", choices=making.VOICES, default="embedded")
    parser.add_argument("--clips", type=int, default=1010)
    parser.add_argument(
        "--speaker", action="append", default=[], help="a voice, or its id; repeatable; they take turns"
    )
    parser.add_argument(
        "--scripts-from", default="", metavar="URL",
        help="scripts by a language model at an OpenAI-compatible endpoint (http://localhost:8000/v1; its key is "
        "OPENAI_API_KEY), not of the grammar; --dry-run has them written, too",
    )  # fmt: skip
    parser.add_argument("--scripts-model", default="", metavar="NAME", help="its name at that endpoint")
    parser.add_argument("--model", default="eleven_v3", help=f"of ElevenLabs: {', '.join(making.MODELS)} or another")
    parser.add_argument("--form", default="mp3_44100_128", help="mp3_44100_128, or pcm_16000 where the plan has it")
    parser.add_argument("--concurrency", type=int, default=4, help="requests at once (4)")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--dry-run", action="store_true", help="print characters, credits and dollars only")
    parser.add_argument("--budget", type=float, default=0.0, help="dollars that may be spent (0)")
    parser.set_defaults(command=make)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="training/corpus.py", description=__doc__.split("\n\n")[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_check(commands)
    _add_convert(commands)
    _add_make(commands)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    return exit_code(lambda: options.command(options))


if __name__ == "__main__":
    sys.exit(main())

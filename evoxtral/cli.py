"""`python -m evoxtral`: the command line.

Results go to stdout and everything else to stderr, so that a pipe carries only results. An error of the caller ends
with exit code 2 and one sentence. Heavy modules are imported by the command that needs them: `--help` is instant.
"""

import argparse
import io
import json
import logging
import os
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from evoxtral import __version__, foreign_formats
from evoxtral.bench import command as bench_command
from evoxtral.errors import EvoxtralError
from evoxtral.exports import STDIN, Folder, Output, in_dialect, is_folder
from evoxtral.transcript import FORMATS

if TYPE_CHECKING:
    from evoxtral.metrics import Report
    from evoxtral.model.checkpoints import Checkpoint
    from evoxtral.transcript import Transcript

OK, FAILED, INTERRUPTED = 0, 2, 130  # exit codes; 130 is the shell's own for Ctrl-C

log = logging.getLogger(__name__)


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
    _add_transcribe(commands)
    _add_list(commands)
    _add_bulk(commands)
    _add_speak(commands)
    _add_score(commands)
    bench_command.add(commands, _add_model)
    _add_info(commands)
    _add_merge(commands)
    _add_quantize(commands)
    _add_serve(commands)
    return parser


# --- transcribe -------------------------------------------------------------------------------------------


def _add_transcribe(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("transcribe", help="audio files to tagged text")
    parser.add_argument("files", nargs="+", metavar="FILE", help="WAV, FLAC, MP3, OGG, M4A, WebM …; - reads stdin")
    parser.add_argument("--format", choices=FORMATS, help="default: what FILE's ending says, else txt")
    parser.add_argument(
        "-o", "--output", metavar="FILE|FOLDER", help="instead of stdout; in a folder each recording has its own file"
    )
    parser.add_argument(
        "--dialect", choices=foreign_formats.DIALECTS, help="tags as this text-to-speech system wants them"
    )
    _add_tracks(parser)
    _add_request(parser)
    parser.set_defaults(command=_transcribe)


def _transcribe(args: argparse.Namespace) -> int:
    """A file that cannot be read is named on stderr and in the JSON, and the others are transcribed."""
    from evoxtral import audio
    from evoxtral.inference import bulk, multitrack
    from evoxtral.inference.engine import Engine
    from evoxtral.model import checkpoints

    _show_progress(not args.quiet)
    checkpoint = checkpoints.resolve(args.model, weights=args.weights)
    variants, language = _variants(args.variant, checkpoint), _language(args)
    code = OK
    output = Output(args.output, args.format, args.files, variants, partial(print, flush=True), args.dialect)
    engine = Engine(checkpoint)
    with output:
        for number, file in enumerate(args.files, 1):
            log.info("%s (%d/%d)", file, number, len(args.files))
            try:
                chosen = audio.chosen(args.track, args.channels)
                source, longest = bulk.source(file), _max_seconds(args)
                found = [*multitrack.transcribe(engine, source, variants, language, longest, *chosen, args.strict)]
            except EvoxtralError as error:
                print(f"{file}: {error}", file=sys.stderr)
                output.failed(file, error)
                code = FAILED
                continue
            for transcripts in found:
                track = next(iter(transcripts.values())).track
                named = f"{file} · track {track}" if track and output.form != "json" else file
                output.add(named, checkpoint.name, transcripts)
                cut = [variant for variant, transcript in transcripts.items() if transcript.truncated]
                if cut and output.form != "json":
                    print(f"{named}: cut at the length limit or in a loop: {', '.join(cut)}.", file=sys.stderr)
                _warn(named, transcripts)
                if args.dialect:
                    _name_lost(named, transcripts, args.dialect)
            _say_what_is_missing(file, next(iter(found[0].values())))
    return code


def _variants(asked: str | None, checkpoint: "Checkpoint") -> tuple[str, ...]:
    """The variants to run, the last one where none is asked for; known before any weights are loaded."""
    asked = asked or checkpoint.variants[-1]
    if asked not in (*checkpoint.variants, "all"):
        known = ", ".join(checkpoint.variants)
        raise UsageError(f"{checkpoint.name} has no variant {asked!r}; choose one of {known}, or all.")
    return checkpoint.variants if asked == "all" else (asked,)


def _warn(file: str, transcripts: Mapping[str, "Transcript"]) -> None:
    """Warn on stderr about doubtful transcripts."""
    from evoxtral import confidence

    doubtful = {variant: transcript for variant, transcript in transcripts.items() if transcript.doubtful}
    if doubtful:
        told = confidence.WARNING.rstrip(".")
        hidden = max(transcript.hide_below for transcript in doubtful.values())
        print(
            f"{file}: {told} ({', '.join(doubtful)}). Tags below {hidden:.0%} are in the JSON only.",
            file=sys.stderr,
        )


def _name_lost(file: str, transcripts: Mapping[str, "Transcript"], dialect: str) -> None:
    """Name on stderr the tags that a dialect has no counterpart for."""
    lost = {tag: None for transcript in transcripts.values() for tag in in_dialect(transcript, dialect).lost}
    if lost and dialect != "plain":
        print(f"{file}: {dialect} has nothing for {' '.join(lost)}.", file=sys.stderr)


def _add_tracks(parser: argparse.ArgumentParser) -> None:
    """Which tracks and channels of a recording."""
    parser.add_argument("--track", metavar="N|each", help="one track, or each by itself (default: all mixed)")
    parser.add_argument(
        "--channels", default="mix", metavar="mix|each|N", help="each: a transcript with the channels' names"
    )


def _add_list(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("tracks", help="the tracks and channels of audio files, for --track and --channels")
    parser.add_argument("files", nargs="+", metavar="FILE")
    _add_json(parser)
    parser.set_defaults(command=_list)


def _list(args: argparse.Namespace) -> int:
    from evoxtral import audio

    code, listed = OK, []
    for file in args.files:
        try:
            tracks = audio.listing(file)
        except EvoxtralError as error:
            print(f"{file}: {error}", file=sys.stderr)
            code = FAILED
            continue
        listed.append({"file": file, "tracks": [asdict(track) for track in tracks]})
        for track in () if args.json else tracks:
            kind = ", ".join((*track.channels, f"{track.rate:,} Hz")) if track.decodes else "cannot be decoded here"
            about = ", ".join(filter(None, (track.name, track.language)))
            print(f"{file} · track {track.number}{f' ({about})' if about else ''}: {kind}")
    if args.json:
        print_json(listed)
    return code


def _say_what_is_missing(file: str, transcript: "Transcript") -> None:
    """Warn on stderr about a recording that is incomplete or of which parts were left out."""
    if transcript.incomplete:
        print(f"{file}: incomplete: {transcript.incomplete}.", file=sys.stderr)
    for note in transcript.notes:
        print(f"{file}: {note}.", file=sys.stderr)


# --- bulk -------------------------------------------------------------------------------------------------


def _add_bulk(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "bulk", help="thousands of audio files to one file of results, or to a folder; resumable"
    )
    parser.add_argument("paths", nargs="+", metavar="FILE|FOLDER", help="recordings, and folders of them")
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="FILE.jsonl|FOLDER",
        help="new, or to go on with; a folder for --format",
    )
    parser.add_argument("--format", choices=FORMATS, help="a file of it for each recording, in the folder of -o")
    _add_request(parser)
    parser.set_defaults(command=_bulk)


def _bulk(args: argparse.Namespace) -> int:
    """Files that are already in the output are skipped; those that cannot be read are named on stderr."""
    from tqdm import tqdm

    from evoxtral.inference import bulk
    from evoxtral.inference.engine import Engine
    from evoxtral.model import checkpoints

    files = bulk.relative_paths(args.paths)
    _show_progress(not args.quiet)
    checkpoint = checkpoints.resolve(args.model, weights=args.weights)
    variants = _variants(args.variant, checkpoint)
    code, seconds = OK, 0.0
    with _bulk_output(args, files, checkpoint.name, variants) as output:
        left = [file for file in files if file == STDIN or file not in output.done]
        log.info("%d files, %d of them done already", len(files), len(files) - len(left))
        asked = variants, _language(args), _max_seconds(args), args.strict
        done = bulk.transcribe(Engine(checkpoint), left, *asked) if left else ()
        started = time.perf_counter()
        with tqdm(total=len(left), unit="file", file=sys.stderr, disable=args.quiet) as bar:
            for file, result in done:
                bar.update()
                if isinstance(result, EvoxtralError):
                    bar.write(f"{file}: {result}", file=sys.stderr)
                    code = FAILED
                    continue
                output.add(file, checkpoint.name, result)
                seconds += next(iter(result.values())).duration
                bar.set_postfix_str(f"{seconds / (time.perf_counter() - started):.0f} × real time", refresh=False)
    return code


def _bulk_output(
    args: argparse.Namespace, files: Mapping[str, Path], model: str, variants: tuple[str, ...]
) -> AbstractContextManager:
    from evoxtral.inference import bulk

    if args.format and not is_folder(args.output):
        raise UsageError(f"--format writes a file for each recording: name a folder with -o, not {args.output}.")
    if args.format:
        return nullcontext(Folder(args.output, args.format, files, variants))
    return bulk.ResultsFile(Path(args.output), model, variants)


# --- speak ------------------------------------------------------------------------------------------------


def _add_speak(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("speak", help="tagged text to a WAV file")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter  # does not break the names of voices
    parser.late_epilog = _voices
    parser.add_argument("text", metavar="TEXT", help='"[nervous] So… I was thinking. [sighs]"')
    parser.add_argument("-o", "--output", required=True, metavar="FILE.wav", help="16 kHz mono, 16 bit")
    parser.add_argument("--voice", help="one of the voices below")
    parser.add_argument("--seed", type=int, default=0, help="another speaker of the same voice (default: 0)")
    parser.set_defaults(command=_speak)


def _voices() -> str:
    from evoxtral.speech import VOICES, kokoro, performer

    lines = [textwrap.fill("voices: " + ", ".join((*performer.installed(), *VOICES)), break_on_hyphens=False)]
    lines += [complaint for complaint in (kokoro.missing(),) if complaint]
    return "\n".join(lines)


def _speak(args: argparse.Namespace) -> int:
    from evoxtral import audio
    from evoxtral.speech import DEFAULT_VOICE, speak

    output = Path(args.output)
    if output.suffix.lower() != ".wav":
        raise UsageError(f"{output} is not a .wav file name; speech is written as WAV.")
    speech = speak(args.text, voice=args.voice or DEFAULT_VOICE, seed=args.seed)
    if speech.skipped:
        print(f"Skipped, without a sound or a word to act on: {' '.join(speech.skipped)}", file=sys.stderr)
    audio.save(output, speech.waveform)
    log.info("%s: %.1f s", output, audio.duration(speech.waveform))
    return OK


# --- score ------------------------------------------------------------------------------------------------


def _add_score(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("score", help="Evoxtral-Bench over predictions and references")
    parser.add_argument("file", metavar="FILE.jsonl", help='lines of {"prediction": "…", "reference": "…"}')
    known = {"choices": foreign_formats.FORMATS, "default": "evoxtral"}
    marks = "[laughs] (evoxtral, the default), (laughter), <|LAUGHTER|>, <whispering>…</whispering>, none; SRT as well"
    parser.add_argument("--format", **known, help=f"how predictions are written: {marks}")
    parser.add_argument("--reference-format", **known, help="and references")
    _add_json(parser)
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


# --- info, merge and serve --------------------------------------------------------------------------------


def _add_info(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("info", help="what a model is made of")
    _add_model(parser)
    _add_json(parser)
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


def _add_merge(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("merge", help="write a model with its adapter merged in, for other engines")
    parser.add_argument("--variant", help="the adapter (default: the model's last, as a rule rl)")
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="a new folder")
    parser.add_argument(
        "--layout", choices=("transformers", "mistral"), default="transformers", help="mistral: for vLLM's Voxtral"
    )
    _add_model(parser)
    parser.set_defaults(command=_merge)


def _merge(args: argparse.Namespace) -> int:
    from evoxtral.model import checkpoints

    _show_progress(not args.quiet)
    checkpoint = checkpoints.resolve(args.model)
    variant = args.variant or checkpoint.variants[-1]
    checkpoints.write_merged(checkpoint, variant, Path(args.output), args.layout)
    log.info("%s: %s with %s merged in", args.output, checkpoint.name, variant)
    return OK


def _add_quantize(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("quantize", help="write a model with weights in 8 or 4 bits, for a CPU")
    parser.add_argument("source", nargs="?", default="auto", metavar="MODEL", help="as of --model elsewhere")
    parser.add_argument("--weights", choices=("int8", "int4"), default="int8", help="default: int8")
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="a new folder, with base/ and adapters")
    parser.set_defaults(command=_quantize)


def _quantize(args: argparse.Namespace) -> int:
    from evoxtral.model import checkpoints, stored

    _show_progress(not args.quiet)
    checkpoint = checkpoints.resolve(args.source)
    written = stored.write(checkpoint, args.weights, Path(args.output))
    state = "written" if written else "there already, from the same weights"
    log.info("%s: %s in %s, %s", args.output, checkpoint.name, args.weights, state)
    return OK


def _add_serve(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("serve", help="the same over HTTP")
    parser.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, this machine only")
    parser.add_argument("--port", type=int, default=8000, help="default: 8000")
    parser.add_argument("--max-megabytes", type=float, metavar="MB", help="largest file taken")
    parser.add_argument("--max-seconds", type=float, metavar="S", help="longest recording taken")
    parser.add_argument("--max-requests", type=int, metavar="N", help="requests under way, more are answered 503")
    parser.add_argument("--token-file", metavar="FILE", help="only these may ask: a line for each, TOKEN or NAME TOKEN")
    parser.add_argument("--per-minute", type=float, metavar="N", help="requests of one token, or address, a minute")
    parser.add_argument("--concurrent", type=int, metavar="N", help="requests of one token, or address, at a time")
    parser.add_argument("--allow-origin", action="append", metavar="URL", help="pages whose scripts may ask; * for all")
    parser.add_argument(
        "--alias", action="append", metavar="NAME[=VARIANT]", help="another model name, as whisper-1 in old programs"
    )
    _add_model(parser)
    _add_weights(parser)
    parser.set_defaults(command=_serve)


def _serve(args: argparse.Namespace) -> int:
    from evoxtral.model import checkpoints
    from evoxtral.serve import access, api

    _show_progress(not args.quiet)
    asked = {
        "megabytes": args.max_megabytes,
        "seconds": args.max_seconds,
        "requests": args.max_requests,
        "per_minute": args.per_minute,
        "concurrent": args.concurrent,
    }
    asked = {name: value for name, value in asked.items() if value is not None}
    wrong = [name for name, value in asked.items() if value <= 0]
    if wrong:
        raise UsageError(f"A limit is above 0: {wrong[0]} is {asked[wrong[0]]}.")
    checkpoint = checkpoints.resolve(args.model, weights=args.weights)
    aliases = dict(alias.partition("=")[::2] for alias in args.alias or ())
    options = api.Options(
        access.read_tokens(args.token_file) if args.token_file else {},
        args.allow_origin or (),
        {name: variant or checkpoint.variants[-1] for name, variant in aliases.items()},
    )
    with api.address(args.host, args.port) as at:  # before the weights: what is wrong with it is known at once
        api.run(checkpoint, at, api.Limits(**asked), options)
    return OK


# --- shared -----------------------------------------------------------------------------------------------


def _add_request(parser: Parser) -> None:
    """Arguments of the commands that transcribe."""
    parser.add_argument("--variant", help="base, sft, rl … or all (default: the model's last, as a rule rl)")
    parser.add_argument("--language", default="en", help="ISO 639-1 code, auto to detect it (default: en)")
    parser.add_argument("--max-seconds", type=float, metavar="S", help="longest recording taken (default: 1800)")
    parser.add_argument("--strict", action="store_true", help="refuse a recording that is incomplete")
    _add_model(parser)
    _add_weights(parser)


def _max_seconds(args: argparse.Namespace) -> float:
    from evoxtral.audio import MAX_SECONDS

    return MAX_SECONDS if args.max_seconds is None else args.max_seconds


def _language(args: argparse.Namespace) -> str | None:
    return None if args.language == "auto" else args.language


def _add_model(parser: Parser) -> None:
    help = "tiny, mini-3b, a base's folder, or one with base/, sft/, rl/ (default: what this machine can run)"
    parser.add_argument("--model", default="auto", metavar="tiny|mini-3b|FOLDER", help=help)


def _add_weights(parser: Parser) -> None:
    choices = ("auto", "fp32", "bf16", "fp16", "int8", "int4")
    help = "precision of the weights (default: EVOXTRAL_WEIGHTS, or what is fastest here and fits)"
    parser.add_argument("--weights", choices=choices, help=help)


def _add_json(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")


def _show_progress(shown: bool) -> None:
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

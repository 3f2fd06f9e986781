"""The commands `transcribe` and `tracks`: recordings to text."""

import argparse
import logging
import sys
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

from evoxtral import foreign_formats
from evoxtral.cli.arguments import (
    FAILED,
    OK,
    UsageError,
    add_json,
    add_request,
    language_of,
    max_seconds,
    missing,
    print_json,
    show_progress,
)
from evoxtral.errors import EvoxtralError
from evoxtral.exports import Output, in_dialect
from evoxtral.transcript import FORMATS

if TYPE_CHECKING:
    from evoxtral.model.checkpoints import Checkpoint
    from evoxtral.transcript import Transcript

log = logging.getLogger(__name__)


def add_transcribe(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("transcribe", help="audio files to tagged text")
    parser.add_argument("files", nargs="+", metavar="FILE", help="recordings and videos; - reads stdin")
    parser.add_argument("--format", choices=FORMATS, help="default: what FILE's ending says, else txt")
    parser.add_argument(
        "-o", "--output", metavar="FILE|FOLDER", help="instead of stdout; in a folder each recording has its own file"
    )
    parser.add_argument(
        "--dialect", choices=foreign_formats.DIALECTS, help="tags as this text-to-speech system wants them"
    )
    _add_parts(parser)
    add_request(parser)
    parser.set_defaults(command=_transcribe)


def _transcribe(args: argparse.Namespace) -> int:
    """A file that cannot be read is named on stderr and in the JSON, and the others are transcribed."""
    from evoxtral import audio
    from evoxtral.inference import inputs, multitrack
    from evoxtral.inference.engine import Engine
    from evoxtral.model import checkpoints

    show_progress(not args.quiet)
    checkpoint = checkpoints.resolve(args.model, weights=args.weights, window=args.window)
    variants, language = variants_of(args.variant, checkpoint), language_of(args)
    code = OK
    output = Output(args.output, args.format, args.files, variants, partial(print, flush=True), args.dialect)
    engine = Engine(checkpoint)
    with output:
        for number, file in enumerate(args.files, 1):
            log.info("%s (%d/%d)", file, number, len(args.files))
            try:
                chosen = audio.chosen(args.track, args.channels)
                source, longest = inputs.source(file), max_seconds(args)
                found = [*multitrack.transcribe(engine, source, variants, language, longest, *chosen, args.strict)]
            except EvoxtralError as error:
                print(f"{file}: {error}", file=sys.stderr)
                output.failed(file, error)
                code = FAILED
                continue
            # One file or subtitle for each recording: its cues name their tracks.
            if len(found) > 1 and (args.output or output.form in ("srt", "vtt") or args.track != "each"):
                found = [multitrack.together(found)]
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
            for sentence in missing(file, next(iter(found[0].values()))):
                print(sentence, file=sys.stderr)
    return code


def variants_of(asked: str | None, checkpoint: "Checkpoint") -> tuple[str, ...]:
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


def _add_parts(parser: argparse.ArgumentParser) -> None:
    """Which tracks and channels of a recording."""
    parser.add_argument(
        "--track",
        metavar="mix|each|N",
        help="one track, or each by itself (default: mixed, apart where people speak at once most of the time)",
    )
    parser.add_argument(
        "--channels", metavar="mix|each|N", help="the same for channels; each: a transcript with the channels' names"
    )


def add_tracks(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("tracks", help="the tracks and channels of audio files, for --track and --channels")
    parser.add_argument("files", nargs="+", metavar="FILE")
    add_json(parser)
    parser.set_defaults(command=_tracks)


def _tracks(args: argparse.Namespace) -> int:
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

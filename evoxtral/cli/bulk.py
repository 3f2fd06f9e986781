"""The command `bulk`: thousands of recordings, in this process or on a cluster."""

import argparse
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from evoxtral.cli.arguments import (
    FAILED,
    OK,
    UsageError,
    add_request,
    language_of,
    max_seconds,
    missing,
    show_progress,
)
from evoxtral.cli.transcribe import variants_of
from evoxtral.errors import EvoxtralError
from evoxtral.exports import STDIN, is_folder
from evoxtral.transcript import FORMATS

if TYPE_CHECKING:
    from evoxtral.inference.inputs import Entry

Transcribe = Callable[[Sequence[str]], Iterator]

log = logging.getLogger(__name__)


def add_bulk(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "bulk", help="thousands of audio files to one file of results, or to a folder; resumable"
    )
    about = "recordings, folders of them, manifests (.jsonl, .csv, .parquet); s3://, gs://, hf:// …"
    parser.add_argument("paths", nargs="+", metavar="FILE|FOLDER|MANIFEST", help=about)
    about = "new, or to go on with; a folder for --format and --shards"
    parser.add_argument("-o", "--output", required=True, metavar="FILE.jsonl|FOLDER", help=about)
    parser.add_argument("--format", choices=FORMATS, help="a file of it for each recording, in the folder of -o")
    parser.add_argument("--shards", choices=("jsonl", "parquet"), help="files of 1,000 results, in the folder of -o")
    about = "on a Ray cluster: its address, or auto for this machine's, which is started where there is none"
    parser.add_argument("--cluster", metavar="auto|ADDRESS", help=about)
    about = "engines of the cluster (default: one for each GPU, or for 4 cores where there is none)"
    parser.add_argument("--actors", type=int, metavar="N", help=about)
    add_request(parser)
    parser.set_defaults(command=_bulk)


def _bulk(args: argparse.Namespace) -> int:
    """Recordings that are already in the output are skipped; those that cannot be read are named on stderr."""
    from tqdm import tqdm

    from evoxtral.inference import inputs

    if args.actors is not None and args.cluster is None:
        raise UsageError("--actors is for a cluster: add --cluster auto.")
    entries = inputs.listed(args.paths)
    if args.cluster and (local := [one for one in entries.values() if one.file == STDIN]):
        raise UsageError(f"A cluster cannot read what is piped in ({local[0].file}): save it to a file.")
    show_progress(not args.quiet)
    model, variants, transcribe = _bulk_engine(args)
    code, seconds = OK, 0.0
    with _bulk_output(args, entries, model, variants) as output:
        left: dict[str, list[inputs.Entry]] = {}  # file -> the entries that want it
        for entry in entries.values():
            if entry.file == STDIN or entry.id not in output.done:
                left.setdefault(entry.file, []).append(entry)
        count = sum(map(len, left.values()))
        log.info("%d files, %d of them done already", len(entries), len(entries) - count)
        started = time.perf_counter()
        with tqdm(total=count, unit="file", file=sys.stderr, disable=args.quiet) as bar:
            for file, result in transcribe([*left]) if left else ():
                bar.update(len(left[file]))
                if isinstance(result, EvoxtralError):
                    bar.write(f"{file}: {result}", file=sys.stderr)
                    code = FAILED
                    continue
                for sentence in missing(file, next(iter(result.values()))):
                    bar.write(sentence, file=sys.stderr)
                for entry in left[file]:
                    output.add(entry, model, result)
                seconds += next(iter(result.values())).duration
                bar.set_postfix_str(f"{seconds / (time.perf_counter() - started):.0f} × real time", refresh=False)
    return code


def _bulk_engine(args: argparse.Namespace) -> tuple[str, tuple[str, ...], Transcribe]:
    """The model's name, the variants to run, and what transcribes files: this process, or a cluster."""
    from evoxtral.inference import bulk
    from evoxtral.model import checkpoints

    asked = language_of(args), max_seconds(args), args.strict
    if args.cluster:
        from evoxtral.inference import ray_bulk

        cluster = ray_bulk.Cluster(args.cluster, args.actors)
        checkpoint = cluster.checkpoint(args.model, args.weights, args.window)
        variants = variants_of(args.variant, checkpoint)
        wanted = ray_bulk.Asked(checkpoint, variants, *asked)
        return checkpoint.name, variants, partial(cluster.transcribe, wanted)
    checkpoint = checkpoints.resolve(args.model, weights=args.weights, window=args.window)
    variants = variants_of(args.variant, checkpoint)

    def transcribe(files: Sequence[str]) -> Iterator:
        from evoxtral.inference.engine import Engine

        return bulk.transcribe(Engine(checkpoint), files, variants, *asked)

    return checkpoint.name, variants, transcribe


def _bulk_output(
    args: argparse.Namespace, entries: Mapping[str, "Entry"], model: str, variants: tuple[str, ...]
) -> AbstractContextManager:
    from evoxtral.inference import inputs, outputs

    if args.format and args.shards:
        raise UsageError("--format writes a file for each recording and --shards files of 1,000: choose one.")
    if args.shards:
        if Path(args.output).suffix:
            raise UsageError(f"--shards writes several files: name a folder with -o, not {args.output}.")
        return outputs.Shards(args.output, args.shards, model, variants)
    if inputs.is_address(args.output):
        raise UsageError(f"{args.output} is written in shards: add --shards jsonl or --shards parquet.")
    if args.format and not is_folder(args.output):
        raise UsageError(f"--format writes a file for each recording: name a folder with -o, not {args.output}.")
    if args.format:
        return nullcontext(outputs.FilePerRecording(args.output, args.format, entries.values(), variants))
    return outputs.ResultsFile(Path(args.output), model, variants)

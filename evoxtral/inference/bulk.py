"""Thousands of recordings: segments of many files in one batch, results written as they are ready, resumable.

While the model decodes one pool of files, the next is read. A results file is JSON lines, one `FileResult` for each
file that was transcribed: whoever runs the same again goes on after the last.
"""

import json
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from evoxtral import audio
from evoxtral.errors import AudioError, EvoxtralError
from evoxtral.exports import STDIN
from evoxtral.inference.engine import Engine
from evoxtral.results import FileResult
from evoxtral.transcript import Transcript

SUFFIXES = frozenset(
    ".wav .flac .mp3 .ogg .oga .opus .m4a .m4b .mp4 .aac .webm .mka .aif .aiff .caf .au .amr .wma .mov".split()
)  # of recordings in a folder; a file that is named itself may have any
READERS = min(4, os.cpu_count() or 1)  # threads; decoding a file is the work of ffmpeg, outside Python's lock
READ_AHEAD = 2 * READERS  # files
BATCHES = 2  # in a pool: like lengths decode together, and more to choose from makes them more alike


class BulkError(EvoxtralError):
    """Nothing to transcribe, or a results file that cannot be gone on with."""


def find(paths: Iterable[str | Path]) -> list[str]:
    """The recordings that some paths name: files as they are, folders with everything in them, each once.

    Raises BulkError for a folder without recordings.
    """
    return list(places(paths))


def places(paths: Iterable[str | Path]) -> dict[str, Path]:
    """The same, each with its place below what names it: its path inside that folder, or its own name."""
    found: dict[str, Path] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            found.setdefault(str(path), Path("stdin.wav" if str(path) == STDIN else path.name))
            continue
        inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        if not inside:
            raise BulkError(f"There are no recordings in the folder {path}: no file ends in .wav, .mp3 or the like.")
        for file in inside:
            found.setdefault(str(file), file.relative_to(path))
    return found


def source(file: str) -> audio.Source:
    """What to read of a name on the command line: a path, or the bytes of a pipe, `-` for standard input.

    Raises AudioError for more than MAX_MEGABYTES, and for a terminal.
    """
    path = Path(file)
    if file != STDIN and not path.is_fifo():
        return path
    if file == STDIN and sys.stdin.isatty():
        raise AudioError("Nothing is piped in: give a file, or pipe a recording to standard input.")
    limit = int(audio.MAX_MEGABYTES * 1e6)
    try:
        if file == STDIN:
            data = sys.stdin.buffer.read(limit + 1)
        else:
            with path.open("rb") as pipe:
                data = pipe.read(limit + 1)
    except OSError as error:
        raise AudioError(f"{file} cannot be read: {error.strerror}.") from error
    if len(data) > limit:
        raise AudioError(f"More than {audio.MAX_MEGABYTES:g} MB were piped in: give a longer recording as a file.")
    return data


# ------------------------------------------------------------------------------------------------- transcribing


def transcribe(
    engine: Engine,
    files: Iterable[str],
    variants: Sequence[str] | None = None,
    language: str | None = "en",
    max_seconds: float = audio.MAX_SECONDS,
) -> Iterator[tuple[str, dict[str, Transcript] | AudioError]]:
    """Each file with its transcripts by variant, or the reason why it cannot be read, as soon as it is there, in any
    order.

    variants: None for all.  language: ISO 639-1 code, None to detect.  max_seconds: longest recording accepted.
    Raises EvoxtralError for an unknown variant or language.
    """
    names = engine.ordered(variants)
    pools = _pools(files, engine.window_seconds, BATCHES * engine.rows / len(names), max_seconds)
    with ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(next, pools, None)
        while pool := coming.result():
            coming = ahead.submit(next, pools, None)
            yield from _decoded(engine, pool, names, language)


@dataclass(frozen=True)
class _Recording:
    """A file that was read, with the waveforms of its segments; or why it was not."""

    file: str
    duration: float = 0.0
    segments: Sequence[audio.Segment] = ()
    waveforms: Sequence[np.ndarray] = ()
    error: AudioError | None = None
    incomplete: str | None = None
    notes: tuple[str, ...] = ()


def _pools(files: Iterable[str], window: float, segments: float, max_seconds: float) -> Iterator[list[_Recording]]:
    """Files in groups of at least so many segments together, but for the last; one without any counts as one."""
    pool: list[_Recording] = []
    held = 0
    for recording in _read_ahead(files, window, max_seconds):
        pool.append(recording)
        held += max(1, len(recording.segments))
        if held >= segments:
            yield pool
            pool, held = [], 0
    if pool:
        yield pool


def _read_ahead(files: Iterable[str], window: float, max_seconds: float) -> Iterator[_Recording]:
    """Files in their order, read by several threads, of which none is far ahead."""
    waiting: deque[Future[_Recording]] = deque()
    readers = ThreadPoolExecutor(READERS)
    try:
        for file in files:
            waiting.append(readers.submit(_read, file, window, max_seconds))
            if len(waiting) > READ_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        readers.shutdown(cancel_futures=True)


def _read(file: str, window: float, max_seconds: float) -> _Recording:
    try:
        read = audio.read(source(file), max_seconds)
    except AudioError as error:
        return _Recording(file, error=error)
    waveform = audio.levelled(read.waveform)
    segments = audio.segments(waveform, window)
    # Copies: a view would keep all of a long recording for the little that is said in it.
    waveforms = [segment.of(waveform).copy() for segment in segments]
    return _Recording(file, audio.duration(waveform), segments, waveforms, incomplete=read.incomplete, notes=read.notes)


def _decoded(
    engine: Engine, pool: Sequence[_Recording], variants: Sequence[str], language: str | None
) -> Iterator[tuple[str, dict[str, Transcript] | AudioError]]:
    """Each file of a pool when the last of its segments is decoded."""
    for recording in pool:
        if recording.error:
            yield recording.file, recording.error
        elif not recording.waveforms:  # silent
            yield recording.file, _result(engine, recording, variants, {})
    places = [(recording, i) for recording in range(len(pool)) for i in range(len(pool[recording].waveforms))]
    parts: list[dict[int, Mapping[str, list[Transcript]]]] = [{} for _ in pool]
    for number, columns in engine.each([pool[recording].waveforms[i] for recording, i in places], variants, language):
        recording, i = places[number]
        parts[recording][i] = columns
        if len(parts[recording]) == len(pool[recording].waveforms):
            yield pool[recording].file, _result(engine, pool[recording], variants, parts[recording])


def _result(
    engine: Engine, recording: _Recording, variants: Sequence[str], parts: Mapping[int, Mapping]
) -> dict[str, Transcript]:
    """The transcripts of the segments as those of the file."""
    whole = {}
    for name in variants:
        own = [parts[i][name][0] for i in range(len(recording.segments))]
        cues = [
            replace(cue, start=segment.start, end=segment.end, sounds=segment.sounds)
            for segment, part in zip(recording.segments, own, strict=True)
            for cue in part.cues
        ]
        transcript = Transcript(tuple(cues), recording.duration, sum(part.elapsed for part in own))
        judged = engine.calibration.judged(transcript)
        whole[name] = replace(judged, incomplete=recording.incomplete, notes=recording.notes)
    return whole


# ------------------------------------------------------------------------------------------------- results files


class Results:
    """A results file that grows by whole lines. done: the files that are in it."""

    def __init__(self, path: Path, model: str, variants: Sequence[str]):
        """Open a new one, or go on with one of the same model and variants. Raises BulkError."""
        self.path = path
        try:
            written = path.read_bytes() if path.exists() else b""
            lines, unfinished = _lines(written)
            results = [self._result(number, line, model, variants) for number, line in enumerate(lines, 1)]
            if unfinished and not _begins_a_result(unfinished):
                raise BulkError(f"{path} holds something else than results of a bulk run: name a new file.")
            self.done = frozenset(result["file"] for result in results)
            self._file = path.open("ab")
            self._file.truncate(len(written) - len(unfinished))
        except OSError as error:
            raise BulkError(f"{path} cannot be written: {error.strerror}.") from error

    def _result(self, number: int, line: bytes, model: str, variants: Sequence[str]) -> dict:
        try:
            match json.loads(line):
                case {"file": str(), "model": str(made), "variants": dict(columns)} as result:
                    pass
                case _:
                    raise ValueError
        except (ValueError, RecursionError) as error:
            raise BulkError(f"{self.path}, line {number} is no result of a bulk run: name a new file.") from error
        if (made, sorted(columns)) != (model, sorted(variants)):
            raise BulkError(
                f"{self.path}, line {number} was written by {', '.join(columns)} of {made} and not by "
                f"{', '.join(variants)} of {model}: name a new file."
            )
        return result

    def add(self, file: str, model: str, transcripts: Mapping[str, Transcript]) -> None:
        result = FileResult.of(file, model, transcripts)
        try:
            self._file.write(json.dumps(asdict(result), allow_nan=False).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise BulkError(f"{self.path} cannot be written: {error.strerror}.") from error

    def __enter__(self) -> "Results":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def _lines(written: bytes) -> tuple[list[bytes], bytes]:
    """Whole lines, and what an interrupted run left of one."""
    *lines, unfinished = written.split(b"\n")
    return lines, unfinished


def _begins_a_result(unfinished: bytes) -> bool:
    head = b'{"file": "'
    return unfinished[: len(head)] == head[: len(unfinished)]

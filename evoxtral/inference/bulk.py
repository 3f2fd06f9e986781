"""Bulk transcription: segments of many files in one batch, results written as soon as a file is done, resumable.

While the model decodes one pool of files, the next pool is read. The results file is JSON lines, one `FileResult` for
each transcribed file. Running the same command again skips the files that are already in it.
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
READERS = min(4, os.cpu_count() or 1)  # threads; ffmpeg decodes outside Python's lock
READ_AHEAD = 2 * READERS  # files
BATCHES_PER_POOL = 2  # segments of similar length share a batch; a larger pool makes their lengths more similar


class BulkError(EvoxtralError):
    """Nothing to transcribe, or a results file that cannot be continued."""


def find(paths: Iterable[str | Path]) -> list[str]:
    """The recordings in some paths, each once: files as given, folders recursively.

    Raises BulkError for a folder without recordings.
    """
    return list(relative_paths(paths))


def relative_paths(paths: Iterable[str | Path]) -> dict[str, Path]:
    """The same, each with its path relative to the folder it was found in; a file given by itself has its name."""
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
    """What a name on the command line stands for: a path, or the bytes of a pipe (`-` is standard input).

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
    strict: bool = False,
) -> Iterator[tuple[str, dict[str, Transcript] | AudioError]]:
    """Each file with its transcripts by variant, or the error why it cannot be read; as soon as it is done, so in any
    order.

    variants: None for all.  language: ISO 639-1 code, None to detect.  max_seconds: longest recording accepted.
    strict: whether an incomplete one is refused.  Raises EvoxtralError for an unknown variant or language.
    """
    selected = engine.ordered(variants)
    pools = _pools(files, engine.window_seconds, BATCHES_PER_POOL * engine.rows / len(selected), max_seconds, strict)
    with ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(next, pools, None)
        while pool := coming.result():
            coming = ahead.submit(next, pools, None)
            yield from _decoded(engine, pool, selected, language)


@dataclass(frozen=True)
class _Recording:
    """A file with the waveforms of its segments, or the error that reading it raised."""

    file: str
    duration: float = 0.0
    segments: Sequence[audio.Segment] = ()
    waveforms: Sequence[np.ndarray] = ()
    error: AudioError | None = None
    incomplete: str | None = None
    notes: tuple[str, ...] = ()


def _pools(
    files: Iterable[str], window: float, segments: float, max_seconds: float, strict: bool = False
) -> Iterator[list[_Recording]]:
    """Groups of files with at least `segments` segments each, except the last group; a file counts as one at least."""
    pool: list[_Recording] = []
    held = 0
    for recording in _read_ahead(files, window, max_seconds, strict):
        pool.append(recording)
        held += max(1, len(recording.segments))
        if held >= segments:
            yield pool
            pool, held = [], 0
    if pool:
        yield pool


def _read_ahead(files: Iterable[str], window: float, max_seconds: float, strict: bool = False) -> Iterator[_Recording]:
    """Files in their order, read by several threads, at most READ_AHEAD files ahead of the consumer."""
    waiting: deque[Future[_Recording]] = deque()
    readers = ThreadPoolExecutor(READERS)
    try:
        for file in files:
            waiting.append(readers.submit(_read, file, window, max_seconds, strict))
            if len(waiting) > READ_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        readers.shutdown(cancel_futures=True)


def _read(file: str, window: float, max_seconds: float, strict: bool = False) -> _Recording:
    try:
        read = audio.read(source(file), max_seconds, strict)
    except AudioError as error:
        return _Recording(file, error=error)
    waveform = audio.levelled(read.waveform)
    segments = audio.segments(waveform, window)
    # Copies: a view would keep the whole recording in memory.
    waveforms = [segment.of(waveform).copy() for segment in segments]
    return _Recording(file, audio.duration(waveform), segments, waveforms, incomplete=read.incomplete, notes=read.notes)


def _decoded(
    engine: Engine, pool: Sequence[_Recording], variants: Sequence[str], language: str | None
) -> Iterator[tuple[str, dict[str, Transcript] | AudioError]]:
    """Each file of a pool, as soon as its last segment is decoded."""
    for recording in pool:
        if recording.error:
            yield recording.file, recording.error
        elif not recording.waveforms:  # silent
            yield recording.file, _result(engine, recording, variants, {})
    segments = [(recording, i) for recording in range(len(pool)) for i in range(len(pool[recording].waveforms))]
    parts: list[dict[int, Mapping[str, list[Transcript]]]] = [{} for _ in pool]
    for number, transcripts in engine.stream_batch(
        [pool[recording].waveforms[i] for recording, i in segments], variants, language
    ):
        recording, i = segments[number]
        parts[recording][i] = transcripts
        if len(parts[recording]) == len(pool[recording].waveforms):
            yield pool[recording].file, _result(engine, pool[recording], variants, parts[recording])


def _result(
    engine: Engine, recording: _Recording, variants: Sequence[str], parts: Mapping[int, Mapping]
) -> dict[str, Transcript]:
    """Join the transcripts of a file's segments."""
    whole = {}
    for name in variants:
        own = [parts[i][name][0] for i in range(len(recording.segments))]
        cues = [
            cue.moved(segment.start, segment.end, segment.sounds)
            for segment, part in zip(recording.segments, own, strict=True)
            for cue in part.cues
        ]
        transcript = Transcript(tuple(cues), recording.duration, sum(part.elapsed for part in own))
        judged = engine.calibration.judged(transcript)
        whole[name] = replace(judged, incomplete=recording.incomplete, notes=recording.notes)
    return whole


# ------------------------------------------------------------------------------------------------- results files


class ResultsFile:
    """A results file, written a whole line at a time.  done: the files that are already in it."""

    def __init__(self, path: Path, model: str, variants: Sequence[str]):
        """Open a new file, or continue one of the same model and variants. Raises BulkError."""
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
                case {"file": str(), "model": str(made), "variants": dict(variants_of_line)} as result:
                    pass
                case _:
                    raise ValueError
        except (ValueError, RecursionError) as error:
            raise BulkError(f"{self.path}, line {number} is no result of a bulk run: name a new file.") from error
        if (made, sorted(variants_of_line)) != (model, sorted(variants)):
            raise BulkError(
                f"{self.path}, line {number} was written by {', '.join(variants_of_line)} of {made} and not by "
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

    def __enter__(self) -> "ResultsFile":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def _lines(written: bytes) -> tuple[list[bytes], bytes]:
    """The complete lines, and the incomplete last line that an interrupted run may have left."""
    *lines, unfinished = written.split(b"\n")
    return lines, unfinished


def _begins_a_result(unfinished: bytes) -> bool:
    head = b'{"file": "'
    return unfinished[: len(head)] == head[: len(unfinished)]

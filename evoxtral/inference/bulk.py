"""Bulk transcription: segments of many files in one batch, a file's result as soon as it is done.

While the model decodes one pool of files, the next pool is read. `inputs` says which files there are, `outputs` keeps
what is done, and `ray_bulk` does the same on a cluster.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from evoxtral import audio
from evoxtral.errors import AudioError
from evoxtral.inference import inputs
from evoxtral.inference.engine import Engine
from evoxtral.transcript import Transcript

READERS = min(4, os.cpu_count() or 1)  # threads; ffmpeg decodes outside Python's lock
READ_AHEAD = 2 * READERS  # files
_Cut = Callable[[np.ndarray], list[audio.Segment]]  # `Engine.segments`
BATCHES_PER_POOL = 2  # segments of similar length share a batch; a larger pool makes their lengths more similar


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
    pools = _pools(files, engine.segments, BATCHES_PER_POOL * engine.rows / len(selected), max_seconds, strict)
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
    files: Iterable[str], cut: _Cut, segments: float, max_seconds: float, strict: bool = False
) -> Iterator[list[_Recording]]:
    """Groups of files with at least `segments` segments each, except the last group; a file counts as one at least."""
    pool: list[_Recording] = []
    held = 0
    for recording in _read_ahead(files, cut, max_seconds, strict):
        pool.append(recording)
        held += max(1, len(recording.segments))
        if held >= segments:
            yield pool
            pool, held = [], 0
    if pool:
        yield pool


def _read_ahead(files: Iterable[str], cut: _Cut, max_seconds: float, strict: bool = False) -> Iterator[_Recording]:
    """Files in their order, read by several threads, at most READ_AHEAD files ahead of the consumer."""
    waiting: deque[Future[_Recording]] = deque()
    readers = ThreadPoolExecutor(READERS)
    try:
        for file in files:
            waiting.append(readers.submit(_read, file, cut, max_seconds, strict))
            if len(waiting) > READ_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        readers.shutdown(cancel_futures=True)


def _read(file: str, cut: _Cut, max_seconds: float, strict: bool = False) -> _Recording:
    try:
        read = audio.read(inputs.source(file), max_seconds, strict)
    except AudioError as error:
        return _Recording(file, error=error)
    waveform = audio.levelled(read.waveform)
    segments = cut(waveform)
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

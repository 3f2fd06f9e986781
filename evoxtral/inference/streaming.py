"""Partial transcripts while a clip is decoded, and how often to give them out."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from evoxtral import audio
from evoxtral.inference.prompt import Prompt
from evoxtral.inference.sampling import Row
from evoxtral.transcript import Cue, Token, Transcript

UPDATE_EVERY = 0.05  # s, the shortest time between two partial transcripts
# A longer text takes longer to draw, and less of it is new. So drawing gets at most this share of the time, and the
# number of updates is limited: at most this many while the elapsed time doubles.
MAX_DISPLAY_SHARE, MAX_UPDATES = 1 / 5, 50


class Clock:
    """Decoding time without the time that the consumer of partial transcripts takes, and when the next one is due."""

    def __init__(self) -> None:
        self._begun = self._last_update = time.perf_counter()
        self._display_time = 0.0  # s that the consumer took for the last one

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self._begun

    @property
    def until_update(self) -> float:
        """Seconds until the next partial transcript is due."""
        pause = max(UPDATE_EVERY, self._display_time * (1 / MAX_DISPLAY_SHARE - 1), self.elapsed / MAX_UPDATES)
        return max(0.0, self._last_update + pause - time.perf_counter())

    @property
    def update_due(self) -> bool:
        return self.until_update == 0

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Does not count the time that the consumer takes."""
        begun = time.perf_counter()
        yield
        self._last_update = time.perf_counter()
        self._display_time = self._last_update - begun
        self._begun += self._display_time


class GrowingTranscript:
    """One variant's transcript while the rows of its segments are decoded."""

    def __init__(self, duration: float, segments: Sequence[audio.Segment]):
        self.duration, self.elapsed = duration, 0.0
        self._segments = segments
        self._rows: Sequence[Row] = ()
        self._finished: dict[int, Cue] = {}
        self._running = True

    def update(self, rows: Sequence[Row], now: float) -> None:
        """rows: of all segments, in order.  now: s since the start."""
        self._rows = rows
        if self._running:
            self.elapsed = now
            self._running = not all(row.done for row in rows)

    def snapshot(self, prompt: Prompt, done: bool) -> Transcript:
        return Transcript(tuple(self._cues(prompt, done)), self.duration, self.elapsed, done)

    def _cues(self, prompt: Prompt, done: bool) -> Iterator[Cue]:
        for index, (segment, row) in enumerate(zip(self._segments, self._rows, strict=False)):
            if index in self._finished:
                yield self._finished[index]
            elif row.ids or row.done:
                cue = cue_of(segment, row, prompt)
                if row.done and (done or row.times):
                    self._finished[index] = cue
                yield cue


def cue_of(segment: audio.Segment, row: Row, prompt: Prompt) -> Cue:
    """The text of a row, to which another thread may be adding tokens."""
    done = row.done  # first: what is read afterwards of a row that has ended does not change any more
    written = list(zip(row.ids, row.probabilities, strict=False))
    pieces = prompt.pieces([token for token, _ in written], final=done)
    times = row.times if done and row.times else [(None, None)] * len(pieces)
    tokens = [Token(text, p, *time) for text, (_, p), time in zip(pieces, written, times, strict=True)]
    cue = Cue(0.0, segment.end - segment.start, tuple(tokens), row.truncated, done=done, agreement=row.agreement)
    return cue.moved(segment.start, segment.end, segment.sounds)

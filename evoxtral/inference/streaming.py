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
    def update_due(self) -> bool:
        pause = max(UPDATE_EVERY, self._display_time * (1 / MAX_DISPLAY_SHARE - 1), self.elapsed / MAX_UPDATES)
        return time.perf_counter() - self._last_update >= pause

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Does not count the time that the consumer takes."""
        begun = time.perf_counter()
        yield
        self._last_update = time.perf_counter()
        self._display_time = self._last_update - begun
        self._begun += self._display_time


class GrowingTranscript:
    """One variant's transcript while it is decoded: finished cues, and the rows of the segments in progress."""

    def __init__(self, duration: float):
        self.duration, self.elapsed = duration, 0.0
        self._finished: list[Cue] = []
        self._segments: Sequence[audio.Segment] = ()
        self._rows: Sequence[Row] = ()

    def begin(self, segments: Sequence[audio.Segment], now: float) -> None:
        self._segments, self._rows = segments, ()
        self._started, self._running = now - self.elapsed, True

    def update(self, rows: Sequence[Row], now: float) -> None:
        self._rows = rows
        if self._running:
            self.elapsed = now - self._started
            self._running = not all(row.done for row in rows)

    def finish(self, prompt: Prompt) -> None:
        """All segments in progress have ended."""
        self._finished += self._growing(prompt)
        self._segments = self._rows = ()

    def snapshot(self, prompt: Prompt, done: bool) -> Transcript:
        return Transcript((*self._finished, *self._growing(prompt)), self.duration, self.elapsed, done)

    def _growing(self, prompt: Prompt) -> list[Cue]:
        # Until the first update there are segments but no rows.
        return [cue_of(segment, row, prompt) for segment, row in zip(self._segments, self._rows, strict=False)]


def cue_of(segment: audio.Segment, row: Row, prompt: Prompt) -> Cue:
    pieces = prompt.pieces(row.ids, final=row.done)
    times = row.times or [(None, None)] * len(pieces)
    tokens = tuple(Token(*token, *time) for *token, time in zip(pieces, row.probabilities, times, strict=True))
    cue = Cue(0.0, segment.end - segment.start, tokens, row.truncated, done=row.done)
    return cue.moved(segment.start, segment.end, segment.sounds)

"""Transcripts while they grow: what has been decoded so far, and when to show it."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from evoxtral import audio
from evoxtral.inference.prompt import Prompt
from evoxtral.inference.sampling import Row
from evoxtral.transcript import Cue, Token, Transcript

SHOW_EVERY = 0.05  # s between two growing transcripts, at first
# The longer a clip takes, the longer its text is to draw, and the less is new in it: whoever looks on gets a fifth of
# the time at most, and not more than LOOKS looks while the time doubles.
DRAWING_SHARE, LOOKS = 1 / 5, 50


class Clock:
    """The time that decoding takes, without that of whoever looks on; and when they may look."""

    def __init__(self) -> None:
        self._begun = self._looked = time.perf_counter()
        self._last_look = 0.0  # s it took

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self._begun

    @property
    def look_is_due(self) -> bool:
        pause = max(SHOW_EVERY, self._last_look * (1 / DRAWING_SHARE - 1), self.elapsed / LOOKS)
        return time.perf_counter() - self._looked >= pause

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """For the time of a look."""
        begun = time.perf_counter()
        yield
        self._looked = time.perf_counter()
        self._last_look = self._looked - begun
        self._begun += self._last_look


class Column:
    """One variant's transcript while it grows."""

    def __init__(self, duration: float):
        self.duration, self.elapsed = duration, 0.0
        self._finished: list[Cue] = []
        self._segments: Sequence[audio.Segment] = ()
        self._rows: Sequence[Row] = ()

    def begin(self, segments: Sequence[audio.Segment], now: float) -> None:
        self._segments, self._rows = segments, ()
        self._started, self._running = now - self.elapsed, True

    def see(self, rows: Sequence[Row], now: float) -> None:
        self._rows = rows
        if self._running:
            self.elapsed = now - self._started
            self._running = not all(row.done for row in rows)

    def finish(self, prompt: Prompt) -> None:
        """The segments begun last have all ended."""
        self._finished += self._growing(prompt)
        self._segments = self._rows = ()

    def transcript(self, prompt: Prompt, done: bool) -> Transcript:
        return Transcript((*self._finished, *self._growing(prompt)), self.duration, self.elapsed, done)

    def _growing(self, prompt: Prompt) -> list[Cue]:
        # Before the first look at a part there are segments and no rows yet.
        return [cue_of(segment, row, prompt) for segment, row in zip(self._segments, self._rows, strict=False)]


def cue_of(segment: audio.Segment, row: Row, prompt: Prompt) -> Cue:
    pieces = prompt.pieces(row.ids, final=row.done)
    tokens = tuple(Token(text, p) for text, p in zip(pieces, row.probabilities, strict=True))
    return Cue(segment.start, segment.end, tokens, row.truncated, segment.sounds)

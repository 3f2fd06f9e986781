"""The scheduler: windows of many requests are encoded one after another, and their rows are decoded together.

One thread works while there are requests. Between two rounds of decoding it frees the rows of who has left, and
prepares (encodes and prefills) the next windows, of the client that has the fewest. Where windows wait, nobody's text
stands still for longer than MAX_STALL or the preparation of one window, whichever is longer; where nobody reads along,
as in bulk, the batch is filled first.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch

from evoxtral.errors import EvoxtralError
from evoxtral.inference import alignment
from evoxtral.inference.batch import SYNC_EVERY, Batch
from evoxtral.inference.prompt import Prompt
from evoxtral.inference.sampling import Row
from evoxtral.model import threads
from evoxtral.model.encoder import Encoder
from evoxtral.model.memory import return_freed_memory
from evoxtral.model.text import TextModel

MAX_STALL = 0.2  # s that decoding waits for preparations, about
PREPARED = 16  # prompts that CUDA prepares at once


class Abandoned(EvoxtralError):
    """Nobody waits for the transcripts any more."""


class Model(Protocol):
    """What the scheduler needs of the engine, whose fields these are."""

    device: torch.device
    prompt: Prompt
    heads: alignment.Heads
    rows: int
    large: bool
    _text: TextModel
    _encoder: Encoder
    _lock: threading.Lock

    def _prompts(self, ids: Sequence[int], log_mel: torch.Tensor, selected: tuple[str, ...]) -> torch.Tensor: ...


@dataclass(eq=False)
class Window:
    """A waveform (T,) of at most a window, and its rows (variants x samples).

    elapsed: its share of the time that was computed, in s.  done: all rows have ended, and `looks` is there.
    """

    waveform: np.ndarray
    rows: Sequence[Row]
    elapsed: float = 0.0
    done: bool = False


@dataclass(eq=False)
class Request:
    """Windows that one caller waits for.

    ids: of the prompt.  gone: whether the caller has left, asked before every round.  growing: the caller wants to know
    of every new token, and not only of windows that are done.  client: who asks, None for somebody who asks only this.
    """

    windows: Sequence[Window]
    variants: tuple[str, ...]
    ids: Sequence[int]
    gone: Callable[[], bool] = lambda: False
    growing: bool = True
    client: Hashable = None
    waiting: deque[Window] = field(init=False)
    active: list[Window] = field(default_factory=list, init=False)
    news: threading.Event = field(default_factory=threading.Event, init=False)
    done: threading.Event = field(default_factory=threading.Event, init=False)
    error: Exception | None = field(default=None, init=False)
    left: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.waiting = deque(self.windows)
        self.client = object() if self.client is None else self.client

    def end(self, error: Exception | None = None) -> None:
        self.error = error
        self.waiting.clear()
        self.active.clear()
        self.done.set()
        self.news.set()


class Scheduler:
    """All decoding of one engine. Thread-safe.

    steps: how many steps were decoded with so many rows, since the start.
    """

    def __init__(self, engine: Model):
        self._engine = engine
        self._batch: Batch | None = None
        self._requests: list[Request] = []
        self._changing = threading.Lock()  # held while the list of requests changes
        self._worker: threading.Thread | None = None
        self._last_round = 0.0
        self.steps: Counter[int] = Counter()

    @property
    def rows(self) -> int:
        """Rows that are decoded now."""
        return sum(len(window.rows) for request in [*self._requests] for window in [*request.active])

    @property
    def waiting(self) -> int:
        """Windows that wait for their turn."""
        return sum(len(request.waiting) for request in [*self._requests])

    def run(self, request: Request, pause: Callable[[], float] = lambda: 0.0) -> Iterator[None]:
        """Decode a request; gives a sign whenever there is something new, at most once in pause() seconds.

        Raises Abandoned, and what went wrong. A caller that closes this iterator has left.
        """
        with self._changing:
            self._requests.append(request)
            if self._worker is None or not self._worker.is_alive():
                self._worker = threading.Thread(target=self._work, name="decoding")
                self._worker.start()
        try:
            while not request.done.is_set():
                request.news.wait()
                request.news.clear()
                if request.done.is_set():
                    break
                yield
                request.done.wait(pause())
            if request.error:
                raise request.error
            yield
        finally:
            request.left = True

    # ---------------------------------------------------------------------------------------------- the thread

    @torch.inference_mode()
    def _work(self) -> None:
        while True:
            with self._changing:
                if not self._requests:
                    self._worker = None
                    return
            try:
                self._turn()
            except Exception as error:  # whatever it is, each caller raises it in its own thread
                self._batch = None
                for request in [*self._requests]:
                    self._forget(request, error)

    def _turn(self) -> None:
        self._drop([request for request in self._requests if request.left or request.gone()], Abandoned())
        windows = self._next()
        if windows:
            try:
                self._prepare(windows)
            except Exception as error:  # others go on
                self._drop([request for request, _ in windows], error)
        read_along = any(request.growing and request.active for request in self._requests)
        overdue = read_along and time.perf_counter() - self._last_round > MAX_STALL
        if self._batch.occupied and (overdue or not windows):
            self._round()

    def _drop(self, requests: Iterable[Request], error: Exception) -> None:
        """End these requests, whose rows become free."""
        for request in dict.fromkeys(requests):
            rows = [row for window in request.active for row in window.rows if row.slot is not None]
            if rows:
                with self._engine._lock:
                    self._batch.leave(rows)
            self._forget(request, error)

    def _forget(self, request: Request, error: Exception | None = None) -> None:
        with self._changing:
            self._requests.remove(request)
        request.end(error)

    def _next(self) -> list[tuple[Request, Window]]:
        """The windows to prepare now: of the client with the fewest active windows, of their requests that with the
        fewest, and of several the first."""
        if self._batch is None:
            engine = self._engine
            self._batch = Batch(engine._text, engine.prompt.eos_id, engine.rows, engine.heads.watched)
        found: list[tuple[Request, Window]] = []
        rows: list[Row] = []
        prompts, limit = 0, self._together()
        while prompts < limit:
            waiting = [request for request in self._requests if request.waiting]
            if not waiting:
                break
            held = Counter()
            for one in self._requests:
                held[one.client] += len(one.active)
            request = min(waiting, key=lambda request: (held[request.client], len(request.active)))
            same = not found or (request.variants, request.ids) == (found[0][0].variants, found[0][0].ids)
            if not same or not self._batch.fits([*rows, *request.waiting[0].rows]):
                break
            window = request.waiting.popleft()
            request.active.append(window)
            found.append((request, window))
            rows += window.rows
            prompts += len(request.variants)
        return found

    def _together(self) -> int:
        """How many prompts are prepared at once. On a CPU they do not share its work, only its cores: who comes first
        does not wait for a second window, nor does who reads along wait for two of a large model."""
        if self._engine.device.type == "cuda":
            return PREPARED
        reads_along = any(request.growing for request in self._requests)
        if self._engine._text.quantized or reads_along and (self._engine.large or not self._batch.occupied):
            return 1
        return threads.together()

    def _prepare(self, windows: Sequence[tuple[Request, Window]]) -> None:
        """Encode and prefill windows of the same variants and prompt; their rows join the batch."""
        begun, (request, one), engine = time.perf_counter(), windows[0], self._engine
        copies = len(one.rows) // len(request.variants)
        rows = [
            row
            for first in range(0, len(one.rows), copies)
            for _, window in windows
            for row in window.rows[first : first + copies]
        ]
        log_mel = engine.prompt.log_mel([window.waveform for _, window in windows], engine.device)
        with engine._lock:
            prompts = engine._prompts(request.ids, log_mel, request.variants)
            heard = engine._encoder.heard
            del log_mel
            return_freed_memory()  # of the encoder, before the cache is allocated
            self._batch.join(prompts, rows, request.variants)
            for k, row in enumerate(rows if heard is not None else ()):
                if row.decoding.times:
                    row.heard = heard[k // copies].numpy(force=True)
            del prompts
            return_freed_memory()  # of the prompts, before the first step
        elapsed = time.perf_counter() - begun
        for _, window in windows:
            window.elapsed += elapsed / len(windows)
        self._collect(dict.fromkeys(request for request, _ in windows))

    def _round(self) -> None:
        """A few steps; one where others may want to join."""
        begun = time.perf_counter()
        active = [request for request in self._requests if request.active]
        steps = 1 if len(active) > 1 and self._engine.device.type == "cpu" else SYNC_EVERY
        self.steps[len(self._batch.occupied)] += steps
        with self._engine._lock:
            self._batch.advance(steps)
        self._last_round = time.perf_counter()
        windows = [window for request in active for window in request.active]
        for window in windows:
            window.elapsed += (self._last_round - begun) / len(windows)
        self._collect(active)

    def _collect(self, requests: Iterable[Request]) -> None:
        """Rows that have ended leave; tell who waits."""
        for request in requests:
            rows = [row for window in request.active for row in window.rows]
            self._free([row for row in rows if row.done and row.slot is not None], request)
            ended = [window for window in request.active if all(row.done for row in window.rows)]
            for window in ended:
                window.done = True
                request.active.remove(window)
            if not request.active and not request.waiting:
                self._forget(request)
            elif ended or request.growing:
                request.news.set()

    def _free(self, ended: Sequence[Row], request: Request) -> None:
        engine, audio_tokens = self._engine, self._engine.prompt.audio_tokens
        first = request.ids.index(engine.prompt.audio_id)
        with engine._lock:
            for row in ended:
                if row.decoding.times and engine.heads.heads:
                    positions = slice(first, first + audio_tokens)
                    row.looks = alignment.looked(self._batch.cache, engine.heads, row.slot, len(row.ids), positions)
            if ended:
                self._batch.leave(ended)

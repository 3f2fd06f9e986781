"""Limits of the service: size of a request, number of concurrent requests, and clients that disconnect."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from evoxtral import audio
from evoxtral.inference.scheduler import Abandoned
from evoxtral.serve import refusals
from evoxtral.serve.refusals import RETRY_AFTER

CROWDED = "More is asked than can be answered at a time: ask again in a few seconds."
ALWAYS_ANSWERED = ("/health", "/ready", "/metrics")  # by whoever watches the service, however busy it is
CLIENT = "evoxtral.client"  # key of an ASGI scope: who asks, a token's name or an address
LOOK_EVERY = 0.1  # s between two checks whether a client is still connected
DRAIN_SECONDS = 60.0  # s: how long the body of a rejected request is read
QUIET_SECONDS = 15.0  # after which a stream that has nothing new gives a sign of life

Step = TypeVar("Step")
Gone = Callable[[], bool]  # whether the client has disconnected
Growing = Callable[[Gone], Iterator[Step]]


@dataclass(frozen=True)
class Limits:
    """What one request may ask for, and how many may be under way; more are answered 503.

    per_minute, concurrent: requests of one client, who is a token or, where none is asked for, an address; None for
    any number, more are answered 429.
    """

    megabytes: float = audio.MAX_MEGABYTES  # of a request, file and form together; 10^6 bytes
    seconds: float = audio.MAX_SECONDS  # of audio
    requests: int = 32
    at_once: int | None = None  # of these, decoded together, None for all: the recording of each is in memory
    per_minute: float | None = None
    concurrent: int | None = None


class BodyLimit:
    """ASGI middleware: rejects bodies of more than `megabytes`, with or without a Content-Length."""

    def __init__(self, app: ASGIApp, megabytes: float):
        self.app = app
        self.limit = int(megabytes * 1e6)  # bytes
        self.sentence = f"The request is larger than the {megabytes:g} MB taken here."

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if int(Headers(scope=scope).get("content-length", 0)) > self.limit:
            # Read to some length: a client that still sends when the connection closes never sees the answer.
            await drop_body(receive, 4 * self.limit)
            return await refusals.answer(scope["path"], 413, self.sentence, "file")(scope, receive, send)
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self.limit:
                raise HTTPException(413, self.sentence)
            return message

        await self.app(scope, counted, send)


class CrowdLimit:
    """ASGI middleware: limits the requests in progress, except ALWAYS_ANSWERED; others get a 503 with Retry-After."""

    def __init__(self, app: ASGIApp, requests: int, megabytes: float):
        self.app, self.requests, self.limit = app, requests, int(megabytes * 1e6)
        self.under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in ALWAYS_ANSWERED:
            return await self.app(scope, receive, send)
        if self.under_way >= self.requests:
            await drop_body(receive, self.limit)
            return await refusals.answer(scope["path"], 503, CROWDED, headers=RETRY_AFTER)(scope, receive, send)
        self.under_way += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.under_way -= 1


async def drop_body(receive: Receive, most: int) -> None:
    """Read what a client sends, up to `most` bytes: a connection that is closed over unread bytes is reset, and the
    client never sees the answer."""
    taken = 0
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            while taken <= most:
                message = await receive()
                taken += len(message.get("body", b""))
                if not message.get("more_body"):
                    break
    except TimeoutError:
        pass  # it is answered all the same


class Turns:
    """Limits the requests that are decoded together; others wait. Clients that disconnect are dropped.

    waiting, decoding: how many requests do now.
    """

    def __init__(self, at_once: int):
        self._free = threading.BoundedSemaphore(at_once)
        self._counting = threading.Lock()
        self.waiting = self.decoding = 0

    async def last(self, request: Request, growing: Growing) -> Step | None:
        """The last of what an iterator gives, run in a thread; None if the client left before it came."""
        last = None
        async with aclosing(self.each(request, growing)) as steps:
            async for step in steps:
                last = last if step is None else step
        return last

    async def each(self, request: Request, growing: Growing) -> AsyncIterator[Step | None]:
        """What an iterator gives, run in a thread: the newest whenever there is a new one, None after QUIET_SECONDS
        without. It ends without the last if the client left."""
        gone, changed = threading.Event(), asyncio.Event()
        newest: list[Step] = []

        def put(step: Step) -> None:
            newest[:] = [step]
            changed.set()

        def tell(step: Step) -> None:
            loop.call_soon_threadsafe(put, step)

        async def watch() -> None:
            while not await request.is_disconnected():
                await asyncio.sleep(LOOK_EVERY)
            gone.set()

        loop = asyncio.get_running_loop()
        running = asyncio.create_task(run_in_threadpool(self._run, growing, gone, tell))
        running.add_done_callback(lambda _: changed.set())
        watching = asyncio.create_task(watch())
        try:
            while not running.done() or newest:
                try:
                    await asyncio.wait_for(changed.wait(), QUIET_SECONDS)
                except TimeoutError:
                    yield None
                changed.clear()
                if newest and not gone.is_set():
                    yield newest.pop()
                newest.clear()
            await running  # raises what it raised
        finally:
            gone.set()  # also when the server itself ends
            watching.cancel()
            if not running.done():
                running.add_done_callback(_ended)

    def _run(self, growing: Growing, gone: threading.Event, tell: Callable[[Step], None]) -> None:
        self._count(waiting=1)
        try:
            while not self._free.acquire(timeout=LOOK_EVERY):
                if gone.is_set():
                    return
        finally:
            self._count(waiting=-1)
        self._count(decoding=1)
        try:
            for step in growing(gone.is_set):
                if gone.is_set():
                    return
                tell(step)
        except Abandoned:
            return
        finally:
            self._count(decoding=-1)
            self._free.release()

    def _count(self, waiting: int = 0, decoding: int = 0) -> None:
        with self._counting:
            self.waiting += waiting
            self.decoding += decoding


def _ended(running: asyncio.Task) -> None:
    """Nobody waits for it any more: what it raised has no reader."""
    if not running.cancelled():
        running.exception()

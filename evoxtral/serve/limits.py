"""Limits of the service: size of a request, number of concurrent requests, and clients that disconnect."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from evoxtral import audio

RETRY_AFTER = {"Retry-After": "5"}  # s; a short clip's time
CROWDED = "More is asked than can be answered at a time: ask again in a few seconds."
LOOK_EVERY = 0.1  # s between two checks whether a client is still connected
DRAIN_SECONDS = 60.0  # s: how long the body of a rejected request is read

Last = TypeVar("Last")


@dataclass(frozen=True)
class Limits:
    """Limits on one request, and on the number of requests in progress; others get a 503."""

    megabytes: float = audio.MAX_MEGABYTES  # of a request, file and form together; 10^6 bytes
    seconds: float = audio.MAX_SECONDS  # of audio
    requests: int = 32
    at_once: int = 2  # of these, decoded at a time, each with a cache of its own (engine.BATCH_MEMORY)


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
            return await JSONResponse({"detail": self.sentence}, 413)(scope, receive, send)
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
    """ASGI middleware: limits the requests in progress, except /health; others get a 503 with Retry-After.

    Their bodies are read and dropped first: closing a connection with unread bytes resets it, and the client would not
    see the answer.
    """

    def __init__(self, app: ASGIApp, requests: int, megabytes: float):
        self.app, self.requests, self.limit = app, requests, int(megabytes * 1e6)
        self.under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == "/health":
            return await self.app(scope, receive, send)
        if self.under_way >= self.requests:
            await self._drain(receive)
            return await JSONResponse({"detail": CROWDED}, 503, RETRY_AFTER)(scope, receive, send)
        self.under_way += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.under_way -= 1

    async def _drain(self, receive: Receive) -> None:
        taken = 0
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while taken <= self.limit:
                    message = await receive()
                    taken += len(message.get("body", b""))
                    if not message.get("more_body"):
                        break
        except TimeoutError:
            pass  # it is answered all the same


class Turns:
    """Limits the requests that decode at a time; others wait. Clients that disconnect are dropped."""

    def __init__(self, at_once: int):
        self._free = threading.BoundedSemaphore(at_once)

    async def last(self, request: Request, growing: Callable[[], Iterator[Last]]) -> Last | None:
        """The last item of an iterator that runs in a thread; None if the client disconnects first."""
        gone = threading.Event()

        async def watch() -> None:
            while not await request.is_disconnected():
                await asyncio.sleep(LOOK_EVERY)
            gone.set()

        watching = asyncio.create_task(watch())
        try:
            return await run_in_threadpool(self._run, growing, gone)
        finally:
            gone.set()  # also when the server itself ends
            watching.cancel()

    def _run(self, growing: Callable[[], Iterator[Last]], gone: threading.Event) -> Last | None:
        while not self._free.acquire(timeout=LOOK_EVERY):
            if gone.is_set():
                return None
        try:
            last = None
            for step in growing():
                if gone.is_set():
                    return None
                last = step
            return last
        finally:
            self._free.release()

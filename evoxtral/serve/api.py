"""The engine over HTTP: `python -m evoxtral serve`, then http://localhost:8000/docs.

    curl -F file=@clip.wav -F variant=all http://localhost:8000/transcribe

Every answer is JSON; every mistake of the caller is a 4xx with one sentence in `detail`.
"""

import socket
import threading
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import uvicorn
from fastapi import FastAPI, File, Form, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from evoxtral import __version__, audio
from evoxtral.errors import AudioError, DeviceFullError, EvoxtralError
from evoxtral.inference.engine import Engine
from evoxtral.results import FileResult


@dataclass(frozen=True)
class Limits:
    """What one request may ask for, and how many may be under way; more are answered 503."""

    megabytes: float = audio.MAX_MEGABYTES  # of a request, file and form together; 10^6 bytes
    seconds: float = audio.MAX_SECONDS  # of audio
    requests: int = 32
    at_once: int = 2  # of these, decoded at a time: each has a cache of its own, see engine.ROOM; the others wait


class BodyLimit:
    """ASGI middleware: no body of more than `megabytes` is read, whether its length is stated or not."""

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


def create_app(engine: Engine, limits: Limits | None = None) -> FastAPI:
    """The API of one engine."""
    limits = limits or Limits()
    app = FastAPI(
        title="Evoxtral",
        summary="Speech to tagged text.",
        version=__version__,
        middleware=[Middleware(BodyLimit, megabytes=limits.megabytes)],
        exception_handlers={
            EvoxtralError: _mistake,
            HTTPException: _refused,
            RequestValidationError: _misfit,
        },
    )
    variant_names = (*engine.variants, "all")
    Variant = StrEnum("Variant", {name: name for name in variant_names})
    default = Variant(engine.variants[-1])
    turns = threading.BoundedSemaphore(limits.at_once)

    @app.get("/health")
    def health() -> dict:
        """Which model answers here, and what it takes."""
        return {
            "status": "ok",
            "version": __version__,
            "model": engine.checkpoint.name,
            "variants": engine.variants,
            "max_megabytes": limits.megabytes,
            "max_seconds": limits.seconds,
        }

    @app.post("/transcribe", responses={400: {"description": "One sentence in `detail`, as for every 4xx."}})
    def transcribe(
        file: Annotated[UploadFile, File(description="WAV, FLAC, MP3, OGG/Opus, M4A/AAC or WebM.")],
        variant: Annotated[Variant, Form(description="One variant, or all of them.")] = default,
        language: Annotated[str, Form(description="ISO 639-1 code; `auto` to detect it.")] = "en",
    ) -> FileResult:
        """Transcribe one recording."""
        names = engine.variants if variant == "all" else (variant.value,)
        asked = None if language == "auto" else language
        with turns:
            transcripts = engine.compare(file.file.read(), names, language=asked, max_seconds=limits.seconds)
        return FileResult.of(file.filename or "", engine.checkpoint.name, transcripts)

    return app


def address(host: str, port: int) -> socket.socket:
    """A socket at this address, on which nobody is answered yet. Raises EvoxtralError where it cannot be had."""
    taken = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((host, port))
    except (OSError, OverflowError) as error:
        taken.close()
        reason = error.strerror if isinstance(error, OSError) else "ports are 0 to 65535"
        raise EvoxtralError(
            f"{host}, port {port} cannot be served ({reason}): choose another --host or --port."
        ) from error
    return taken


def run(engine: Engine, at: socket.socket, limits: Limits) -> None:
    """Serve at an address until interrupted."""
    uvicorn.Server(uvicorn.Config(create_app(engine, limits), limit_concurrency=limits.requests)).run([at])


def _mistake(request: Request, error: EvoxtralError) -> JSONResponse:
    status = 422 if isinstance(error, AudioError) else 503 if isinstance(error, DeviceFullError) else 400
    return JSONResponse({"detail": str(error)}, status)


def _refused(request: Request, error: HTTPException) -> JSONResponse:
    return JSONResponse({"detail": error.detail}, error.status_code, error.headers)


def _misfit(request: Request, error: RequestValidationError) -> JSONResponse:
    """Every field that does not fit, in one sentence instead of FastAPI's tree."""
    problems = (f"{problem['loc'][-1]}: {problem['msg']}" for problem in error.errors())
    return JSONResponse({"detail": "; ".join(problems) + "."}, 422)

"""The HTTP service: `python -m evoxtral serve`, then http://localhost:8000/docs.

    curl -F file=@clip.wav -F variant=all http://localhost:8000/transcribe

Every answer is JSON; every error of the caller is a 4xx with one sentence in `detail`.
"""

import socket
from enum import StrEnum
from typing import Annotated

import uvicorn
from fastapi import FastAPI, File, Form, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from evoxtral import __version__
from evoxtral.errors import AudioError, DeviceFullError, EvoxtralError
from evoxtral.exports import content
from evoxtral.inference import multitrack
from evoxtral.inference.engine import Engine
from evoxtral.results import FileResult
from evoxtral.serve.limits import RETRY_AFTER, BodyLimit, CrowdLimit, Limits, Turns

MEDIA_TYPES = {
    "txt": "text/plain", "prompt": "text/plain", "srt": "application/x-subrip", "vtt": "text/vtt",
}  # fmt: skip
Format = StrEnum("Format", {form: form for form in ("json", *MEDIA_TYPES)})


def create_app(engine: Engine, limits: Limits | None = None) -> FastAPI:
    """The FastAPI app of one engine."""
    limits = limits or Limits()
    app = FastAPI(
        title="Evoxtral",
        summary="Speech to tagged text.",
        version=__version__,
        middleware=[
            Middleware(CrowdLimit, requests=limits.requests, megabytes=limits.megabytes),
            Middleware(BodyLimit, megabytes=limits.megabytes),
        ],
        exception_handlers={
            EvoxtralError: _mistake,
            HTTPException: _refused,
            RequestValidationError: _misfit,
        },
    )
    variant_names = (*engine.variants, "all")
    Variant = StrEnum("Variant", {name: name for name in variant_names})
    default = Variant(engine.variants[-1])
    turns = Turns(limits.at_once)

    @app.get("/health")
    def health() -> dict:
        """The model of this service, and its limits."""
        return {
            "status": "ok",
            "version": __version__,
            "model": engine.checkpoint.name,
            "variants": engine.variants,
            "max_megabytes": limits.megabytes,
            "max_seconds": limits.seconds,
        }

    @app.post("/transcribe", responses={400: {"description": "One sentence in `detail`, as for every 4xx."}})
    async def transcribe(
        request: Request,
        file: Annotated[list[UploadFile], File(description="WAV, FLAC, MP3, OGG/Opus, M4A/AAC or WebM; one or more.")],
        variant: Annotated[Variant, Form(description="One variant, or all of them.")] = default,
        language: Annotated[str, Form(description="ISO 639-1 code; `auto` to detect it.")] = "en",
        format: Annotated[Format, Form(description="Anything but `json` is the text of one variant.")] = Format.json,
        track: Annotated[int | None, Form(ge=1, description="One track of several; left out: the mix of all.")] = None,
        channels: Annotated[
            str, Form(pattern="^(mix|each|[1-9][0-9]?)$", description="mix, each, or a number.")
        ] = "mix",
    ) -> FileResult | list[FileResult]:
        """Transcribe one recording, or several, whose results are a list."""
        names = engine.variants if variant == "all" else (variant.value,)
        asked = None if language == "auto" else language
        if format != "json" and (len(file) > 1 or len(names) > 1):
            raise EvoxtralError(f"{format.upper()} holds one text: ask for one file and one variant, or for json.")
        chosen = (track, int(channels) if channels.isdecimal() else channels)
        results = []
        for upload in file:
            data = await upload.read()
            try:
                transcripts = await turns.last(
                    request, lambda data=data: multitrack.stream(engine, data, names, asked, limits.seconds, *chosen)
                )
            except AudioError as error:
                raise error if len(file) == 1 else AudioError(f"{upload.filename}: {error}") from error
            if transcripts is None:  # nobody is there to read it
                return Response(status_code=499)
            if format != "json":
                text = content(transcripts[names[0]], format.value)
                return Response(text, media_type=f"{MEDIA_TYPES[format]}; charset=utf-8")
            results.append(FileResult.of(upload.filename or "", engine.checkpoint.name, transcripts))
        return results if len(file) > 1 else results[0]

    return app


def address(host: str, port: int) -> socket.socket:
    """A socket bound to this address, not yet listening. Raises EvoxtralError if the address cannot be used."""
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
    uvicorn.Server(uvicorn.Config(create_app(engine, limits))).run([at])


def _mistake(request: Request, error: EvoxtralError) -> JSONResponse:
    status = 422 if isinstance(error, AudioError) else 503 if isinstance(error, DeviceFullError) else 400
    return JSONResponse({"detail": str(error)}, status, RETRY_AFTER if status == 503 else None)


def _refused(request: Request, error: HTTPException) -> JSONResponse:
    return JSONResponse({"detail": error.detail}, error.status_code, error.headers)


def _misfit(request: Request, error: RequestValidationError) -> JSONResponse:
    """All invalid fields in one sentence, instead of FastAPI's nested errors."""
    problems = (f"{problem['loc'][-1]}: {problem['msg']}" for problem in error.errors())
    return JSONResponse({"detail": "; ".join(problems) + "."}, 422)

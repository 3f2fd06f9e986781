"""The HTTP service: `python -m evoxtral serve`, then http://localhost:8000/docs.

    curl -F file=@clip.wav -F variant=all http://localhost:8000/transcribe
    curl -F file=@clip.wav -F model=evoxtral-rl http://localhost:8000/v1/audio/transcriptions

Every mistake of the caller is a 4xx with one sentence, see `refusals`.
"""

import logging
import signal
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import FrameType

import anyio.to_thread
import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from evoxtral import __version__
from evoxtral.errors import EvoxtralError
from evoxtral.inference.engine import Engine
from evoxtral.model.checkpoints import Checkpoint
from evoxtral.serve import access, monitoring, openai, refusals, transcriptions
from evoxtral.serve.limits import BodyLimit, CrowdLimit, Limits
from evoxtral.serve.service import Options, Service

SPARE_THREADS = 8  # beside one for each request: for /health and what is short

log = logging.getLogger(__name__)


class App(FastAPI):
    """FastAPI whose answers all have CORS headers and a request id: its own middleware stands inside the one that
    answers unexpected errors, whose 500 a browser could then not read."""

    service: Service

    def build_middleware_stack(self) -> ASGIApp:
        inner = super().build_middleware_stack()
        if self.service.options.origins:
            inner = CORSMiddleware(
                inner,
                allow_origins=self.service.options.origins,
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
                expose_headers=["x-request-id", "retry-after"],
            )
        return access.RequestIds(inner, self.service.monitor)


def create_app(model: Engine | Checkpoint, limits: Limits | None = None, options: Options | None = None) -> App:
    """The API of one engine, or of a checkpoint whose engine `app.service.engine` is set to later."""
    limits, options = limits or Limits(), options or Options()
    service = Service(model, limits, options)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = limits.requests + SPARE_THREADS
        yield

    app = App(
        title="Evoxtral",
        summary="Speech to tagged text.",
        version=__version__,
        lifespan=lifespan,
        middleware=[
            Middleware(access.Guard, tokens=options.tokens, limits=limits),
            Middleware(CrowdLimit, requests=limits.requests, megabytes=limits.megabytes),
            Middleware(BodyLimit, megabytes=limits.megabytes),
        ],
    )
    app.service = service
    refusals.add_to(app)
    app.include_router(transcriptions.router(service))
    app.include_router(openai.router(service))

    @app.get("/health", tags=["Operation"])
    def health() -> dict:
        """That the service runs, which model answers here, and what it takes."""
        return {
            "status": "ok",
            "version": __version__,
            "model": service.model,
            "variants": service.variants,
            "max_megabytes": limits.megabytes,
            "max_seconds": limits.seconds,
        }

    @app.get("/ready", tags=["Operation"])
    def ready() -> JSONResponse:
        """Whether requests should be sent here: 503 while the model is loaded and while the service ends."""
        return JSONResponse({"ready": service.ready}, 200 if service.ready else 503)

    @app.get("/metrics", tags=["Operation"], response_class=Response)
    def metrics() -> Response:
        """Counts for Prometheus."""
        return Response(service.monitor.exposition(), media_type=monitoring.MEDIA_TYPE)

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


class Server(uvicorn.Server):
    """Uvicorn that tells the service when it ends. What was accepted is answered: it waits for open requests."""

    def __init__(self, app: App, **settings):
        super().__init__(uvicorn.Config(app, access_log=False, **settings))
        self.service = app.service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.service.draining = True
        log.info("%s: answering what was accepted, then the service ends", signal.Signals(sig).name)
        super().handle_exit(sig, frame)


def run(checkpoint: Checkpoint, at: socket.socket, limits: Limits, options: Options) -> None:
    """Serve at an address until interrupted, from before the weights are read. Raises EvoxtralError if they cannot."""
    server = Server(create_app(checkpoint, limits, options), log_config=None)
    access.name_requests_in_logs()
    logging.getLogger("uvicorn").setLevel(logging.INFO)
    failures: list[EvoxtralError] = []

    def load() -> None:
        try:
            server.service.engine = Engine(checkpoint)
        except EvoxtralError as error:
            failures.append(error)
        finally:
            if server.service.engine is None:
                server.should_exit = True

    threading.Thread(target=load, name="loading", daemon=True).start()
    server.run([at])
    for failure in failures:
        raise failure

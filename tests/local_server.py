"""A server on loopback, in a thread of the tests, that stands in for a service."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class LocalServer(ThreadingHTTPServer):
    """asked: what was sent to it.  plan: what it does with the next requests instead of answering, in order."""

    daemon_threads = True

    def __init__(self, handler: type["LocalHandler"], port: int = 0):
        super().__init__(("127.0.0.1", port), handler)
        self.asked: list = []
        self.plan: list = []
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def planned(self, asked: Any) -> Any:
        """Keep what was asked, and take what is planned for it; None for an answer."""
        with self.lock:
            self.asked.append(asked)
            return self.plan.pop(0) if self.plan else None


class LocalHandler(BaseHTTPRequestHandler):
    server: LocalServer

    def sent(self) -> dict:
        """The JSON of the request."""
        return json.loads(self.rfile.read(int(self.headers["content-length"])))

    def give(self, content: bytes, status: int = 200, length: int | None = None, **headers: str) -> None:
        """Answer.  length: that is stated; the connection ends before it."""
        self.send_response(status)
        stated = {"content-length": str(length or len(content))}
        for name, value in (stated | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)
        self.close_connection = length is not None

    def log_message(self, *_) -> None:
        pass


@contextmanager
def running(server: LocalServer) -> Iterator[LocalServer]:
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()

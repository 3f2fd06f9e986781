"""A real server on loopback, in a thread of the tests."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from evoxtral.serve.api import App, Server, address


class Url(str):
    """An address, and the `server` that answers there."""

    server: Server


@contextmanager
def served(app: App, **settings) -> Iterator[Url]:
    """A server that answers with this app; at the end it stops as for SIGTERM. settings: of uvicorn."""
    server = Server(app, **{"log_level": "error"} | settings)
    with address("127.0.0.1", 0) as at:
        thread = threading.Thread(target=server.run, args=([at],))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        url = Url(f"http://127.0.0.1:{at.getsockname()[1]}")
        url.server = server
        yield url
        server.should_exit = True
        thread.join()

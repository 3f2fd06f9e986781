"""A real server on loopback, in a thread of the tests."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from evoxtral.serve.api import App, Server, address


@contextmanager
def served(app: App) -> Iterator[str]:
    """The address of a server that answers with this app; it ends as for SIGTERM."""
    server = Server(app, log_level="error")
    with address("127.0.0.1", 0) as at:
        thread = threading.Thread(target=server.run, args=([at],))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{at.getsockname()[1]}"
        server.should_exit = True
        thread.join()

"""The app as people start it, `python app.py`, started once for all tests that need it."""

import atexit
import functools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from waiting import PATIENCE, wait_until

ROOT = Path(__file__).parents[1]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


ELEVENLABS_PORT = free_port()  # where the app believes ElevenLabs to be


def app_url() -> str:
    """Where the app answers. It runs the scale model, or what EVOXTRAL_MODEL names, until the tests end."""
    process, url = _launched()
    if os.name == "posix":
        process.send_signal(signal.SIGCONT)
    return url


def pause() -> None:
    """Stops the app until somebody asks where it is: the queue of an idle Gradio looks 1,000 times a second whether
    there is work, which takes 3 % of a core.
    """
    if _launched.cache_info().currsize and os.name == "posix":
        _launched()[0].send_signal(signal.SIGSTOP)


@functools.cache
def _launched() -> tuple[subprocess.Popen, str]:
    port = free_port()
    there = f"http://127.0.0.1:{ELEVENLABS_PORT}"
    # One visitor at a time: what a visitor who waits sees is looked at, too.
    settings = {"EVOXTRAL_MODEL": "tiny", "EVOXTRAL_AT_ONCE": "1", "GRADIO_SERVER_NAME": "127.0.0.1"} | dict(os.environ)
    with tempfile.NamedTemporaryFile("w+", suffix=".log") as log:
        process = subprocess.Popen(
            [sys.executable, "app.py"],
            cwd=ROOT,
            env=settings | {"GRADIO_SERVER_PORT": str(port), "EVOXTRAL_ELEVENLABS": there},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        atexit.register(_stop, process)
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: process.poll() is not None or _answers(url), "the page")
        if process.poll() is not None:
            raise RuntimeError(f"app.py ended: {Path(log.name).read_text()}")
    return process, url


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE):
            return True
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


def _stop(process: subprocess.Popen) -> None:
    if process.poll() is not None:  # then the tests that needed it have failed: say why
        print(f"app.py had ended before the tests did, with {process.returncode}", file=sys.stderr)
    process.terminate()
    if os.name == "posix":
        process.send_signal(signal.SIGCONT)
    process.wait(timeout=PATIENCE)

"""Waiting for a condition. Only a hang ends a wait early: no test measures how fast this machine is."""

import time
from collections.abc import Callable

PATIENCE = 600.0  # s; far beyond what any wait takes on a slow and busy machine


def wait_until(true: Callable[[], bool], what: str = "what was waited for") -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, f"{what} never came"
        time.sleep(0.05)

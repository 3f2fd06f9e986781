"""The model behind the page, loaded once on first use."""

import json
import logging
import threading
from typing import TYPE_CHECKING

from evoxtral.ui.metrics_tab import RESULTS

if TYPE_CHECKING:
    from evoxtral.inference.engine import Engine
    from evoxtral.model.checkpoints import Checkpoint

log = logging.getLogger(__name__)

MORE = "for people's speech take mini-3b: on a GPU, with EVOXTRAL_MODEL=mini-3b"

LOADING = "Loading the model…"


class Model:
    """The name of a checkpoint and, after the first call of `engine()`, its engine.

    The imports of torch and transformers take longer than the start of the page, so they wait for that call too.
    progress: what a visitor is waiting for, until `ready`.
    """

    def __init__(self, name: str = "auto"):
        self.name = name
        self.progress = LOADING
        self._engine: Engine | None = None
        self._loading = threading.Lock()

    @property
    def ready(self) -> bool:
        return self._engine is not None

    def engine(self) -> "Engine":
        """The engine; the first call loads it, and concurrent calls wait. Raises CheckpointError."""
        # Checked before taking the lock, too: a ZeroGPU worker is a fork, in which no thread would release it.
        if self._engine is None:
            with self._loading:
                if self._engine is None:
                    from evoxtral.inference.engine import Engine
                    from evoxtral.model import checkpoints

                    self._engine = Engine(checkpoints.resolve(self.name), on_progress=self._tell)
        return self._engine

    def _tell(self, progress: str) -> None:
        self.progress = f"{LOADING} {progress}."
        log.info(progress)


def description(checkpoint: "Checkpoint") -> tuple[str, str]:
    """Which model is running, and in a clause what it understands and why it is this one: for the page's head."""
    if checkpoint.name == "tiny":
        title, understands = "the scale model", understood(json.loads((RESULTS / "people.json").read_text("utf-8")))
    elif checkpoint.name == "mini-3b":
        title, understands = "Voxtral Mini 3B", "it understands people; tags were trained in English"
    else:
        title, understands = checkpoint.name, "your own checkpoint"
    if checkpoint.reason == "asked for":
        return title, f"{understands}; {MORE}" if checkpoint.name == "tiny" else understands
    return title, f"{understands} ({checkpoint.reason})"


def understood(measured: dict) -> str:
    """What the scale model understands, by its word error rates in `people.json`; people: a person and actors together.

    The sets of people are weighed by their minutes.
    """
    sets = measured["sets"]
    people = [sets[name] for name in ("prompts", "actors") if name in sets]
    minutes = sum(row["minutes"] for row in people)
    rate = sum(row["wer"]["rl"] * row["minutes"] for row in people) / minutes
    return (
        f"it hears the embedded voice; natural voices: {_wrong(sets['ordinary']['wer']['rl'])}; people: {_wrong(rate)}"
    )


def _wrong(rate: float) -> str:
    """A word error rate in words: "about one word in 12 wrong"."""
    if rate > 2 / 3:
        return "most words wrong"
    if rate > 0.4:
        return "about every second word wrong"
    return f"about one word in {round(1 / rate)} wrong"

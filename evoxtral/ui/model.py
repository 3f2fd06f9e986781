"""The model behind the page: found and loaded once, by whoever needs it first."""

import logging
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evoxtral.inference.engine import Engine
    from evoxtral.model.checkpoints import Checkpoint

log = logging.getLogger(__name__)

# Title, and what the model understands. Any other model is shown by its name alone.
KNOWN = {
    "tiny": (
        "the scale model",
        "it understands this project's embedded voice (try the examples), not people",
    ),
    "mini-3b": ("Voxtral Mini 3B", "it understands people; tags were trained in English"),
}

LOADING = "Loading the model…"


class Model:
    """A checkpoint by name and, from the first call of `engine()` on, its engine.

    Importing torch and transformers takes longer than serving the page, so finding the checkpoint waits too.
    progress: a line on what a visitor is waiting for, until `ready`.
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
        """Finds and loads the weights on the first call; others wait for it. Raises CheckpointError."""
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
    title, understands = KNOWN.get(checkpoint.name, (checkpoint.name, "your own checkpoint"))
    return title, understands if checkpoint.reason == "asked for" else f"{understands} ({checkpoint.reason})"

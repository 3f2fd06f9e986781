"""The model behind the page, loaded once on first use."""

import logging
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evoxtral.inference.engine import Engine
    from evoxtral.model.checkpoints import Checkpoint

log = logging.getLogger(__name__)

# Title, and what the model understands; other models are shown by name.
KNOWN = {
    "tiny": (
        "the scale model",
        "it understands this project's embedded voice (try the examples), not people",
    ),
    "mini-3b": ("Voxtral Mini 3B", "it understands people; tags were trained in English"),
}

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
    """For the page's head: the title of the running model, and what it understands or why it was chosen."""
    title, understands = KNOWN.get(checkpoint.name, (checkpoint.name, "your own checkpoint"))
    return title, understands if checkpoint.reason == "asked for" else f"{understands} ({checkpoint.reason})"

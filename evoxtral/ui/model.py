"""The model behind the page, loaded once on first use."""

import json
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from evoxtral.errors import CheckpointError
from evoxtral.ui import model_offer
from evoxtral.ui.metrics_tab import RESULTS
from evoxtral.ui.model_offer import CHOSEN, MINI, Offer, Remembered

if TYPE_CHECKING:
    from evoxtral.inference.engine import Engine
    from evoxtral.model.checkpoints import Checkpoint

log = logging.getLogger(__name__)

MORE = "for people's speech take mini-3b: on a GPU, with EVOXTRAL_MODEL=mini-3b"

LOADING = "Loading the model…"


class Model:
    """The name of a checkpoint and, after the first call of `engine()`, its engine.

    The imports of torch and transformers take longer than the start of the page, so they wait for that call too.
    progress: what a visitor is waiting for, until `ready`.  coming: the progress of another model that is being loaded
    beside the one that runs, or why it did not come; "" without.
    """

    def __init__(self, name: str = "auto", remembered: Remembered | None = None):
        self.name = name
        self.remembered = remembered or Remembered()
        self.progress = LOADING
        self.coming = ""
        self._offer: Offer | None = None
        self._engine: Engine | None = None
        self._loading = threading.Lock()
        self._background: threading.Thread | None = None

    @property
    def ready(self) -> bool:
        return self._engine is not None

    def engine(self) -> "Engine":
        """The engine; the first call loads it, and concurrent calls wait. Raises CheckpointError."""
        # Checked before taking the lock, too: a ZeroGPU worker is a fork, in which no thread would release it.
        if self._engine is None:
            with self._loading:
                if self._engine is None:
                    self._engine = self._first()
                    self._in_background(self._find_offer)
        return self._engine

    def _first(self) -> "Engine":
        """The model that was chosen on the page the last time, where it still can be loaded; else the one named."""
        chosen = self.remembered.name() if self.name == "auto" and not os.environ.get("EVOXTRAL_MODEL") else None
        if chosen:
            try:
                return self._load(chosen, self._tell, CHOSEN)
            except CheckpointError as error:
                log.warning("%s, which was chosen on the page, cannot be loaded: %s", chosen, error)
        return self._load(self.name, self._tell)

    @staticmethod
    def _load(name: str, on_progress: Callable[[str], None], reason: str = "") -> "Engine":
        from evoxtral.inference.engine import Engine
        from evoxtral.model import checkpoints

        checkpoint = checkpoints.resolve(name)
        if reason:
            checkpoint = replace(checkpoint, reason=reason)
        return Engine(checkpoint, on_progress=on_progress)

    def offered(self) -> tuple[str, str] | None:
        """The label of a button, and the model that it stands for; None without an offer."""
        if not self.settled:
            return None
        if self._engine.checkpoint.reason == CHOSEN:
            return model_offer.BACK, "auto"
        return (self._offer.sentence, MINI) if self._offer else None

    def switch(self, name: str) -> None:
        """Load another model in the background; the one that runs goes on until then, and stays if it fails."""
        with self._loading:
            if self.settled:
                self.coming = LOADING
                self._in_background(self._switch, name)

    @property
    def settled(self) -> bool:
        """Whether the model is loaded, and nothing is found out or loaded beside it."""
        return self.ready and not (self._background and self._background.is_alive())

    def wait(self) -> None:
        """Return when what is found out or loaded beside the model has ended."""
        if self._background:
            self._background.join()

    def _in_background(self, task: Callable[..., None], *arguments: str) -> None:
        self._background = threading.Thread(target=task, args=arguments, daemon=True)
        self._background.start()

    def _find_offer(self) -> None:
        self._offer = model_offer.offer(self._engine)

    def _switch(self, name: str) -> None:
        try:
            engine = self._load(name, self._tell_coming, "" if name == "auto" else CHOSEN)
        except CheckpointError as error:
            log.warning("%s: %s", name, error)
            self.coming = f"Voxtral 3B did not come: {error}"
            return
        self._engine, self.coming = engine, ""
        self.remembered.set(None if name == "auto" else name)
        if name == "auto":
            self._find_offer()

    def _tell(self, progress: str) -> None:
        self.progress = f"{LOADING} {progress}."
        log.info(progress)

    def _tell_coming(self, progress: str) -> None:
        self.coming = f"{progress}."
        log.info(progress)


def description(checkpoint: "Checkpoint") -> tuple[str, str]:
    """Which model is running, and in a clause what it understands and why it is this one: for the page's head."""
    if checkpoint.name == "tiny":
        title, understands = "the scale model", understood(json.loads((RESULTS / "people.json").read_text("utf-8")))
    elif checkpoint.name == "mini-3b":
        title, understands = "Voxtral Mini 3B", "it understands people; tags were trained in English"
    else:
        title, understands = checkpoint.name, "your own checkpoint"
    if checkpoint.reason in ("asked for", CHOSEN):
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

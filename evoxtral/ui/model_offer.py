"""On a CPU of one's own, the page offers the model that hears people: one click downloads it, loads it, and remembers.

Not on a Space, where a visitor would choose for everybody: its owner sets EVOXTRAL_MODEL.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evoxtral.inference.engine import Engine

BUTTON = "Hear people with Voxtral 3B"
MINI = "mini-3b"  # as checkpoints.MINI, whose module imports torch
MINI_FILES = 9.4e9  # bytes of its weights
CHOSEN = "chosen on this page"  # the reason of a checkpoint
BACK = "Back to the scale model"


@dataclass(frozen=True)
class Offer:
    """download: bytes still to be had from the Hub.  seconds: for a clip of 5 s by one variant, on this machine."""

    download: float
    seconds: float

    @property
    def sentence(self) -> str:
        size = f"{self.download / 1e9:.0f} GB to download once" if self.download else "downloaded already"
        return f"{BUTTON} ({size}; about {self.seconds:.0f} s for a clip of 5 s here)"


def offer(engine: "Engine") -> Offer | None:
    """What the page may offer beside the model that runs; None on a Space or a GPU, without memory, disk or the Hub."""
    from evoxtral.model import checkpoints, duration, precision

    chosen = engine.checkpoint
    if chosen.name != checkpoints.TINY or chosen.reason == checkpoints.ASKED or os.environ.get("SPACE_ID"):
        return None
    if engine.device.type != "cpu" or not precision.fits(MINI_FILES):
        return None
    download = checkpoints.download_size(checkpoints.resolve(checkpoints.MINI))
    if download is None:
        return None
    return Offer(download, duration.clip_seconds(checkpoints.published_config()))


class Remembered:
    """The name of the model that was chosen on the page, in a file of the user's cache."""

    def __init__(self, environ: Mapping[str, str] = os.environ):
        home = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self.file = home / "evoxtral" / "model"

    def name(self) -> str | None:
        return self.file.read_text(encoding="utf-8").strip() or None if self.file.is_file() else None

    def set(self, name: str | None) -> None:
        if name is None:
            self.file.unlink(missing_ok=True)
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(name + "\n", encoding="utf-8")

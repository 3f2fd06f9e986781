"""Evoxtral: speech in, expressive transcript out.

    >>> import evoxtral
    >>> evoxtral.load().transcribe("clip.wav").text

`import evoxtral` itself loads nothing: each name is imported when it is first used (PEP 562).
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["Engine", "Transcript", "load", "score", "speak", "transcribe"]

if TYPE_CHECKING:
    from evoxtral.inference.engine import Engine, load, transcribe
    from evoxtral.metrics import score
    from evoxtral.speech import speak
    from evoxtral.transcript import Transcript

_HOMES = {
    "Engine": "evoxtral.inference.engine",
    "Transcript": "evoxtral.transcript",
    "load": "evoxtral.inference.engine",
    "score": "evoxtral.metrics",
    "speak": "evoxtral.speech",
    "transcribe": "evoxtral.inference.engine",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})

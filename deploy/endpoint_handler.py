"""A Hugging Face Inference Endpoint: copied as `handler.py` beside a model folder with base/ and adapters, and a
`requirements.txt` that installs Evoxtral.

    {"inputs": <audio, base64 or the request's body>, "parameters": {"variant": "all", "language": "en"}}

The answer is that of `POST /transcribe`, or {"error": a sentence}.
"""

import base64
import binascii
from dataclasses import asdict
from typing import Any

from evoxtral.errors import EvoxtralError
from evoxtral.inference.engine import Engine
from evoxtral.model import checkpoints
from evoxtral.results import FileResult

PARAMETERS = {"variant", "language"}


class EndpointHandler:
    """The class that the Inference Toolkit looks for."""

    def __init__(self, path: str = ""):
        """path: the folder of the repository; "" for the model that `--model auto` would choose."""
        self.engine = Engine(checkpoints.resolve(path or "auto"))

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._transcribed(data)
        except EvoxtralError as error:
            return {"error": str(error)}

    def _transcribed(self, data: dict[str, Any]) -> dict[str, Any]:
        parameters = data.get("parameters") or {}
        unknown = parameters.keys() - PARAMETERS
        if unknown:
            raise EvoxtralError(f"Unknown parameter {sorted(unknown)[0]!r}: there are {', '.join(sorted(PARAMETERS))}.")
        variant, language = parameters.get("variant", self.engine.variants[-1]), parameters.get("language", "en")
        names = self.engine.variants if variant == "all" else (variant,)
        transcripts = self.engine.compare(_audio(data), names, None if language == "auto" else language)
        return asdict(FileResult.of("", self.engine.checkpoint.name, transcripts))


def _audio(data: dict[str, Any]) -> bytes:
    """The recording itself. A string is base64 and never a path or an address, which would be opened."""
    inputs = data.get("inputs")
    if isinstance(inputs, bytes):
        return inputs
    try:
        return base64.b64decode(inputs, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise EvoxtralError("`inputs` is a recording: its bytes as the body, or as base64.") from error

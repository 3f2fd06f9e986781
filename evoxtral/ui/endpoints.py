"""What programs call: named, described endpoints with typed JSON, next to the page's own events."""

from collections.abc import Callable
from functools import wraps
from inspect import getdoc
from typing import Any

import gradio as gr

from evoxtral.errors import EvoxtralError
from evoxtral.metrics import METRICS

TAG = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "category": {"type": "string"},
        "position": {"type": "integer", "description": "character offset in `text`"},
        "probability": {"type": "number", "description": "of the whole tag, 0 to 1"},
    },
}
TRANSCRIPT = {
    "type": "object",
    "properties": {
        "text": {"type": "string", "description": "with tags"},
        "plain": {"type": "string", "description": "words only"},
        "tags": {"type": "array", "items": TAG},
        "seconds": {"type": "number", "description": "time spent"},
        "cut": {"type": "boolean", "description": "the text reached its length limit before the audio ended"},
    },
}
TRANSCRIPTS = {
    "type": "object",
    "description": "variant (base, sft, rl) to its transcript",
    "additionalProperties": TRANSCRIPT,
}


SCORES = {
    "type": "object",
    "description": "Evoxtral-Bench as fractions; WER and CER are null without reference words",
    "properties": {metric.name: {"type": "number", "description": metric.definition} for metric in METRICS},
}


def typed(schema: dict[str, Any]) -> gr.JSON:
    """A JSON output, never seen, whose schema the API's documentation shows."""
    output = gr.JSON(label="Result", visible=False)
    output.api_info = lambda: schema  # instead of "any valid json"; a subclass makes Gradio write a .pyi file
    return output


def endpoint(function: Callable, inputs: list, output: gr.components.Component, **queueing: Any) -> None:
    """Serve `function` under its own name, described by its docstring; mistakes reach callers as one sentence."""
    gr.Button(visible=False).click(
        _saying_what_was_wrong(function),
        inputs,
        output,
        api_name=function.__name__,
        api_description=getdoc(function),
        **queueing,
    )


def _saying_what_was_wrong(function: Callable) -> Callable:
    @wraps(function)
    def wrapped(*args: Any) -> Any:
        try:
            return function(*args)
        except EvoxtralError as error:  # any other exception reaches a caller as a bare class name
            raise gr.Error(str(error), print_exception=False) from error

    return wrapped

"""What programs call: named, described endpoints with typed JSON, next to the page's own events."""

from collections.abc import Callable
from typing import Any

import gradio as gr

from evoxtral.errors import EvoxtralError

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


def endpoint(function: Callable, inputs: list, schema: dict[str, Any], **queueing: Any) -> None:
    """Serve `function` under its own name, described by its docstring. schema: of the JSON it gives."""
    output = gr.JSON(label="Result", visible=False)
    output.api_info = lambda: schema  # instead of "any valid json"; a subclass makes Gradio write a .pyi file
    gr.Button(visible=False).click(
        function,
        inputs,
        output,
        api_name=function.__name__,
        api_description=function.__doc__,
        **queueing,
    )


def sentence(error: EvoxtralError) -> gr.Error:
    """The error that reaches a caller as its own sentence, not as a class name."""
    return gr.Error(str(error), print_exception=False)

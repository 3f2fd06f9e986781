"""Endpoints for programs (API and MCP): named, described, with typed JSON, beside the page's own events."""

import json
from collections.abc import Callable
from functools import wraps
from typing import Any

import gradio as gr
from gradio.mcp import GradioMCPServer
from gradio.utils import get_function_description
from pydantic import TypeAdapter

from evoxtral.errors import EvoxtralError


def text_input(label: str, example: str, value: str | None = None) -> gr.Textbox:
    """A hidden text input; without a default `value` it is a required argument."""
    box = gr.Textbox(value, label=label, visible=False)
    box.example_payload = lambda: example  # instead of "Hello!!"
    return box


def json_output(shape: Any, label: str = "Result", **descriptions: str) -> gr.JSON:
    """A hidden JSON output with the schema of a type; `descriptions` by field."""
    schema = TypeAdapter(shape).json_schema()
    for field, description in descriptions.items():
        schema["properties"][field]["description"] = description
    output = gr.JSON(label=label, visible=False)
    output.api_info = lambda: schema  # instead of "any valid json"; a subclass makes Gradio write a .pyi file
    return output


def endpoint(function: Callable, inputs: list, *outputs: gr.components.Component, **queueing: Any) -> None:
    """Serve `function` under its own name, described by its docstring: one line for each parameter and for each
    output. An EvoxtralError reaches the caller as its sentence."""
    _, parameters, returns = get_function_description(function)
    for component, description in zip((*inputs, *outputs), (*parameters.values(), *returns), strict=True):
        _describe(component, description)
    gr.Button(visible=False).click(
        _with_error_sentence(function), inputs, list(outputs), api_name=function.__name__, **queueing
    )


def answer_in_json(server: GradioMCPServer) -> None:
    """Make the answers of MCP tools JSON: Gradio returns the Python repr of a result."""
    content_of = server.postprocess_output_data

    def in_json(data: list, root_url: str) -> list:
        parts = data[0] if isinstance(data[0], tuple) else data  # several outputs may come as one
        return content_of([_as_text(part) for part in parts], root_url)

    server.postprocess_output_data = in_json


def _as_text(part: Any) -> Any:
    """JSON, unless it is a file, for which Gradio returns an address."""
    is_file = isinstance(part, dict) and "meta" in part
    return part if is_file else json.dumps(part, ensure_ascii=False)


def _describe(component: gr.components.Component, description: str) -> None:
    """Set the description in the schema for MCP clients and in the API documentation, which use different keys."""
    info = component.api_info() | {"description": description, "additional_description": description}
    component.api_info = lambda: info


def _with_error_sentence(function: Callable) -> Callable:
    @wraps(function)
    def wrapped(*args: Any) -> Any:
        try:
            return function(*args)
        except EvoxtralError as error:  # any other exception reaches a caller as a bare class name
            raise gr.Error(str(error), print_exception=False) from error

    return wrapped

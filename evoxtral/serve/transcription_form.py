"""The form of `POST /v1/audio/transcriptions`: OpenAI's fields, Mistral's, and `tags`; whatever is not used is refused.

OpenAI's are those of https://platform.openai.com/docs/api-reference/audio/createTranscription, Mistral's those of
https://docs.mistral.ai/api/endpoint/audio/transcriptions.
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from starlette.datastructures import FormData, UploadFile

from evoxtral.inference.sampling import Decoding
from evoxtral.serve.refusals import Refusal

FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
STREAMED = ("json", "text", "verbose_json")  # subtitles are no stream of text
GRANULARITIES = ("segment", "word")
PLAIN = ":plain"  # after the name of a model: words alone
PREFIX = "evoxtral"  # the last variant; with a dash and a variant's name, that variant
MAX_TEMPERATURE = 1.0
# Fields that Mistral's clients send and OpenAI's never do: by them the two are told apart.
_MISTRALS = {"diarize", "context_bias", "file_url", "file_id", "speaker_references"}
_CHUNKING = re.compile(r"chunking_strategy\[\w+\]")
_USED = {
    "file", "model", "language", "temperature", "response_format", "stream", "include", "timestamp_granularities",
    "chunking_strategy", "tags",
}  # fmt: skip
# What this model has no means for -> what to do instead.
_UNSUPPORTED = {
    "prompt": "The model takes no prompt: leave it out.",
    "keywords": "The model takes no keywords: leave them out.",
    "context_bias": "The model takes no context: leave context_bias out.",
    "languages": "One language at a time: use `language`.",
    "known_speaker_names": "Speakers are not told apart here: leave known_speaker_names out.",
    "known_speaker_references": "Speakers are not told apart here: leave known_speaker_references out.",
    "speaker_references": "Speakers are not told apart here: leave speaker_references out.",
    "diarize": "Speakers are not told apart here: leave diarize out.",
    "file_url": "Nothing is fetched here: send the recording itself as `file`.",
    "file_id": "No files are kept here: send the recording itself as `file`.",
}
_NOTHING = {"", "false", "null", "none", "[]", "{}"}  # how a field that is not used is sent


@dataclass(frozen=True)
class Asked:
    """One request, understood.

    model: as it was asked for.  variant: which it is.  plain: without tags.  language: None to detect it.
    mistral: whether Mistral's shapes are wanted.
    """

    file: UploadFile
    model: str
    variant: str
    plain: bool
    language: str | None
    decoding: Decoding
    format: str
    granularities: Collection[str]
    logprobs: bool
    stream: bool
    mistral: bool


def read(form: FormData, models: Mapping[str, str]) -> Asked:
    """Understand a form. models: name -> variant. Raises Refusal, which names the field."""
    fields = {key.removesuffix("[]") for key in form}
    mistral = bool(fields & _MISTRALS) or ("timestamp_granularities" in form and "response_format" not in form)
    _refuse_unused(form, fields)
    _check_chunking(form)
    plain_name, variant = _model(form, models)
    tags = _flag(form, "tags", True)
    stream, shape = _flag(form, "stream", False), _one_of(form, "response_format", FORMATS, "json")
    if stream and shape not in STREAMED:
        raise Refusal(400, f"A stream holds text: leave stream out for {shape}.", "response_format", "invalid_value")
    granularities = _several(form, "timestamp_granularities", GRANULARITIES)
    if granularities and not mistral and shape != "verbose_json":
        message = "timestamp_granularities needs response_format verbose_json."
        raise Refusal(400, message, "timestamp_granularities", "invalid_value")
    include = _several(form, "include", ("logprobs",))
    if include and shape != "json":
        raise Refusal(400, "include logprobs needs response_format json.", "include", "invalid_value")
    language = _text(form, "language")
    return Asked(
        _file(form),
        _text(form, "model"),
        variant,
        plain_name or not tags,
        None if language == "auto" else language or "en",
        Decoding(temperature=_temperature(form)),
        shape,
        granularities,
        bool(include),
        stream,
        mistral,
    )


def _refuse_unused(form: FormData, fields: Collection[str]) -> None:
    for field in sorted(fields):
        if field in _USED or _CHUNKING.fullmatch(field):
            continue
        given = any(
            not isinstance(value, str) or value.strip().lower() not in _NOTHING
            for value in (*form.getlist(field), *form.getlist(f"{field}[]"))
        )
        if field not in _UNSUPPORTED:
            raise Refusal(400, f"Unknown parameter: '{field}'.", field, "unknown_parameter")
        if given:
            raise Refusal(400, _UNSUPPORTED[field], field, "unsupported_parameter")


def _check_chunking(form: FormData) -> None:
    """Recordings are always divided at pauses; "auto" and server_vad ask for no more than that."""
    kind = _text(form, "chunking_strategy") or _text(form, "chunking_strategy[type]")
    if kind.startswith("{"):  # as JSON
        try:
            kind = json.loads(kind).get("type")
        except ValueError:
            kind = "no JSON"
    if kind not in ("", "auto", "server_vad"):
        message = "chunking_strategy is auto or of type server_vad."
        raise Refusal(400, message, "chunking_strategy", "invalid_value")


def _model(form: FormData, models: Mapping[str, str]) -> tuple[bool, str]:
    name = _text(form, "model")
    if not name:
        raise Refusal(400, "You must provide a model parameter.", "model", "missing_required_parameter")
    bare = name.removesuffix(PLAIN)
    if bare not in models:
        known = ", ".join(models)
        raise Refusal(404, f"The model '{name}' does not exist: there are {known}.", "model", "model_not_found")
    return bare != name, models[bare]


def _file(form: FormData) -> UploadFile:
    files = form.getlist("file")
    if not files:
        message = "Send one recording as `file`, as multipart/form-data."
        raise Refusal(400, message, "file", "missing_required_parameter")
    if len(files) > 1:
        message = f"One recording a request, and `file` is there {len(files)} times: send each in a request of its own."
        raise Refusal(400, message, "file", "invalid_value")
    if not isinstance(files[0], UploadFile):
        raise Refusal(400, "file is a file, not text: send it as multipart/form-data.", "file", "invalid_type")
    return files[0]


def _temperature(form: FormData) -> float:
    text = _text(form, "temperature")
    try:
        temperature = float(text or 0)
    except ValueError:
        temperature = -1.0
    if not 0 <= temperature <= MAX_TEMPERATURE:
        message = f"temperature is a number from 0 to {MAX_TEMPERATURE:g}."
        raise Refusal(400, message, "temperature", "invalid_value")
    return temperature


def _text(form: FormData, field: str) -> str:
    value, *more = form.getlist(field) or [""]
    if more:
        raise Refusal(400, f"{field} is there {1 + len(more)} times: give it once.", field, "invalid_value")
    if not isinstance(value, str):
        raise Refusal(400, f"{field} is text, not a file.", field, "invalid_type")
    return value.strip()


def _flag(form: FormData, field: str, default: bool) -> bool:
    value = _text(form, field).lower()
    if value not in ("", "true", "false", "1", "0"):
        raise Refusal(400, f"{field} is true or false.", field, "invalid_type")
    return default if not value else value in ("true", "1")


def _one_of(form: FormData, field: str, known: Collection[str], default: str) -> str:
    value = _text(form, field) or default
    if value not in known:
        raise Refusal(400, f"{field} is one of {', '.join(known)}, not '{value}'.", field, "invalid_value")
    return value


def _several(form: FormData, field: str, known: Collection[str]) -> list[str]:
    values = [value for value in (*form.getlist(field), *form.getlist(f"{field}[]")) if value != ""]
    wrong = [value for value in values if value not in known]
    if wrong:
        raise Refusal(400, f"{field} holds {' or '.join(known)}, not '{wrong[0]}'.", field, "invalid_value")
    return values

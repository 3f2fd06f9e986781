"""OpenAI's routes, so that programs written for it work unmodified; Mistral's shape of the same route where its fields
are sent."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from evoxtral.errors import EvoxtralError
from evoxtral.exports import content
from evoxtral.serve import events, refusals
from evoxtral.serve.refusals import Refusal
from evoxtral.serve.response_formats import Answer
from evoxtral.serve.service import Service, Task
from evoxtral.serve.transcription_form import FORMATS, GRANULARITIES, MAX_TEMPERATURE, PLAIN, PREFIX, read
from evoxtral.serve.transcriptions import CLIENT_LEFT, MEDIA_TYPES

CREATED = 1_767_225_600  # a date of a model, which clients want; it says nothing (1 January 2026)
_USAGE = {
    "type": "tokens",
    "input_tokens": 389,
    "input_token_details": {"audio_tokens": 375, "text_tokens": 14},
    "output_tokens": 15,
    "total_tokens": 404,
}
_EXAMPLE = {"text": "[nervous] I didn't mean it. [sighs]", "usage": _USAGE}
_STREAMED = events.event({"type": "transcript.text.delta", "delta": "[nervous] I didn't"}) + events.event(
    {"type": "transcript.text.done", **_EXAMPLE}
)
_ERROR = refusals.error_object(404, "The model 'x' does not exist: there are …", "model", "model_not_found")


def models_of(service: Service) -> dict[str, str]:
    """Name of a model -> variant: the aliases, then each variant with and without the prefix."""
    names = {PREFIX: service.variants[-1]}
    names |= {f"{PREFIX}-{variant}": variant for variant in service.variants}
    names |= {variant: variant for variant in service.variants}
    return names | dict(service.options.aliases)


def router(service: Service) -> APIRouter:
    error = {"content": {"application/json": {"example": _ERROR}}, "description": "OpenAI's error object."}
    routes = APIRouter(prefix="/v1", tags=["OpenAI and Mistral"], responses={"4XX": error, "5XX": error})
    models = models_of(service)
    listed = [f"{PREFIX}-{variant}" for variant in service.variants]
    listed += [name + PLAIN for name in listed] + list(service.options.aliases)

    @routes.get("/models")
    def list_models() -> dict:
        """The variants as models; with the suffix `:plain` they write words alone."""
        return {"object": "list", "data": [_model(name) for name in listed]}

    @routes.get("/models/{name}")
    def retrieve_model(name: str) -> dict:
        """One of them."""
        if name.removesuffix(PLAIN) not in models:
            raise Refusal(404, f"The model '{name}' does not exist.", "model", "model_not_found")
        return _model(name)

    body = {"required": True, "content": {"multipart/form-data": {"schema": _form(listed)}}}
    examples = {"application/json": {"example": _EXAMPLE}, "text/event-stream": {"example": _STREAMED}}

    @routes.post(
        "/audio/transcriptions",
        response_class=Response,
        openapi_extra={"requestBody": body},
        responses={200: {"content": examples}},
    )
    async def create_transcription(request: Request) -> Response:
        """OpenAI's contract: `json`, `text`, `srt`, `verbose_json` or `vtt`, or events with `stream`. Mistral's
        answers and events where one of its own fields is sent (`diarize`, as its clients always do)."""
        async with request.form() as form:
            asked = read(form, models)
            data = await asked.file.read()
        prompt = service.loaded.prompt
        try:
            prompt.transcription_ids(asked.language)
        except EvoxtralError as error:
            raise Refusal(400, str(error), "language", "invalid_value") from error
        answer = Answer(asked, prompt)
        task = Task(data, (asked.variant,), asked.language, asked.decoding)
        if asked.stream:
            steps = service.each(request, task)
            told = lambda found: answer.step(found[asked.variant])  # noqa: E731
            return await events.started(steps, told, _failed) or Response(status_code=CLIENT_LEFT)
        found = await service.last(request, task)
        if found is None:
            return Response(status_code=CLIENT_LEFT)
        transcript = found[asked.variant]
        if asked.mistral or asked.format in ("json", "verbose_json"):
            return JSONResponse(answer.whole(transcript))
        form_name = {"text": "txt"}.get(asked.format, asked.format)
        text = content(answer.shown(transcript), form_name).rstrip("\n") + "\n"
        return Response(text, media_type=f"{MEDIA_TYPES[form_name]}; charset=utf-8")

    return routes


def _failed(error: EvoxtralError) -> str:
    status, _, _ = refusals.of(error, "/v1/")
    return events.event(refusals.error_object(status, str(error)))


def _model(name: str) -> dict:
    """In OpenAI's words; `type` and `capabilities` are Mistral's, whose client refuses a list without them."""
    return {
        "id": name,
        "object": "model",
        "type": "base",
        "created": CREATED,
        "owned_by": "evoxtral",
        "capabilities": {"audio_transcription": True, "completion_chat": False},
    }


def _form(models: list[str]) -> dict:
    """The schema of the form, for the documentation: FastAPI cannot say `include[]`."""
    text = {"type": "string"}
    return {
        "type": "object",
        "required": ["file", "model"],
        "properties": {
            "file": {**text, "format": "binary"},
            "model": {**text, "examples": models, "description": "A variant; `:plain` for words without tags."},
            "language": {**text, "default": "en", "description": "ISO 639-1 code; `auto` to detect it."},
            "response_format": {**text, "enum": list(FORMATS), "default": "json"},
            "stream": {"type": "boolean", "default": False},
            "temperature": {"type": "number", "minimum": 0, "maximum": MAX_TEMPERATURE, "default": 0},
            "timestamp_granularities[]": {"type": "array", "items": {**text, "enum": list(GRANULARITIES)}},
            "include[]": {"type": "array", "items": {**text, "enum": ["logprobs"]}},
            "chunking_strategy": {**text, "description": "`auto` or server_vad: pauses always divide a recording."},
            "tags": {"type": "boolean", "default": True, "description": "Tags in the text; Evoxtral's own field."},
            "prompt": {**text, "description": "Refused: the model takes none."},
        },
    }

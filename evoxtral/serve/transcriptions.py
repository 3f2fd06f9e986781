"""Evoxtral's own routes: every variant of one recording, or of several, as on the command line."""

from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, File, Form, Request, UploadFile
from fastapi.responses import Response

from evoxtral.audio import FORMATS
from evoxtral.errors import AudioError, EvoxtralError
from evoxtral.exports import content, in_dialect
from evoxtral.foreign_formats import DIALECTS
from evoxtral.results import FileResult
from evoxtral.serve import events
from evoxtral.serve.service import Service, Task
from evoxtral.transcript import Transcript

MEDIA_TYPES = {
    "txt": "text/plain", "prompt": "text/plain", "srt": "application/x-subrip", "vtt": "text/vtt",
}  # fmt: skip
CLIENT_LEFT = 499  # nobody reads it; the log does
INCOMPLETE = "x-incomplete"  # header: what is missing of the recording, percent-encoded
LEFT_OUT = "x-left-out"  # header: the tags that a dialect has no counterpart for, percent-encoded
Dialect = StrEnum("Dialect", {dialect: dialect for dialect in DIALECTS})
Format = StrEnum("Format", {form: form for form in ("json", *MEDIA_TYPES)})

_RESULT = {
    "file": "clip.wav",
    "duration": 2.4,
    "model": "mini-3b",
    "variants": {
        "rl": {
            "text": "[nervous] I didn't mean it. [sighs]",
            "plain": "I didn't mean it.",
            "tags": [{"name": "nervous", "category": "emotion", "offset": 0, "probability": 0.93}],
            "elapsed": 0.4,
            "truncated": False,
            "confidence": 0.97,
            "doubtful": False,
            "segments": [{"start": 0.1, "end": 2.3, "text": "[nervous] I didn't mean it. [sighs]"}],
            "cues": [{"start": 0.1, "end": 2.3, "text": "[nervous] I didn't mean it. [sighs]"}],
        }
    },
    "incomplete": None,
    "notes": [],
    "track": None,
    "channel": None,
}
_STREAMED = events.event(
    {"file": "clip.wav", "variants": {"rl": "[nervous] I didn't"}, "final": []}, "partial"
) + events.event(_RESULT, "result")

PART = "^(mix|each|[1-9][0-9]?)$"
Upload = Annotated[UploadFile, File(description=f"{', '.join(FORMATS)}.")]
Uploads = Annotated[list[UploadFile], File(description=f"{', '.join(FORMATS)}; one or more.")]
Language = Annotated[str, Form(description="ISO 639-1 code; `auto` to detect it.")]
Track = Annotated[str | None, Form(pattern=PART, description="mix, each, or a number.")]
Channels = Annotated[
    str | None,
    Form(
        pattern=PART,
        description="mix, each, or a number. With track and channels left out both are mixed, unless people speak at "
        "once in them most of the time.",
    ),
]
BAD_REQUEST = {400: {"description": "One sentence in `detail`, as for every 4xx."}}


def _check_format(format: Format, dialect: Dialect | None, one: bool) -> None:
    """Raises EvoxtralError for a format that does not go with what is asked for.  one: whether that is one text."""
    if format != "json" and not one:
        raise EvoxtralError(f"{format.upper()} holds one text: ask for one file and one variant, or for json.")
    if dialect and format != "txt":
        raise EvoxtralError("A dialect is of plain text: ask for format txt, or leave dialect out.")


def _text(transcript: Transcript, format: Format, dialect: Dialect | None) -> Response:
    """A transcript in another format than JSON; what that has no place for is in headers."""
    text, headers = content(transcript, format.value), {}
    if transcript.incomplete:
        headers[INCOMPLETE] = quote(transcript.incomplete)
    if dialect:
        written = in_dialect(transcript, dialect.value)
        text, headers[LEFT_OUT] = written.text, quote(" ".join(written.lost))
    return Response(text, media_type=f"{MEDIA_TYPES[format]}; charset=utf-8", headers=headers)


def router(service: Service) -> APIRouter:
    routes = APIRouter(tags=["Evoxtral"], responses=BAD_REQUEST)
    Variant = StrEnum("Variant", {name: name for name in (*service.variants, "all")})
    default = Variant(service.variants[-1])
    Asked = Annotated[Variant, Form(description="One variant, or all of them.")]

    def task(data: bytes, variant: Variant, language: str, track: str | None, channels: str | None) -> Task:
        names = service.variants if variant == "all" else (variant.value,)
        chosen = [int(one) if one and one.isdecimal() else one for one in (track, channels)]
        return Task(data, names, None if language == "auto" else language, None, *chosen)

    @routes.post("/transcribe", responses={200: {"content": {"application/json": {"example": _RESULT}}}})
    async def transcribe(
        request: Request,
        file: Uploads,
        variant: Asked = default,
        language: Language = "en",
        format: Annotated[Format, Form(description="Anything but `json` is the text of one variant.")] = Format.json,
        dialect: Annotated[
            Dialect | None, Form(description="Tags as this text-to-speech system wants them; with `format` txt.")
        ] = None,
        track: Track = None,
        channels: Channels = None,
    ) -> FileResult | list[FileResult]:
        """Transcribe one recording, or several, whose results are a list."""
        _check_format(format, dialect, one=len(file) == 1 and (variant != "all" or len(service.variants) == 1))
        results = []
        for upload in file:
            try:
                asked = task(await upload.read(), variant, language, track, channels)
                transcripts = await service.last(request, asked)
            except AudioError as error:
                raise error if len(file) == 1 else AudioError(f"{upload.filename}: {error}") from error
            if transcripts is None:
                return Response(status_code=CLIENT_LEFT)
            if format != "json":
                return _text(*transcripts.values(), format, dialect)
            results.append(FileResult.of(upload.filename or "", service.model, transcripts))
        return results if len(file) > 1 else results[0]

    @routes.post(
        "/transcribe/stream",
        response_class=Response,
        responses={
            200: {"content": {"text/event-stream": {"example": _STREAMED}}, "description": "Server-Sent Events."}
        },
    )
    async def stream(
        request: Request,
        file: Upload,
        variant: Asked = default,
        language: Language = "en",
        track: Track = None,
        channels: Channels = None,
    ) -> Response:
        """Transcribe one recording and see its text grow: events `partial`, with the text so far of every variant and
        in `final` those whose text will not change (where decoding is slow, one variant comes before the others),
        then `result`, which is what `/transcribe` answers; `error` with `detail` if it fails in between."""
        name = file.filename or ""

        def told(transcripts: dict[str, Transcript]) -> Sequence[str]:
            if all(transcript.done for transcript in transcripts.values()):
                return (events.event(asdict(FileResult.of(name, service.model, transcripts)), "result"),)
            texts = {variant: transcript.text for variant, transcript in transcripts.items()}
            final = [variant for variant, transcript in transcripts.items() if transcript.done]
            return (events.event({"file": name, "variants": texts, "final": final}, "partial"),)

        def failure(error: EvoxtralError) -> str:
            return events.event({"detail": str(error)}, "error")

        steps = service.each(request, task(await file.read(), variant, language, track, channels))
        return await events.started(steps, told, failure) or Response(status_code=CLIENT_LEFT)

    return routes

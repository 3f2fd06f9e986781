"""OpenAI's and Mistral's routes, asked by the clients that people have. Versions: see the `dev` extra."""

import asyncio
import io
import json
import subprocess
from pathlib import Path

import httpx
import mistralai.client
import openai
import pytest
import srt
import webvtt
from conftest import spoken, tone
from served import served

from evoxtral import audio, tags
from evoxtral.errors import DeviceFullError
from evoxtral.serve.api import Options, create_app
from evoxtral.serve.limits import Limits

CLIP = audio.wav_bytes(tone(1.5))
LONG = audio.wav_bytes(spoken(14.0))  # two windows of the tiny model
FORM = {"model": "evoxtral-rl"}


@pytest.fixture(scope="module")
def url(engine):
    """A server of a model of random weights."""
    options = Options(origins=["https://page.example"], aliases={"whisper-1": "sft"})
    with served(create_app(engine, Limits(megabytes=2, seconds=60), options)) as url:
        yield url


@pytest.fixture(scope="module")
def client(url) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clip.wav"
    path.write_bytes(CLIP)
    return path


def post(url: str, data: bytes = CLIP, **fields) -> httpx.Response:
    form = {**FORM, **{name: value for name, value in fields.items() if value is not None}}
    form = {name: value for name, value in form.items() if value != "absent"}
    return httpx.post(f"{url}/v1/audio/transcriptions", data=form, files={"file": ("clip.wav", data)}, timeout=None)


def events_of(text: str) -> list[dict]:
    """The data of every event; each ends with a blank line, also the last."""
    assert text.endswith("\n\n")
    lines = [line for block in text.split("\n\n") for line in block.splitlines() if line.startswith("data: ")]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


# ------------------------------------------------------------------------------------------------- openai


def test_openai_takes_a_file_bytes_a_path_and_a_pair(client, clip, engine):
    expected = engine.transcribe(CLIP, "rl")
    expected = expected.without(expected.hide_below).text
    for file in (clip, CLIP, ("a.wav", CLIP), io.BytesIO(CLIP), clip.open("rb")):
        answer = client.audio.transcriptions.create(file=file, **FORM)
        assert answer.text == expected != ""
        assert answer.usage.type == "tokens" and answer.usage.output_tokens > 0
        details = answer.usage.input_token_details
        assert details.audio_tokens + details.text_tokens == answer.usage.input_tokens


def test_each_name_of_a_model_is_a_variant(client, url, engine):
    listed = [model.id for model in client.models.list()]
    assert listed[:3] == ["evoxtral-base", "evoxtral-sft", "evoxtral-rl"] and "whisper-1" in listed
    assert client.models.retrieve("evoxtral-rl:plain").id == "evoxtral-rl:plain"
    verbose = {name: post(url, model=name, response_format="verbose_json").json() for name in ("whisper-1", "sft")}
    assert verbose["whisper-1"]["text"] == verbose["sft"]["text"]
    with pytest.raises(openai.NotFoundError) as refused:
        client.audio.transcriptions.create(file=CLIP, model="gpt-9")
    assert refused.value.code == "model_not_found" and refused.value.param == "model"


def test_words_alone_are_had_by_a_field_or_a_suffix(client, engine):
    expected = engine.transcribe(CLIP, "base").words_alone().text
    by_field = client.audio.transcriptions.create(file=CLIP, model="evoxtral-base", extra_body={"tags": False})
    by_suffix = client.audio.transcriptions.create(file=CLIP, model="evoxtral-base:plain")
    assert by_field.text == by_suffix.text == expected
    assert not tags.names(expected)


def test_verbose_json_has_segments_words_and_tags_as_data(client, engine):
    both = {"timestamp_granularities": ["segment", "word"], "response_format": "verbose_json"}
    answer = client.audio.transcriptions.create(file=LONG, **FORM, **both)
    assert answer.duration == pytest.approx(14.0) and answer.language == "english"
    assert answer.usage.type == "duration" and answer.usage.seconds == 14
    assert " ".join(segment.text for segment in answer.segments) == answer.text
    assert "".join("".join(cue["text"].split()) for cue in answer.cues) == "".join(answer.text.split())
    for segment in answer.segments:
        assert 0 <= segment.start < segment.end <= 14 and segment.avg_logprob <= 0
        assert engine.prompt.decode(segment.tokens) == segment.text
    spoken = [word.text for word in engine.transcribe(LONG, "rl").words_alone().words]
    assert [word.word for word in answer.words] == spoken != []
    starts = [word.start for word in answer.words]
    assert starts == sorted(starts) and answer.words[-1].end <= 14
    assert [tag["name"] for tag in answer.tags] == [tag.name for tag in engine.transcribe(LONG, "rl").tags]


def test_granularities_choose_what_is_there(url):
    by_default = post(url, response_format="verbose_json").json()
    assert "segments" in by_default and "words" not in by_default
    words = post(url, response_format="verbose_json", **{"timestamp_granularities[]": "word"}).json()
    assert "words" in words and "segments" not in words


def test_text_and_subtitles_are_text(client):
    text = client.audio.transcriptions.create(file=CLIP, response_format="text", **FORM)
    assert isinstance(text, str) and text.endswith("\n")
    found = client.audio.transcriptions.create(file=LONG, response_format="srt", **FORM)
    cues = [*srt.parse(found)]
    found = client.audio.transcriptions.create(file=LONG, response_format="vtt", **FORM)
    assert len(cues) == len(webvtt.from_string(found)) > 0


def test_logprobs_are_of_every_token(client):
    answer = client.audio.transcriptions.create(file=CLIP, include=["logprobs"], **FORM)
    assert "".join(entry.token for entry in answer.logprobs).strip() == answer.text
    assert all(entry.logprob <= 0 and bytes(map(int, entry.bytes)).decode() == entry.token for entry in answer.logprobs)


@pytest.mark.parametrize("plain", [False, True], ids=["tags", "plain"])
def test_a_stream_grows_into_its_text(client, plain):
    model = "evoxtral-rl:plain" if plain else "evoxtral-rl"
    asked = {"stream": True, "include": ["logprobs"], "chunking_strategy": {"type": "server_vad", "threshold": 0.5}}
    *deltas, done = client.audio.transcriptions.create(file=LONG, model=model, **asked)
    assert {event.type for event in deltas} == {"transcript.text.delta"} and done.type == "transcript.text.done"
    assert "".join(event.delta for event in deltas) == done.text != ""
    if not plain:  # what of a token is left without tags is known only when all of it is
        told = [(entry.token, entry.logprob) for event in deltas for entry in event.logprobs]
        whole = [(entry.token, entry.logprob) for entry in done.logprobs]
        assert [entry for entry in told if entry[0].strip()] == [entry for entry in whole if entry[0].strip()] != []
    assert done.usage.output_tokens > 0


def test_the_last_event_of_a_stream_holds_what_verbose_json_adds(client):
    asked = {"response_format": "verbose_json", "timestamp_granularities": ["word"], "stream": True}
    *deltas, done = client.audio.transcriptions.create(file=LONG, **FORM, **asked)
    assert "".join(event.delta for event in deltas) == done.text != ""
    assert done.words and done.duration == pytest.approx(14.0) and not hasattr(done, "segments")


def test_openai_asynchronous_and_raw(url, clip):
    async def ask() -> tuple[str, list, httpx.Headers]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            answer = await client.audio.transcriptions.create(file=clip, **FORM)
            stream = await client.audio.transcriptions.create(file=CLIP, stream=True, chunking_strategy="auto", **FORM)
            events = [event async for event in stream]
            raw = await client.audio.transcriptions.with_raw_response.create(file=CLIP, **FORM)
            return answer.text, events, raw.headers

    text, events, headers = asyncio.run(ask())
    assert text and events[-1].type == "transcript.text.done"
    assert headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"model": "absent"}, 400, "model"),
        ({"prompt": "Names: Ann"}, 400, "prompt"),
        ({"response_format": "diarized_json"}, 400, "response_format"),
        ({"response_format": "srt", "stream": "true"}, 400, "response_format"),
        ({"temperature": "1.5"}, 400, "temperature"),
        ({"temperature": "warm"}, 400, "temperature"),
        ({"stream": "perhaps"}, 400, "stream"),
        ({"include[]": "tokens"}, 400, "include"),
        ({"include[]": "logprobs", "response_format": "text"}, 400, "include"),
        ({"timestamp_granularities[]": "word"}, 400, "timestamp_granularities"),
        ({"timestamp_granularities[]": "char", "response_format": "verbose_json"}, 400, "timestamp_granularities"),
        ({"chunking_strategy": '{"type": "none"}'}, 400, "chunking_strategy"),
        ({"keywords": "Evoxtral"}, 400, "keywords"),
        ({"diarize": "true"}, 400, "diarize"),
        ({"file_url": "https://example.org/a.wav"}, 400, "file_url"),
        ({"colour": "red"}, 400, "colour"),
        ({"language": "klingon"}, 400, "language"),
    ],
)
def test_what_is_not_used_is_refused_in_openai_s_shape(url, fields, status, param):
    answer = post(url, **fields)
    error = answer.json()["error"]
    assert answer.status_code == status and error.keys() == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


@pytest.mark.parametrize(
    ("parts", "param", "code", "said"),
    [
        ([("file", ("a.wav", CLIP)), ("file", ("b.wav", CLIP))], "file", "invalid_value", "2 times"),
        ([("file", (None, "a.wav"))], "file", "invalid_type", "not text"),
        ([("language", (None, "en"))], "file", "missing_required_parameter", "one recording"),
        ([("file", CLIP), ("language", (None, "en")), ("language", (None, "de"))], "language", "invalid_value", "once"),
    ],
)
def test_a_form_with_a_field_too_many_or_too_few_is_told_which(url, parts, param, code, said):
    answer = httpx.post(f"{url}/v1/audio/transcriptions", files=[*parts, ("model", (None, FORM["model"]))])
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, code) and said in error["message"]


def test_every_other_error_has_that_shape_too(url, client, engine, monkeypatch):
    with pytest.raises(openai.BadRequestError) as refused:
        client.audio.transcriptions.create(file=b"no recording", **FORM)
    assert refused.value.param == "file"
    for answer, status in (
        (post(url, bytes(2_100_000)), 413),
        (httpx.get(f"{url}/v1/nowhere"), 404),
        (httpx.get(f"{url}/v1"), 404),
        (httpx.get(f"{url}/v1/audio/transcriptions"), 405),
        (httpx.post(f"{url}/v1/audio/transcriptions", data=FORM), 400),
        (httpx.post(f"{url}/v1/audio/transcriptions", content=b"x", headers={"content-type": "text/plain"}), 400),
    ):
        assert answer.status_code == status and answer.json()["error"]["message"]
    # A stream is events or a status, and before the first event it is a status.
    assert post(url, b"no recording", stream="true").status_code == 400
    monkeypatch.setattr(engine.prompt, "log_mel", lambda *_: [][0])
    answer = post(url)
    assert answer.status_code == 500 and answer.json()["error"]["type"] == "server_error"


@pytest.mark.parametrize(
    ("failure", "said"),
    [(DeviceFullError("The device has no memory left."), "no memory left"), (ZeroDivisionError(), "request id")],
    ids=["foreseen", "unforeseen"],
)
def test_a_failure_in_the_middle_of_a_stream_reaches_the_client(client, url, engine, monkeypatch, failure, said):
    stream = engine.stream

    def torn(*given, **named):
        yield next(iter(stream(*given, **named)))
        raise failure

    monkeypatch.setattr(engine, "stream", torn)
    with pytest.raises(openai.APIError, match=said):
        [*client.audio.transcriptions.create(file=LONG, stream=True, **FORM)]
    *_, last = events_of(post(url, LONG, stream="true").text)
    assert last["error"]["type"] == "server_error"


# ------------------------------------------------------------------------------------------------- mistralai


def test_mistral_s_client_gets_its_own_shapes(url, engine):
    client = mistralai.client.Mistral(api_key="none", server_url=url)
    file = {"content": LONG, "file_name": "a.wav"}
    asked = {"model": "evoxtral-base", "file": file, "timestamp_granularities": ["segment"]}
    answer = client.audio.transcriptions.complete(**asked)
    assert answer.model == "evoxtral-base" and answer.language == "en"
    assert " ".join(segment.text for segment in answer.segments) == answer.text
    assert answer.usage.prompt_audio_seconds == 14 and answer.usage.completion_tokens > 0
    *grown, done = [event.data for event in client.audio.transcriptions.stream(**asked)]
    text = "".join(event.text for event in grown if event.type == "transcription.text.delta")
    assert (done.type, done.text) == ("transcription.done", text)
    assert [event.text for event in grown if event.type == "transcription.segment"] == [s.text for s in done.segments]
    assert "evoxtral-base" in [model.id for model in client.models.list().data]


# ------------------------------------------------------------------------------------------------- curl, fetch


def test_curl_streams_and_the_stream_ends_with_a_blank_line(url, clip):
    command = ["curl", "-sN", f"{url}/v1/audio/transcriptions", "-F", f"file=@{clip}", "-F", "model=rl"]
    shown = subprocess.run([*command, "-F", "stream=true"], capture_output=True, text=True, check=True).stdout
    assert events_of(shown)[-1]["type"] == "transcript.text.done"
    shown = subprocess.run([*command, "-F", "response_format=text"], capture_output=True, text=True, check=True).stdout
    assert shown.strip()


def test_silence_streams_too(url):
    text = post(url, audio.wav_bytes(tone(1.0) * 0), stream="true").text
    assert [event["type"] for event in events_of(text)] == ["transcript.text.done"]


def test_a_page_of_an_allowed_origin_may_ask_and_reads_errors_too(url):
    headers = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
    headers["Access-Control-Request-Headers"] = "authorization,x-stainless-lang"
    asked = httpx.options(f"{url}/v1/audio/transcriptions", headers=headers)
    assert asked.status_code == 200 and "x-stainless-lang" in asked.headers["access-control-allow-headers"]
    refused = httpx.post(f"{url}/v1/audio/transcriptions", headers={"Origin": "https://page.example"})
    assert refused.headers["access-control-allow-origin"] == "https://page.example"
    assert "x-request-id" in refused.headers["access-control-expose-headers"]
    other = httpx.get(f"{url}/health", headers={"Origin": "https://other.example"})
    assert "access-control-allow-origin" not in other.headers

"""The app as a program sees it: really started, called through Gradio's own client."""

import asyncio
import base64
import hashlib
import inspect
import json
import os
import pickle
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import soundfile
import torch
from conftest import spoken, tone
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from launched import ROOT, app_url, free_port
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from waiting import PATIENCE, wait_until

from evoxtral import audio, tags
from evoxtral.errors import AudioError, EvoxtralError
from evoxtral.model.checkpoints import Checkpoint
from evoxtral.model.precision import Precision
from evoxtral.speech import natural_voices, speak
from evoxtral.ui import compare_events, page
from evoxtral.ui import decoder as decoder_module
from evoxtral.ui.comparison import Comparison
from evoxtral.ui.decoder import Decoder, Example
from evoxtral.ui.history import Result
from evoxtral.ui.model import Model, description, understood

EXAMPLES = Example.read(ROOT / "examples")


@pytest.fixture(scope="module")
def client() -> Client:
    return Client(app_url(), verbose=False, httpx_kwargs={"timeout": PATIENCE})


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("clips") / "sigh.wav"
    audio.save(path, speak("[sighs] We waited for the train.").waveform)
    return str(path)


# ------------------------------------------------------------------------------------- /compare


def test_compare_gives_text_plain_tags_seconds_and_times_of_every_variant(client, clip):
    result = client.predict(handle_file(clip), "en", api_name="/compare")
    assert list(result)[:3] == ["base", "sft", "rl"]
    for transcript in result.values():
        assert transcript["plain"] == tags.plain(transcript["text"])
        assert [tag["name"] for tag in transcript["tags"]] == tags.names(transcript["text"])
        assert all(0 <= tag["probability"] <= 1 for tag in transcript["tags"])
        assert transcript["elapsed"] > 0
        assert isinstance(transcript["truncated"], bool)
        assert transcript["text"] == " ".join(segment["text"] for segment in transcript["segments"])
        assert all(0 <= cue["start"] < cue["end"] for cue in transcript["cues"])


def test_the_default_language_is_english(client, clip):
    said, unsaid = (client.predict(handle_file(clip), *more, api_name="/compare") for more in (("en",), ()))
    assert {name: t["text"] for name, t in said.items()} == {name: t["text"] for name, t in unsaid.items()}


def test_a_language_that_the_page_does_not_offer_is_refused(client, clip):
    with pytest.raises(AppError, match="xx"):
        client.predict(handle_file(clip), "xx", api_name="/compare")


def test_silence_is_an_empty_transcript_not_an_error(client, tmp_path):
    audio.save(tmp_path / "silence.wav", np.zeros(32_000, np.float32))
    result = client.predict(handle_file(str(tmp_path / "silence.wav")), api_name="/compare")
    assert {transcript["text"] for transcript in result.values()} == {""}


def test_files_that_are_no_recordings_give_one_sentence_and_the_app_keeps_working(client, clip, tmp_path):
    contents = {
        "empty.wav": b"",
        "letter.wav": b"Dear Sir or Madam,",
        "half.flac": b"fLaC\0\0\0\x22broken",
        "page.html": b"<html>",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(AppError, match=r"^[^\n]+\.$") as failure:
            client.predict(handle_file(str(tmp_path / name)), api_name="/compare")
        assert "Traceback" not in str(failure.value), name
    assert client.predict(handle_file(clip), api_name="/compare")["rl"]["elapsed"] > 0


def test_a_file_of_the_server_that_nobody_uploaded_is_not_read(client):
    theirs = {"path": str(EXAMPLES[0].clip.parent / "examples.json"), "meta": {"_type": "gradio.FileData"}}
    secret = {"path": "/etc/hostname", "meta": {"_type": "gradio.FileData"}}
    for file in (theirs, secret):
        with pytest.raises((AppError, ValueError)):
            client.predict(file, api_name="/compare")


def described(client: Client) -> dict[str, dict]:
    """What the API's documentation says of each endpoint, by name."""
    return client.view_api(return_format="dict", print_info=False)["named_endpoints"]


def test_every_endpoint_parameter_and_result_is_described_and_typed(client):
    endpoints = described(client)
    parameters = {
        name: [parameter["parameter_name"] for parameter in endpoint["parameters"]]
        for name, endpoint in endpoints.items()
    }
    assert parameters == {
        "/compare": ["audio", "language", "track", "channels"],
        "/transcribe": ["audio", "variant", "language", "track", "channels"],
        "/export": ["audio", "variant", "language", "format", "track", "channels", "dialect"],
        "/tracks": ["audio"],
        "/score": ["prediction", "reference"],
        "/speak": ["script", "voice", "seed"],
    }
    for endpoint in endpoints.values():
        assert endpoint["description"]
        for value in (*endpoint["parameters"], *endpoint["returns"]):
            assert value["python_type"]["description"] == value["type"]["description"] != ""
            assert value["python_type"]["type"] != "Any"


def test_required_parameters_are_marked_and_have_examples(client):
    needed = {
        f"{name} {parameter['label']}": parameter["example_input"]
        for name, endpoint in described(client).items()
        for parameter in endpoint["parameters"]
        if not parameter["parameter_has_default"]
    }
    assert needed.keys() == {
        "/compare Your clip",
        "/transcribe Your clip",
        "/export Your clip",
        "/tracks Your clip",
        "/score Prediction",
        "/score Reference",
        "/speak Script",
    }
    assert all(tags.names(example) for example in needed.values() if isinstance(example, str))


def test_every_key_of_an_answer_is_in_its_schema(client, clip):
    schemas = {name: endpoint["returns"][0]["type"] for name, endpoint in described(client).items()}
    transcript, score = schemas["/transcribe"], schemas["/score"]["properties"]
    tag, cue, word = (transcript["$defs"][name]["properties"] for name in ("TagSpan", "TimedText", "Word"))
    answer = client.predict(handle_file(clip), api_name="/transcribe")
    assert transcript["properties"].keys() == answer.keys() and transcript["required"] == list(answer)
    assert schemas["/compare"]["$defs"]["VariantResult"]["properties"] == transcript["properties"]
    timed = [*answer["segments"], *answer["cues"]]
    assert timed and [cue.keys()] * len(timed) == [given.keys() for given in timed]
    assert [tag.keys()] * len(answer["tags"]) == [given.keys() for given in answer["tags"]]
    assert [word.keys()] * len(answer["words"]) == [given.keys() for given in answer["words"]]
    assert score.keys() == client.predict("", "", api_name="/score").keys()
    for may_be_null in (tag["probability"], word["start"], score["wer"], score["cer"]):
        assert {"type": "null"} in may_be_null["anyOf"]


# ------------------------------------------------------------------------------------- the others


def test_transcribe_gives_what_compare_gives_for_that_variant(client, clip):
    alone = client.predict(handle_file(clip), "sft", api_name="/transcribe")
    together = client.predict(handle_file(clip), api_name="/compare")["sft"]
    assert alone["text"] == together["text"]
    with pytest.raises(AppError, match="no variant 'gold'"):
        client.predict(handle_file(clip), "gold", api_name="/transcribe")


def test_export_gives_the_content_of_a_file(client, clip):
    said = client.predict(handle_file(clip), "sft", api_name="/transcribe")["text"]
    given = {
        form: client.predict(handle_file(clip), "sft", "en", form, api_name="/export") for form in ("prompt", "vtt")
    }
    assert said and given["prompt"] == " ".join(said.split())
    assert given["vtt"].startswith("WEBVTT\n\n00:00:")
    with pytest.raises(AppError, match="'docx' is no format: choose one of txt, json, srt"):
        client.predict(handle_file(clip), "sft", "en", "docx", api_name="/export")


@pytest.fixture
def call(tmp_path) -> str:
    """A tone on the left, then one on the right."""
    samples = np.zeros((32_000, 2), np.float32)
    samples[:12_000, 0], samples[18_000:30_000, 1] = audio.load(EXAMPLES[0].clip)[8_000:20_000], 0.1
    samples[18_000:30_000, 1] *= np.sin(np.arange(12_000) * np.linspace(0.1, 0.3, 12_000))
    path = tmp_path / "call.wav"
    soundfile.write(path, samples, 16_000)
    return str(path)


def test_channels_are_listed_and_chosen_and_each_gives_cues_with_their_names(client, call):
    (track,) = client.predict(handle_file(call), api_name="/tracks")
    assert (track["number"], track["channels"], track["rate"]) == (1, ["left", "right"], 16_000)
    answer = client.predict(handle_file(call), "sft", channels="each", api_name="/transcribe")
    assert {cue["channel"] for cue in answer["segments"]} <= {"left", "right"} and answer["segments"]
    left = client.predict(handle_file(call), "sft", channels="1", api_name="/transcribe")
    assert left["text"] == " ".join(one["text"] for one in answer["segments"] if one["channel"] == "left")
    with pytest.raises(AppError, match="no track 2"):
        client.predict(handle_file(call), "sft", track="2", api_name="/transcribe")
    with pytest.raises(AppError, match="channels is mix or each or a number from 1, not 'all'"):
        client.predict(handle_file(call), "sft", channels="all", api_name="/transcribe")


def test_the_chooser_lists_tracks_or_channels_and_is_hidden_for_mono(call, clip):
    assert compare_events.offer_parts(call)["choices"] == [
        ("Everything", "/"),
        ("Left channel alone", "/1"),
        ("Right channel alone", "/2"),
        ("Each channel, by name", "/each"),
    ]
    assert not compare_events.offer_parts(clip)["visible"] and not compare_events.offer_parts(None)["visible"]


def test_score_gives_the_seven_scores(client):
    scores = client.predict("[sad] I was there", "[sad] I was here [sighs]", api_name="/score")
    assert scores["wer"] == pytest.approx(1 / 3) and scores["tag_precision"] == 1.0 and scores["tag_recall"] == 0.5


def test_without_words_in_the_reference_the_word_scores_are_null(client):
    scores = client.predict("[sad] Hello.", "[sad]", api_name="/score")
    assert scores["wer"] is scores["cer"] is None and scores["tag_f1"] == 1.0


def test_speak_returns_a_recording_and_skipped_tags_or_one_sentence(client):
    recording, skipped = client.predict("[sighs] We waited [levitates] for the train.", api_name="/speak")
    assert audio.duration(audio.load(recording)) > 1.5 and skipped == ["[levitates]"]
    for impossible in ("", "[levitates]", "word " * 1000):
        with pytest.raises(AppError, match=r"^[^\n]+\.$"):
            client.predict(impossible, api_name="/speak")


def curl(*arguments: str) -> str:
    command = ["curl", "-sSN", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout


def uploaded(path: str) -> dict:
    """The file as an endpoint takes it."""
    (there,) = json.loads(curl("-F", f"files=@{path}", f"{app_url()}/gradio_api/upload"))
    return {"path": there, "meta": {"_type": "gradio.FileData"}}


def called(endpoint: str, *data: object) -> tuple[str, object]:
    """What curl is told: the last event's name and what it carries."""
    address = f"{app_url()}/gradio_api/call/{endpoint}"
    asked = json.loads(curl("-H", "Content-Type: application/json", "-d", json.dumps({"data": data}), address))
    *_, event, result = curl(f"{address}/{asked['event_id']}").strip().splitlines()
    return event.removeprefix("event: "), json.loads(result.removeprefix("data: "))


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine")
def test_every_endpoint_answers_curl(clip):
    event, (transcripts,) = called("compare", uploaded(clip), "en", "", "mix")
    assert event == "complete" and list(transcripts)[:3] == ["base", "sft", "rl"]
    event, (transcript,) = called("transcribe", uploaded(clip), "rl", "en", "", "mix")
    assert event == "complete" and transcript["text"] == transcripts["rl"]["text"]
    event, (scores,) = called("score", "[sad] hi", "[sad] hi")
    assert event == "complete" and scores["tag_f1"] == 1.0
    event, (recording, skipped) = called("speak", "[sighs] Hello.", "en-us+f3", 0)
    assert event == "complete" and recording["url"].startswith(app_url()) and skipped == []
    event, error = called("speak", "[levitates]", "en-us+f3", 0)
    assert event == "error" and "a tag such as [laughs]" in error["error"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine")
def test_files_of_other_visitors_and_of_the_server_cannot_be_read(clip):
    folder = Path(uploaded(clip)["path"]).parent
    assert len(folder.name) == 64 and folder.name != hashlib.sha256(Path(clip).read_bytes()).hexdigest()
    for path in (folder, folder.parent, ROOT / "app.py", "/etc/hostname"):
        status = curl("-o", os.devnull, "-w", "%{http_code}", f"{app_url()}/gradio_api/file={path}")
        assert status in ("403", "404"), path


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine")
def test_a_file_above_the_limit_is_refused_while_it_is_sent(tmp_path):
    (tmp_path / "large.wav").write_bytes(bytes(round(audio.MAX_MEGABYTES) * 2**20 + 1))
    said = curl("-w", "%{http_code}", "-F", f"files=@{tmp_path / 'large.wav'}", f"{app_url()}/gradio_api/upload")
    assert "exceeded maximum allowed size" in said and said.endswith("413")


def test_the_cache_is_cleaned_of_visitors_files_and_the_examples_stay(tmp_path, monkeypatch, clip):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setattr(page, "CLEAN_EVERY", 1)
    monkeypatch.setattr(page, "CLEAN_AFTER", 1)

    def files() -> set[Path]:
        return {path for path in tmp_path.rglob("*") if path.is_file()}

    demo = page.build(Model("tiny"), ROOT / "examples")
    examples = files()
    assert {path.name for path in examples} == {example.clip.name for example in EXAMPLES}
    demo.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", server_port=free_port())
    try:
        visitor = Client(demo.local_url, verbose=False, download_files=False)
        visitor.predict("[sighs] Hello.", api_name="/speak")
        with pytest.raises(AppError, match="no variant"):
            visitor.predict(handle_file(clip), "gold", api_name="/transcribe")
        wait_until(lambda: files() == examples, "the end of the visitor's files")
        for path in examples:  # so old that a later pass would take them, if any did
            os.utime(path, (0, 0))
        visitor.predict("[sighs] Hello.", api_name="/speak")
        wait_until(lambda: files() <= examples, "a later pass")
        assert files() == examples
    finally:
        demo.close()


def test_a_deleted_clip_gets_one_sentence(tmp_path):
    gone = compare_events.describe_clip(str(tmp_path / "gone.wav"), Decoder(Model("tiny")))
    assert "no longer on the server" in gone and str(tmp_path) not in gone


def test_the_same_endpoints_are_mcp_tools(clip):
    data = "data:audio/wav;base64," + base64.b64encode(Path(clip).read_bytes()).decode()

    async def ask():
        address = f"{app_url()}/gradio_api/mcp/"
        async with streamable_http_client(address) as (read, write, _), ClientSession(read, write) as session:
            await session.initialize()
            tools = {tool.name: tool for tool in (await session.list_tools()).tools}
            scores = await session.call_tool("score", {"prediction": "[sad] hi", "reference": "[sad] hi"})
            compared = await session.call_tool("compare", {"audio": data})
            transcribed = await session.call_tool("transcribe", {"audio": data, "variant": "sft"})
            spoken = await session.call_tool("speak", {"script": "[sighs] Hello. [levitates]"})
            theirs = await session.call_tool("compare", {"audio": "/etc/hostname"})
            return tools, scores, compared, transcribed, spoken, theirs

    tools, scores, compared, transcribed, spoken, theirs = asyncio.run(ask())
    assert tools.keys() == {"compare", "transcribe", "export", "tracks", "score", "speak"}
    for tool in tools.values():
        assert tool.description
        assert all(parameter["description"] for parameter in tool.inputSchema["properties"].values())
    assert tools["score"].inputSchema["required"] == ["prediction", "reference"]
    assert json.loads(scores.content[0].text)["tag_f1"] == 1.0
    assert json.loads(transcribed.content[0].text)["text"] == json.loads(compared.content[0].text)["sft"]["text"]
    recording, skipped = spoken.content
    assert recording.text.startswith(f"{app_url()}/gradio_api/file=") and json.loads(skipped.text) == ["[levitates]"]
    assert theirs.isError  # a path of the server is no recording of the caller's


# ------------------------------------------------------------------------------------- ZeroGPU


class Loaded(Model):
    """A model that is there already."""

    def __init__(self, engine):
        super().__init__()
        self._engine = engine


def test_the_requested_gpu_time_fits_the_clip_and_the_daily_quota():
    decoder = Decoder(Model("tiny"))
    three, one = ("base", "sft", "rl"), ("rl",)
    short, long, long_by_one = (
        decoder.gpu_seconds(np.zeros(16_000 * seconds), "en", variants)
        for seconds, variants in ((3, three), (1800, three), (1800, one))
    )
    assert short < 30 and short < long_by_one < long < 120


def test_a_clip_too_long_for_the_quota_is_rejected_before_a_gpu_is_requested(tmp_path, monkeypatch):
    monkeypatch.setattr(decoder_module, "ZERO_GPU", True)
    audio.save(tmp_path / "long.wav", np.tile(spoken(10.0), 180))
    decoder = Decoder(Model("tiny"))
    decoder.gpu_time.slowdown = 10.0  # as it was found to be
    monkeypatch.setattr(decoder, "_on_gpu", None)
    with pytest.raises(AudioError, match=r"lasts 30\.0 minutes"):
        decoder.last(str(tmp_path / "long.wav"), "en", ("base", "sft", "rl"))


def test_silence_requests_no_gpu(engine, tmp_path, monkeypatch):
    decoder = Decoder(Loaded(engine))
    monkeypatch.setattr(decoder, "_on_gpu", None)
    audio.save(tmp_path / "silence.wav", np.zeros(32_000, np.float32))
    assert {name: heard.text for name, heard in decoder.last(str(tmp_path / "silence.wav"), "en").items()} == {
        "base": "", "sft": "", "rl": "",
    }  # fmt: skip


def test_arguments_and_results_of_the_gpu_process_can_be_pickled(engine):
    for transcripts in engine.stream((audio.SAMPLE_RATE, tone(2.0))):
        assert pickle.loads(pickle.dumps(transcripts)) == transcripts


def test_an_error_in_the_gpu_process_keeps_its_type_and_sentence(engine):
    decoder = Decoder(Loaded(engine))
    (handed_over,) = decoder._on_gpu(tone(1.0), "en", ("gold",))
    assert isinstance(pickle.loads(pickle.dumps(handed_over)), EvoxtralError)
    with pytest.raises(EvoxtralError, match="gold"):
        decoder.last(str(EXAMPLES[0].clip), "en", ("gold",))


def test_gpu_seconds_takes_the_arguments_of_the_decoder():
    decoder = Decoder(Model("tiny"))
    assert list(inspect.signature(decoder._on_gpu).parameters) == list(
        inspect.signature(decoder.gpu_seconds).parameters
    )


# ------------------------------------------------------------------------------------- the page's facts


def test_a_model_that_does_not_exist_ends_the_app_with_one_sentence(monkeypatch):
    monkeypatch.setenv("GRADIO_SERVER_PORT", str(free_port()))

    def too_slow(*_, **__):
        raise httpx.ReadTimeout("as on a busy machine")

    monkeypatch.setattr("httpx.head", too_slow)  # by which Gradio probes the page once more
    model = Model("/no/such/model")
    shown = page.build(model, ROOT / "examples")
    with pytest.raises(SystemExit, match="^There is no model '/no/such/model'"):
        page.serve(shown, model)
    shown.close()


def test_the_page_shows_the_progress_of_loading_and_then_stops_polling(monkeypatch):
    def load(checkpoint, on_progress):
        on_progress("Downloading me/base: 40% of 9.4 GB, 01:20 left")
        waiting, timer, _ = page.head(model)
        assert "Loading the model… Downloading me/base: 40% of 9.4 GB, 01:20 left." in waiting
        assert "active" not in timer
        return SimpleNamespace(checkpoint=checkpoint, precision=Precision("fp32", torch.float32, "a small model"))

    monkeypatch.setattr("evoxtral.inference.engine.Engine", load)
    model = Model("tiny")
    model.engine()
    model.wait()
    named, timer, _ = page.head(model)
    assert "the scale model" in named and "; weights in fp32 (a small model)" in named and not timer.active


def test_the_page_names_the_model_and_what_it_understands(checkpoint):
    title, understands = description(checkpoint)
    assert checkpoint.name in title and understands


@pytest.mark.parametrize(
    ("rate", "said"),
    [(0.02, "one word in 50 wrong"), (0.3, "one word in 3 wrong"), (0.5, "every second word"), (0.9, "most words")],
)
def test_the_head_says_how_many_words_of_people_are_wrong(rate, said):
    sets = {"ordinary": {"wer": {"rl": 0.1}, "minutes": 1}}
    sets |= {"prompts": {"wer": {"rl": rate}, "minutes": 3}, "actors": {"wer": {"rl": rate}, "minutes": 1}}
    told = understood({"sets": sets})
    assert f"people: about {said}" in told or f"people: {said}" in told
    assert "natural voices: about one word in 10 wrong" in told
    assert "mini-3b" in description(Checkpoint("tiny", "base", {}, reason="asked for"))[1]


def test_an_adapter_from_the_environment_has_a_column(checkpoint, clip, monkeypatch):
    monkeypatch.setenv("EVOXTRAL_MODEL", str(Path(checkpoint.base).parent))
    monkeypatch.setenv("EVOXTRAL_ADAPTERS", f"mine={checkpoint.adapters['sft']}")
    decoder = Decoder(Model("auto"))
    transcripts = decoder.last(clip, "en")
    columns = Comparison((Result("1", "clip.wav", "mine", "now", transcripts, ""),)).columns()
    assert [column.key for column in columns] == ["base", "sft", "rl", "mine"]
    assert columns[3].heading.title == "mine" and columns[3].transcript.text == columns[1].transcript.text


def test_at_least_three_examples_are_one_click_away_and_small():
    assert len(EXAMPLES) >= 3
    assert sum(example.clip.stat().st_size for example in EXAMPLES) < 1_000_000
    for example in EXAMPLES:
        assert tags.names(example.reference) and not audio.is_silent(audio.load(example.clip))


def test_half_of_the_examples_are_spoken_by_the_embedded_voice():
    listing = json.loads((ROOT / "examples" / "examples.json").read_text(encoding="utf-8"))
    natural = [entry for entry in listing if natural_voices.is_natural(entry["voice"])]
    assert len(natural) == 2 and len(listing) == 4
    for entry in [entry for entry in listing if entry not in natural]:
        spoken = speak(entry["text"], entry["voice"], entry["seed"]).waveform
        recorded = audio.load(ROOT / "examples" / entry["file"])
        assert len(recorded) == len(spoken) and np.corrcoef(recorded, spoken)[0, 1] > 0.99

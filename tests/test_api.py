"""The HTTP API, asked as a program would."""

import io
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote

import httpx
import pytest
import torch
import uvicorn
from conftest import spoken, tone
from fastapi.testclient import TestClient
from test_recordings import container
from waiting import PATIENCE

from evoxtral import audio, cli
from evoxtral.exports import content, in_dialect
from evoxtral.inference.engine import Engine
from evoxtral.serve.api import address, create_app
from evoxtral.serve.limits import Limits

CLIP = audio.wav_bytes(tone(1.5))


@pytest.fixture(scope="module")
def client(engine) -> TestClient:
    return TestClient(create_app(engine, Limits(megabytes=0.2, seconds=5)), raise_server_exceptions=False)


def upload(client: TestClient, data: bytes = CLIP, **fields: str):
    return client.post("/transcribe", files={"file": ("clip.wav", io.BytesIO(data))}, data=fields)


def test_health_names_the_model_and_its_limits(client):
    answer = client.get("/health").json()
    assert answer["status"] == "ok"
    assert (answer["model"], answer["variants"]) == ("random", ["base", "sft", "rl"])
    assert (answer["max_megabytes"], answer["max_seconds"]) == (0.2, 5)


def test_a_recording_gives_the_same_object_as_the_command_line(client, engine):
    result = upload(client, variant="all").json()
    assert (result["file"], result["model"]) == ("clip.wav", "random")
    assert result["duration"] == pytest.approx(1.5)
    assert list(result["variants"]) == ["base", "sft", "rl"]
    for variant, entry in result["variants"].items():
        expected = engine.transcribe(CLIP, variant)
        assert set(entry) == {*"text plain tags elapsed truncated confidence doubtful segments cues words".split()}
        assert (entry["text"], entry["plain"]) == (expected.text, expected.plain)


def test_the_answer_has_incomplete_notes_and_channel(client):
    result = upload(client, CLIP[: len(CLIP) // 2], channels="1").json()
    assert result["incomplete"].startswith("has ") and result["channel"] == "channel 1"
    assert upload(client, channels="all").status_code == 422
    text = upload(client, CLIP[: len(CLIP) // 2], format="txt")
    assert unquote(text.headers["x-incomplete"]) == result["incomplete"]
    assert "x-incomplete" not in upload(client, format="txt").headers


def test_each_track_is_transcribed_where_it_is_asked_for(client):
    two = container("matroska", [(0.0, tone(1.5))], [(0.5, tone(1.5, seed=1))], codec="libopus")
    answer = upload(client, two, track="each")
    assert answer.status_code == 200
    cues = answer.json()["variants"]["rl"]["segments"]
    assert [cue["channel"] for cue in cues] == ["track 1", "track 2"]
    assert upload(client, two, track="both").status_code == 422


def test_the_default_variant_is_the_last_adapter(client):
    assert list(upload(client).json()["variants"]) == ["rl"]
    assert list(upload(client, variant="sft").json()["variants"]) == ["sft"]


@pytest.mark.parametrize(
    ("data", "fields", "status", "mentioned"),
    [
        (CLIP, {"variant": "best"}, 422, "variant"),
        (CLIP, {"language": "klingon"}, 400, "klingon"),
        (b"", {}, 422, "empty"),
        (b"no recording", {}, 422, "recording"),
        (CLIP, {"track": "2"}, 422, "no track 2"),
        (audio.wav_bytes(spoken(6.0)), {}, 422, "limit is 5 s"),
        (bytes(210_000), {}, 413, "0.2 MB"),
    ],
    ids=["variant", "language", "empty", "noise", "track", "long", "large"],
)
def test_a_callers_error_is_a_4xx_with_one_sentence(client, data, fields, status, mentioned):
    answer = upload(client, data, **fields)
    assert answer.status_code == status
    assert mentioned in answer.json()["detail"]


def test_concurrent_decoding_is_limited(engine, monkeypatch):
    """Each has a cache of its own: all of them together would be bounded by nothing."""
    now, most, counting = 0, 0, threading.Lock()
    stream, pair = engine.stream, threading.Barrier(2)

    def counted(*given, **named):
        nonlocal now, most
        with counting:
            now += 1
            most = max(most, now)
        try:
            pair.wait(PATIENCE)  # passes only where two are decoded at a time
            yield from stream(*given, **named)
        finally:
            with counting:
                now -= 1

    monkeypatch.setattr(engine, "stream", counted)
    client = TestClient(create_app(engine, Limits(at_once=2)))
    with ThreadPoolExecutor(6) as visitors:
        assert all(answer.status_code == 200 for answer in visitors.map(lambda _: upload(client), range(6)))
    assert most == 2


@pytest.mark.parametrize("form", ["txt", "prompt", "srt", "vtt"])
def test_a_format_is_the_text_of_the_command_line(client, engine, form):
    answer = upload(client, format=form, variant="sft")
    assert answer.text == content(engine.transcribe(CLIP, "sft"), form) != ""
    kind = {"srt": "application/x-subrip", "vtt": "text/vtt"}.get(form, "text/plain")
    assert answer.headers["content-type"] == f"{kind}; charset=utf-8"


def test_a_dialect_is_plain_text_and_names_what_it_leaves_out(client, engine):
    written = in_dialect(engine.transcribe(CLIP, "sft"), "plain")
    answer = upload(client, variant="sft", format="txt", dialect="plain")
    assert answer.text == written.text != ""
    assert unquote(answer.headers["x-left-out"]) == " ".join(written.lost)
    for wrong in ({"dialect": "plain"}, {"dialect": "klingon", "format": "txt"}):
        assert upload(client, variant="sft", **wrong).status_code in (400, 422)


def test_a_format_of_one_text_is_refused_for_several(client):
    answer = upload(client, format="srt", variant="all")
    assert answer.status_code == 400 and "one file and one variant" in answer.json()["detail"]


def test_several_files_are_all_transcribed_or_refused_in_a_sentence(client):
    files = [("file", (name, io.BytesIO(CLIP))) for name in ("a.wav", "b.wav")]
    assert [result["file"] for result in client.post("/transcribe", files=files).json()] == ["a.wav", "b.wav"]
    answer = client.post("/transcribe", files=[*files, ("file", ("c.wav", io.BytesIO(b"none")))])
    assert answer.status_code == 422 and answer.json()["detail"].startswith("c.wav: ")


# ------------------------------------------------------------------------------------------------- under load


class Slow:
    """An engine whose stream gives nothing new until it is let go, and counts."""

    def __init__(self, engine: Engine):
        self.variants, self.checkpoint, self.stream = engine.variants, engine.checkpoint, self._stream
        self.scheduler = engine.scheduler
        self.last = engine.compare(CLIP)
        self.begun, self.ended, self.go = threading.Semaphore(0), threading.Semaphore(0), threading.Event()
        self.finished = 0

    def _stream(self, *_, **__):
        self.begun.release()
        try:
            while not self.go.wait(0.01):
                yield self.last
            self.finished += 1
            yield self.last
        finally:
            self.ended.release()


@pytest.fixture
def served(engine):
    """A slow engine behind a real server on loopback; two requests may be under way, one is decoded at a time."""
    slow = Slow(engine)
    app = create_app(slow, Limits(requests=2, at_once=1, megabytes=5))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    with address("127.0.0.1", 0) as at:
        thread = threading.Thread(target=server.run, args=([at],))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield slow, at.getsockname()
        slow.go.set()
        server.should_exit = True
        thread.join()


def sent(to: tuple[str, int]) -> socket.socket:
    """A request with a clip in it, whose answer is not read yet."""
    request = httpx.Request("POST", "http://localhost/transcribe", files={"file": ("a.wav", CLIP)})
    head = "POST /transcribe HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    head += "".join(f"{name}: {request.headers[name]}\r\n" for name in ("Content-Type", "Content-Length"))
    connection = socket.create_connection(to)
    connection.sendall(head.encode() + b"\r\n" + request.read())
    return connection


def wait_until_crowded(to: tuple[str, int], crowded: bool = True) -> None:
    """Until one more request is sent away, or no longer is."""
    while (httpx.post(f"http://{to[0]}:{to[1]}/transcribe").status_code == 503) != crowded:
        time.sleep(0.01)


def test_a_disconnected_client_stops_its_decoding(served):
    slow, to = served
    first = sent(to)
    slow.begun.acquire()
    first.close()
    slow.ended.acquire()  # though it was never let go
    with sent(to) as second:
        slow.begun.acquire()
        slow.go.set()
        answer = b"".join(iter(lambda: second.recv(65_536), b""))
    assert answer.startswith(b"HTTP/1.1 200") and slow.finished == 1


def test_a_client_that_disconnects_while_waiting_is_never_decoded(served):
    slow, to = served
    with sent(to) as first:
        slow.begun.acquire()
        with sent(to):
            wait_until_crowded(to)
        wait_until_crowded(to, crowded=False)
        slow.go.set()
        assert first.recv(12) == b"HTTP/1.1 200"
    assert slow.finished == 1 and not slow.begun.acquire(blocking=False)


def test_beyond_the_limit_clients_get_503_with_retry_after(served):
    slow, to = served
    with sent(to), sent(to):
        slow.begun.acquire()
        url = f"http://{to[0]}:{to[1]}"
        wait_until_crowded(to)

        def ask(_) -> httpx.Response:
            return httpx.post(f"{url}/transcribe", files={"file": ("a.wav", bytes(4_000_000))}, timeout=None)

        with ThreadPoolExecutor(8) as visitors:
            for answer in visitors.map(ask, range(16)):
                assert answer.status_code == 503 and int(answer.headers["Retry-After"]) > 0
                assert "ask again" in answer.json()["detail"]
        assert httpx.get(f"{url}/health").json()["status"] == "ok"
        slow.go.set()


def test_a_body_without_content_length_is_limited_too(client):
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    chunks = iter([head, *[bytes(50_000)] * 5])
    headers = {"content-type": "multipart/form-data; boundary=x"}
    answer = client.post("/transcribe", content=chunks, headers=headers)
    assert answer.status_code == 413
    assert "0.2 MB" in answer.json()["detail"]


def test_a_request_without_a_file_gets_one_sentence(client):
    answer = client.post("/transcribe")
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("file: ")


def test_a_path_that_does_not_exist_is_json_too(client):
    assert client.get("/nowhere").json() == {"detail": "Not Found"}


def test_the_documentation_names_the_variants(client):
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    assert schemas["Variant"]["enum"] == ["base", "sft", "rl", "all"]
    assert client.get("/docs").status_code == 200


def test_serve_answers_over_a_socket(checkpoint, unused_port):
    model = Path(checkpoint.base).parent
    command = [sys.executable, "-m", "evoxtral", "serve", "--model", str(model), "--port", str(unused_port)]
    server = subprocess.Popen(command, cwd=Path(__file__).parents[1], stderr=subprocess.DEVNULL)
    try:
        assert ask(f"http://127.0.0.1:{unused_port}/health", server)["variants"] == ["base", "sft", "rl"]
    finally:
        server.terminate()
        server.wait()


@pytest.mark.parametrize(
    ("port", "reason"), [("70000", "(ports are 0 to 65535): choose"), ("taken", "(Address already in use): choose")]
)
def test_an_unusable_address_is_an_error_before_the_weights_are_loaded(port, reason, unused_port, monkeypatch, capsys):
    monkeypatch.setattr(Engine, "__init__", lambda *_: pytest.fail("the weights were read"))
    with socket.socket() as other:
        other.bind(("127.0.0.1", unused_port))
        other.listen()
        asked = str(unused_port) if port == "taken" else port
        assert cli.main(["serve", "--model", "tiny", "--port", asked]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{reason} another --host or --port" in said


def test_a_full_device_gives_503(engine, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(engine, "_prompts", full)
    answer = upload(TestClient(create_app(engine)))
    assert answer.status_code == 503 and "no memory left" in answer.json()["detail"]


def ask(url: str, server: subprocess.Popen) -> dict:
    """The answer of a server that is still starting."""
    while server.poll() is None:
        try:
            with urllib.request.urlopen(url) as answer:
                return json.load(answer)
        except urllib.error.URLError:
            time.sleep(0.2)
    pytest.fail(f"the server ended with exit code {server.returncode}")


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

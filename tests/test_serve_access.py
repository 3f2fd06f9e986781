"""Who may ask the service, how often, whether it is ready, what it tells of itself, and how it ends."""

import json
import logging
import signal
import threading
import time

import httpx
import pytest
from conftest import spoken, tone
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from served import served

from evoxtral import audio
from evoxtral.errors import EvoxtralError
from evoxtral.serve import access
from evoxtral.serve.api import Options, create_app
from evoxtral.serve.limits import Limits

CLIP = audio.wav_bytes(tone(0.6))
TOKENS = "# who may ask\nann s3cret-of-ann\n\nanother-token\n"


@pytest.fixture
def options(tmp_path) -> Options:
    path = tmp_path / "tokens"
    path.write_text(TOKENS)
    return Options(access.read_tokens(path))


def client_of(engine, limits: Limits, options: Options | None = None) -> TestClient:
    return TestClient(create_app(engine, limits, options), raise_server_exceptions=False)


def bearing(token: str) -> dict:
    return {"Authorization": f"Bearer {token}"}


def test_only_known_tokens_may_ask(engine, options):
    client = client_of(engine, Limits(), options)
    for headers in ({}, bearing("s3cret"), bearing(""), bearing("schlüssel".encode().decode("latin-1"))):
        answer = client.get("/v1/models", headers={name: value.encode("latin-1") for name, value in headers.items()})
        assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["error"]["code"] == "invalid_api_key"
    assert client.get("/v1/models", headers={"Authorization": "Basic another-token"}).status_code == 401
    for token in ("s3cret-of-ann", "another-token"):
        assert client.get("/v1/models", headers=bearing(token)).status_code == 200
    assert client.get("/health").status_code == client.get("/ready").status_code == 200
    assert client.get("/metrics").status_code == 401
    assert client.post("/transcribe", files={"file": CLIP}).json()["detail"].startswith("This service asks for a token")


@pytest.mark.parametrize("content", ["", "# nothing\n", "a b c\n"])
def test_a_token_file_that_cannot_be_used_is_said_without_its_tokens(tmp_path, content):
    path = tmp_path / "tokens"
    path.write_text(content)
    with pytest.raises(EvoxtralError) as refused:
        access.read_tokens(path)
    assert "a b c" not in str(refused.value)
    with pytest.raises(EvoxtralError, match="cannot be read"):
        access.read_tokens(tmp_path / "nowhere")


def test_every_token_is_compared_in_constant_time_whichever_is_given(engine, options, monkeypatch):
    compared = []
    compare = access.hmac.compare_digest
    monkeypatch.setattr(access.hmac, "compare_digest", lambda *pair: compared.append(pair) or compare(*pair))
    client = client_of(engine, Limits(), options)
    for token in ("s3cret-of-ann", "another-token", "a guess"):
        client.get("/v1/models", headers=bearing(token))
        assert len(compared) == len(options.tokens) == 2
        assert all(len(digest) == 32 for pair in compared for digest in pair), "the length of a token tells nothing"
        compared.clear()


def test_the_engine_is_told_which_token_asks(engine, options, monkeypatch):
    told = []
    stream = engine.stream
    monkeypatch.setattr(engine, "stream", lambda *a, **named: told.append(named["client"]) or stream(*a, **named))
    client = client_of(engine, Limits(), options)
    for token, form in (("s3cret-of-ann", {}), ("another-token", {"channels": "each"})):
        assert client.post("/transcribe", files={"file": CLIP}, data=form, headers=bearing(token)).status_code == 200
    assert told == ["ann", "token-4"]


def test_each_token_has_its_own_rate(engine, options, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(access.time, "monotonic", lambda: now[0])
    client = client_of(engine, Limits(per_minute=2), options)

    def ask(token: str) -> httpx.Response:
        return client.get("/v1/models", headers=bearing(token))

    assert [ask("another-token").status_code for _ in range(3)] == [200, 200, 429]
    refused = ask("another-token")
    assert refused.headers["retry-after"] == "30" and refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert ask("s3cret-of-ann").status_code == 200
    now[0] = 30.0
    assert [ask("another-token").status_code for _ in range(2)] == [200, 429]
    assert client.get("/metrics", headers=bearing("another-token")).status_code == 200


class Held:
    """A request whose decoding has begun and does not go on until `finish`."""

    def __init__(self, engine, monkeypatch):
        self._go, self._begun = threading.Event(), threading.Event()
        stream = engine.stream

        def held(*given, **named):
            self._begun.set()
            self._go.wait()
            yield from stream(*given, **named)

        monkeypatch.setattr(engine, "stream", held)

    def send(self, url: str) -> None:
        self.answers: list[httpx.Response] = []
        self._thread = threading.Thread(
            target=lambda: self.answers.append(httpx.post(f"{url}/transcribe", files={"file": CLIP}, timeout=None))
        )
        self._thread.start()
        self._begun.wait()

    def finish(self) -> httpx.Response:
        self._go.set()
        self._thread.join()
        (answer,) = self.answers
        return answer


@pytest.fixture
def held(engine, monkeypatch) -> Held:
    return Held(engine, monkeypatch)


def test_each_client_has_so_many_requests_at_a_time(engine, held):
    with served(create_app(engine, Limits(concurrent=1))) as url:
        held.send(url)
        refused = httpx.post(f"{url}/transcribe", files={"file": CLIP})
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) > 0
        assert "evoxtral_decoding 1.0" in httpx.get(f"{url}/metrics").text
        assert held.finish().status_code == 200


def test_what_was_accepted_is_answered_when_the_service_ends(engine, held):
    app = create_app(engine)
    with served(app) as url:
        held.send(url)
        url.server.handle_exit(signal.SIGTERM, None)
        assert not app.service.ready
        with pytest.raises(httpx.TransportError):  # soon nobody listens any more
            while True:
                httpx.get(f"{url}/health")
        answer = held.finish()
    assert answer.status_code == 200 and answer.json()["variants"]


def test_it_is_ready_when_the_weights_are_there(checkpoint, engine):
    app = create_app(checkpoint)
    client = TestClient(app)
    assert client.get("/health").json()["variants"] == ["base", "sft", "rl"]
    assert client.get("/ready").status_code == 503
    for path in ("/transcribe", "/transcribe/stream"):
        answer = client.post(path, files={"file": CLIP})
        assert answer.status_code == 503 and "loaded" in answer.json()["detail"] and "retry-after" in answer.headers
    answer = client.post("/v1/audio/transcriptions", files={"file": CLIP}, data={"model": "rl"})
    assert answer.status_code == 503 and answer.json()["error"]["type"] == "server_error"
    app.service.engine = engine
    assert client.get("/ready").json() == {"ready": True}
    app.service.draining = True
    assert client.get("/ready").status_code == 503


def test_prometheus_is_told_what_was_done(engine):
    client = client_of(engine, Limits())
    engine.scheduler.steps.clear()
    client.post("/transcribe", files={"file": CLIP}, data={"variant": "all"})
    client.get("/wp-admin/1")
    samples = {}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        samples |= {(sample.name, *sorted(sample.labels.items())): sample.value for sample in family.samples}
    assert samples["evoxtral_requests_total", ("route", "/transcribe"), ("status", "200")] == 1
    assert samples["evoxtral_requests_total", ("route", "other"), ("status", "404")] == 1
    assert samples["evoxtral_audio_seconds_total",] == pytest.approx(0.6)
    assert (
        samples["evoxtral_batch_rows_sum",] == sum(rows * steps for rows, steps in engine.scheduler.steps.items()) > 0
    )
    assert samples["evoxtral_batch_rows_count",] == engine.scheduler.steps.total()
    assert samples["evoxtral_batch_rows_bucket", ("le", "4.0")] == engine.scheduler.steps.total()
    assert samples["evoxtral_real_time_factor_count",] == 1
    assert samples["evoxtral_tokens_total", ("variant", "rl")] > 0
    assert samples["evoxtral_queue",] == 0


def test_every_answer_and_log_line_has_the_id_of_its_request(engine, caplog, monkeypatch):
    handler = logging.Handler()
    lines = []
    handler.emit = lambda record: lines.append(handler.format(record))
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    access.name_requests_in_logs()
    logging.getLogger("evoxtral").setLevel(logging.INFO)
    client = client_of(engine, Limits(seconds=0.5))
    assert (
        client.post("/transcribe", files={"file": CLIP}, headers={"x-request-id": "mine-1"}).headers["x-request-id"]
        == "mine-1"
    )
    forged = client.get("/nowhere", headers={"x-request-id": "two words"}).headers["x-request-id"]
    assert forged.startswith("req_")
    assert any(" mine-1 POST /transcribe 422 " in line for line in lines)
    assert any(f" {forged} GET /nowhere 404 " in line for line in lines)


def test_the_log_names_the_request_whose_answer_was_500(engine, monkeypatch):
    handler, lines = logging.Handler(), []
    handler.emit = lambda record: lines.append(handler.format(record))
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    access.name_requests_in_logs()
    monkeypatch.setattr(logging.getLogger("uvicorn"), "propagate", True)  # other tests' servers log by themselves
    monkeypatch.setattr(engine.prompt, "log_mel", lambda *_: [][0])
    with served(create_app(engine), log_config=None) as url:
        answer = httpx.post(f"{url}/transcribe", files={"file": CLIP}, headers={"x-request-id": "mine-2"}, timeout=None)
    assert answer.status_code == 500 and answer.headers["x-request-id"] == "mine-2"
    assert any(" mine-2 " in line and "IndexError" in line for line in lines), lines


def test_text_of_every_variant_grows_and_ends_in_the_result(engine):
    client = client_of(engine, Limits())
    answer = client.post("/transcribe/stream", files={"file": ("a.wav", CLIP)}, data={"variant": "all"})
    assert answer.headers["content-type"].startswith("text/event-stream") and answer.text.endswith("\n\n")
    blocks = [block.splitlines() for block in answer.text.strip().split("\n\n") if block.startswith("event: ")]
    kinds = [head.removeprefix("event: ") for head, _ in blocks]
    assert kinds[-1] == "result" and set(kinds[:-1]) <= {"partial"}
    result = json.loads(blocks[-1][1].removeprefix("data: "))
    assert list(result["variants"]) == ["base", "sft", "rl"]
    whole = client.post("/transcribe", files={"file": ("a.wav", CLIP)}, data={"variant": "all"}).json()
    for entry in (*result["variants"].values(), *whole["variants"].values()):
        del entry["elapsed"]
    assert result == whole
    assert client.post("/transcribe/stream", files={"file": ("a.wav", b"none")}).status_code == 422


def test_a_slow_model_streams_one_variant_before_the_others_and_tells_when_it_is_final(engine, monkeypatch):
    monkeypatch.setitem(vars(engine), "seconds", 42.0)
    asked = []
    stream = engine.stream

    def noted(*arguments, first=None, **settings):
        asked.append(first)
        for step in stream(*arguments, first=first, **settings):
            yield step
            if step["rl"].done:
                time.sleep(0.2)  # only the newest step is told: this one is not to be overtaken

    monkeypatch.setattr(engine, "stream", noted)
    client = client_of(engine, Limits())
    files, form = {"file": ("a.wav", audio.wav_bytes(spoken(9.0)))}, {"variant": "all"}
    lines = client.post("/transcribe/stream", files=files, data=form).text.splitlines()
    partial = [json.loads(line.removeprefix("data: ")) for line in lines if '"final"' in line]
    assert {tuple(one["final"]) for one in partial} <= {(), ("rl",)}
    assert all(one["final"] or not one["variants"]["base"] for one in partial)
    assert partial, "RL's text is told when it is final, if not before"
    client.post("/transcribe", files=files, data=form)
    assert asked == ["rl", None], "who does not read along gets all of them sooner"


def test_aliases_must_name_a_variant(engine):
    with pytest.raises(EvoxtralError, match="no variant 'best'"):
        create_app(engine, options=Options(aliases={"whisper-1": "best"}))

"""ElevenLabs v3 with a visitor's own key, against a server on this machine that answers as theirs is documented to."""

import json
import logging
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from launched import free_port

from evoxtral.errors import SpeechError
from evoxtral.speech import elevenlabs

KEY = "sk_0123456789abcdef"
MP3 = b"ID3\x04\x00 a recording"


class Server(ThreadingHTTPServer):
    """Answers every request with `status`, `kind` and `body`, and keeps what was asked."""

    def __init__(self, port: int = 0):
        super().__init__(("127.0.0.1", port), Handler)
        self.status, self.kind, self.body = 200, "audio/mpeg", MP3
        self.asked = []
        self.delay = 0.0  # s before it answers

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, status: int, code: str = "") -> None:
        self.status, self.kind = status, "application/json"
        self.body = json.dumps({"detail": {"code": code, "status": code, "message": f"no, {KEY}!"}}).encode()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        sent = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append((self.path, self.headers["xi-api-key"], sent))
        time.sleep(self.server.delay)
        self.send_response(self.server.status)
        self.send_header("content-type", self.server.kind)
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_):
        pass


@contextmanager
def serving(port: int = 0):
    with Server(port) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def server():
    with serving() as server:
        yield server


def refusal(api: str, text: str = "[sighs] Hello.", key: str = KEY, voice: str = elevenlabs.DEFAULT_VOICE) -> str:
    """The sentence that a failure is told in."""
    with pytest.raises(SpeechError, match=r"^[^\n]+: [^\n]+\.$") as failure:
        elevenlabs.speak(text, key, voice, api)
    assert failure.value.__suppress_context__ or failure.value.__context__ is None  # no traceback goes further down
    return str(failure.value)


def test_the_tagged_script_is_sent_to_v3_in_the_chosen_voice(server):
    assert elevenlabs.speak("[sighs] Hello.", f" {KEY}\n", "abc123", server.url) == MP3
    ((path, key, sent),) = server.asked
    assert path == "/v1/text-to-speech/abc123?output_format=mp3_44100_128"
    assert (key, sent) == (KEY, {"text": "[sighs] Hello.", "model_id": "eleven_v3"})


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (401, "invalid_api_key", "does not accept this key"),
        (401, "quota_exceeded", "no credits left"),
        (402, "payment_required", "paid plan"),
        (402, "insufficient_credits", "no credits left"),
        (403, "missing_permissions", "does not let this key"),
        (400, "voice_not_found", "no such voice"),
        (404, "voice_not_found", "no such voice"),
        (422, "invalid_parameters", "cannot speak this"),
        (429, "rate_limit_exceeded", "wait a moment"),
        (500, "", "status 500"),
        (418, "", "status 418"),
    ],
)
def test_every_error_is_one_sentence_without_the_key(server, status, code, said):
    server.answer(status, code)
    sentence = refusal(server.url)
    assert said in sentence and KEY not in sentence


def test_a_missing_network_is_reported():
    assert "cannot be reached" in refusal(f"http://127.0.0.1:{free_port()}")


def test_a_late_or_invalid_answer_is_reported(server, monkeypatch):
    server.kind = "text/html"
    assert "no recording" in refusal(server.url)
    server.delay = 1.0
    monkeypatch.setattr(elevenlabs, "TIMEOUT", 0.2)
    assert "in time" in refusal(server.url)


@pytest.mark.parametrize("voice", ["", "../user", "a/b", "a?b", "x" * 65, "a b"])
def test_a_voice_id_cannot_change_the_address(server, voice):
    assert "voice" in refusal(server.url, voice=voice)
    assert not server.asked


@pytest.mark.parametrize("key", ["", " ", "two words", "line\nbreak", "schlüssel", "x" * 201])
def test_an_invalid_key_is_not_sent(server, key):
    sentence = refusal(server.url, key=key)
    assert "key" in sentence and (not key.strip() or key not in sentence)
    assert not server.asked


def test_an_empty_script_is_not_sent(server):
    assert "nothing to speak" in refusal(server.url, text=" ")
    assert not server.asked


def test_the_key_is_in_no_log(server, caplog):
    caplog.set_level(logging.DEBUG)
    elevenlabs.speak("Hello.", KEY, api=server.url)
    server.answer(401)
    refusal(server.url)
    assert KEY not in caplog.text

"""ElevenLabs v3 with a visitor's own key, against a server on this machine that answers as theirs is documented to."""

import json
import logging
import time
from contextlib import AbstractContextManager

import pytest
from launched import free_port
from local_server import LocalHandler, LocalServer, running

from evoxtral.errors import SpeechError
from evoxtral.speech import elevenlabs

KEY = "sk_0123456789abcdef"
MP3 = b"ID3\x04\x00 a recording"


class Server(LocalServer):
    """Answers every request with `status`, `kind` and `body`, and keeps what was asked."""

    def __init__(self, port: int = 0):
        super().__init__(Handler, port)
        self.status, self.kind, self.body = 200, "audio/mpeg", MP3
        self.delay = 0.0  # s before it answers

    def answer(self, status: int, code: str = "") -> None:
        self.status, self.kind = status, "application/json"
        self.body = json.dumps({"detail": {"code": code, "status": code, "message": f"no, {KEY}!"}}).encode()


class Handler(LocalHandler):
    server: Server

    def do_POST(self):  # noqa: N802 - named by the standard library
        self.server.planned((self.path, self.headers["xi-api-key"], self.sent()))
        time.sleep(self.server.delay)
        self.give(self.server.body, self.server.status, content_type=self.server.kind)


def serving(port: int = 0) -> AbstractContextManager[Server]:
    return running(Server(port))


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


def test_each_model_has_its_own_limit_which_is_checked_before_sending(server):
    with pytest.raises(SpeechError, match="eleven_v3 takes 5,000 characters and the script has 5,001: use eleven_v4"):
        elevenlabs.speak("a" * 5_001, KEY, api=server.url)
    with pytest.raises(SpeechError, match="eleven_v4_turbo takes 10,000 .* speak it in parts"):
        elevenlabs.speak("a" * 10_001, KEY, api=server.url, model="eleven_v4_turbo")
    with pytest.raises(SpeechError, match="no model 'eleven_v2'"):
        elevenlabs.speak("Hello.", KEY, api=server.url, model="eleven_v2")
    with pytest.raises(SpeechError, match="seed is -1"):
        elevenlabs.speak("Hello.", KEY, api=server.url, seed=-1)
    assert not server.asked
    elevenlabs.speak("a" * 10_000, KEY, api=server.url, model="eleven_v4", seed=7)
    ((_, _, sent),) = server.asked
    assert (sent["model_id"], sent["seed"], len(sent["text"])) == ("eleven_v4", 7, 10_000)


def test_a_script_with_speakers_is_sent_as_a_dialogue(server):
    script = "Ann: [sighs] No.\nBob Roy: Why?\n\n[laughs] Tell me: why?\nAnn: Because."
    turns = elevenlabs.turns_of(script, {"Ann": "voiceA", "Bob Roy": "voiceB"})[:3]
    assert elevenlabs.speak_dialogue(turns, KEY, server.url, seed=1) == MP3
    ((path, key, sent),) = server.asked
    assert (path, key) == ("/v1/text-to-dialogue?output_format=mp3_44100_128", KEY)
    assert sent["inputs"] == [
        {"text": "[sighs] No.", "voice_id": "voiceA"},
        {"text": "Why? [laughs] Tell me: why?", "voice_id": "voiceB"},
        {"text": "Because.", "voice_id": "voiceA"},
    ]


def test_a_dialogue_that_cannot_be_spoken_is_not_sent(server):
    for script in ("Eve: Hello.", "Hello."):
        with pytest.raises(SpeechError, match="no speaker of this script"):
            elevenlabs.turns_of(script, {"Ann": "voiceA"})
    for turns, said in (
        ([], "nothing to speak"),
        ([("Hi.", f"voice{i}") for i in range(11)], "10 voices"),
        ([("a" * 2_600, "voiceA"), ("b" * 2_600, "voiceB")], "5,200"),
    ):
        with pytest.raises(SpeechError, match=said):
            elevenlabs.speak_dialogue(turns, KEY, server.url)
    assert not server.asked


def test_a_break_of_ssml_is_sent_as_a_tag_and_other_elements_are_named(server, caplog):
    elevenlabs.speak('Wait <break time="1s"/> <emphasis>here</emphasis>.', KEY, api=server.url)
    assert server.asked[0][2]["text"] == "Wait [pause] here."
    assert caplog.messages == ["left out, ElevenLabs reads no SSML here: <emphasis> </emphasis>"]

"""Corpora that are spoken: against a server on this machine that speaks and fails as ElevenLabs does."""

import json
from contextlib import AbstractContextManager

import pytest
from conftest import tone
from local_server import LocalHandler, LocalServer, running

from evoxtral import audio, tags
from evoxtral.errors import RecipeError, SpeechError
from training import corpus as command
from training.corpora import making, writing
from training.corpora.making import MakeConfig

KEY = "sk_0123456789abcdef"


class Server(LocalServer):
    """Speaks each text as tones of a fitting length, unless something else is planned."""

    def __init__(self):
        super().__init__(Handler)
        self.paid: list[str] = []
        self.at_once = self.most_at_once = 0


class Handler(LocalHandler):
    server: Server

    def do_POST(self):  # noqa: N802 - named by the standard library
        sent = self.sent()
        planned = self.server.planned(sent | {"path": self.path})
        with self.server.lock:
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.at_once)
        try:
            self.answer(sent["text"], planned)
        finally:
            with self.server.lock:
                self.server.at_once -= 1

    def answer(self, text: str, planned):
        if planned == "cut":
            return self.give(b"ID3", length=100_000, content_type="audio/mpeg")
        if isinstance(planned, int):
            wait = {"retry_after": "7"} if planned == 429 else {}
            code = "quota_exceeded" if planned == 401 else "busy"
            detail = json.dumps({"detail": {"status": code}}).encode()
            return self.give(detail, planned, content_type="application/json", **wait)
        seconds = 1 + len(tags.plain(text)) / 15
        waveform = tone(seconds, len(text)) * (0 if planned == "silence" else 1)
        with self.server.lock:
            self.server.paid.append(text)
        self.give(audio.wav_bytes(waveform), content_type="audio/mpeg")


def serving() -> AbstractContextManager[Server]:
    return running(Server())


@pytest.fixture
def server():
    with serving() as server:
        yield server


CONFIG = MakeConfig(clips=6, voice="elevenlabs", speakers=("George", "abc123"), concurrency=2)


def rows(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]


def test_each_line_is_asked_for_once_in_its_voice_with_its_seed(server, tmp_path):
    assert making.make(tmp_path, CONFIG, KEY, server.url) == []
    lines = making.lines(tmp_path, CONFIG)
    assert sorted((a["text"], a["seed"], a["model_id"]) for a in server.asked) == sorted(
        (line.text, line.seed, "eleven_v3") for line in lines
    )
    assert {a["path"].split("?")[0].rpartition("/")[2] for a in server.asked} == {"JBFqnCBsd6RMkjVDRZzb", "abc123"}
    assert [row["text"] for row in rows(tmp_path)] == [line.text for line in lines]
    assert server.most_at_once <= 2
    assert all(audio.load(tmp_path / row["file_name"]).any() for row in rows(tmp_path))


def test_nothing_is_paid_twice(server, tmp_path):
    making.make(tmp_path, CONFIG, KEY, server.url)
    assert making.cost(tmp_path, CONFIG).clips == 0
    making.make(tmp_path, CONFIG, KEY, server.url)
    assert len(server.paid) == 6
    (tmp_path / rows(tmp_path)[0]["file_name"]).unlink()
    making.make(tmp_path, CONFIG, KEY, server.url)
    assert len(server.paid) == 7


def test_rate_limits_broken_answers_and_cut_connections_are_waited_out(server, tmp_path):
    server.plan = [429, 503, "cut"]
    waits: list[float] = []
    config = MakeConfig(clips=2, voice="elevenlabs", concurrency=1)
    assert making.make(tmp_path, config, KEY, server.url, waits.append) == []
    assert waits == [7.0, 2.0, 4.0]  # as Retry-After says, then twice as long each time
    assert len(rows(tmp_path)) == 2 and len(server.paid) == 2


def test_without_credits_it_stops_and_what_is_there_stays(server, tmp_path):
    server.plan = [None, None, *[401] * 9]
    config = MakeConfig(clips=6, voice="elevenlabs", concurrency=1)
    with pytest.raises(SpeechError, match="no credits left"):
        making.make(tmp_path, config, KEY, server.url)
    assert len(server.asked) <= 4 and making.cost(tmp_path, config).clips == 4
    server.plan = []
    making.make(tmp_path, config, KEY, server.url)
    assert len(server.paid) == 6 and len(rows(tmp_path)) == 6


def test_a_server_that_stays_busy_is_given_up_with_a_sentence(server, tmp_path):
    server.plan = [429] * 99
    waits: list[float] = []
    with pytest.raises(SpeechError, match="wait a moment"):
        making.make(tmp_path, MakeConfig(clips=1, voice="elevenlabs"), KEY, server.url, waits.append)
    assert waits == [7.0] * (writing.ATTEMPTS - 1)


def test_an_implausible_clip_is_spoken_again_once_and_then_named(server, tmp_path):
    server.plan = ["silence", "silence", "silence"]
    config = MakeConfig(clips=2, voice="elevenlabs", concurrency=1)
    (told,) = making.make(tmp_path, config, KEY, server.url)
    lines = making.lines(tmp_path, config)
    assert "is silent and is left out" in told and lines[0].text in told
    assert [a["seed"] for a in server.asked] == [
        lines[0].seed, lines[0].seed + 1, lines[1].seed, lines[1].seed + 1
    ]  # fmt: skip
    assert [row["text"] for row in rows(tmp_path)] == [lines[1].text]


def test_a_dry_run_costs_nothing_and_the_budget_is_kept(tmp_path, capsys, monkeypatch):
    arguments = ["make", str(tmp_path / "new"), "--voice", "elevenlabs", "--clips", "20"]
    assert command.main([*arguments, "--dry-run"]) == 0
    told = capsys.readouterr().out
    characters = sum(len(line.text) for line in making.lines(tmp_path / "new", MakeConfig(20, "elevenlabs")))
    assert f"20 clips to speak, {characters} characters, {characters} credits, $" in told and making.PRICED in told
    assert command.main(arguments) == 2
    assert "more than the budget of $0.00: give --budget" in capsys.readouterr().err
    monkeypatch.delenv("ELEVENLABS_API_KEY", raising=False)
    assert command.main([*arguments, "--budget", "9"]) == 2
    assert "no key of ElevenLabs" in capsys.readouterr().err


def test_other_settings_are_another_folder(tmp_path):
    making.lines(tmp_path, CONFIG)
    with pytest.raises(RecipeError, match="was begun with other settings"):
        making.lines(tmp_path, MakeConfig(clips=7))


def test_a_corpus_of_ones_own_is_never_written_over(tmp_path, capsys):
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.wav", "text": "Mine."}\n')
    assert command.main(["make", str(tmp_path), "--clips", "2"]) == 2
    assert "holds other files" in capsys.readouterr().err
    assert "Mine." in (tmp_path / "metadata.jsonl").read_text() and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [(["make", "new", "--clips", "0"], "at least one clip"), (["check", ".", "--window", "0"], "more than 0 seconds")],
)
def test_numbers_that_make_no_sense_are_a_sentence(tmp_path, monkeypatch, capsys, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    assert command.main(arguments) == 2
    assert sentence in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_the_embedded_voice_makes_a_corpus_that_can_be_checked(tmp_path, capsys):
    folder = tmp_path / "made"
    assert command.main(["make", str(folder), "--clips", "12"]) == 0
    assert command.main(["check", str(folder), "--page", str(tmp_path / "page.html")]) == 0
    assert len(rows(folder)) == 12 and len({row["speaker"] for row in rows(folder)}) == 12

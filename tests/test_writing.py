"""Scripts by a language model: against a server here that answers well, badly, twice the same, or is busy."""

import itertools
import json
import re
from collections import Counter

import pytest
from local_server import LocalHandler, LocalServer, running

from evoxtral import tags
from evoxtral.errors import RecipeError, SpeechError
from training import corpus as command
from training.corpora import making, writing
from training.corpora.writing import Writer
from training.tagged_texts import TAG_RANGE


class Server(LocalServer):
    """Writes what it is asked for, unless something else is planned."""

    def __init__(self):
        super().__init__(Handler)
        self.url += "/v1"
        self.numbers = itertools.count(1)


class Handler(LocalHandler):
    server: Server

    def do_POST(self):  # noqa: N802 - named by the standard library
        sent = self.sent()
        planned = self.server.planned(sent | {"path": self.path, "key": self.headers["authorization"]})
        number = next(self.server.numbers)
        if planned == "cut":
            return self.give(b"{", length=1_000)
        if isinstance(planned, int):
            return self.give(b"{}", planned, **({"retry_after": "7"} if planned == 429 else {}))
        question = sent["messages"][0]["content"]
        found = re.search(r"Each with (?:(\d) to \d tags|(no tags))", question)
        count = 1 if found is None else int(found[1] or 0)
        texts = [f"{'[sighs] ' * count}Number {number} has {word}." for word in ("rain", "snow", "WIND", "fog", "hail")]
        texts = planned if isinstance(planned, list) else texts
        content = planned if isinstance(planned, str) else json.dumps({"scripts": texts})
        self.give(json.dumps({"choices": [{"message": {"content": content}}]}).encode())


@pytest.fixture
def server():
    with running(Server()) as server:
        yield server


def one_at_a_time(server: Server) -> Writer:
    return Writer(server.url, "writer-1", concurrency=1)


def written(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "written.jsonl").read_text().splitlines()]


def test_the_shares_of_the_slices_hold_to_the_script(server, tmp_path):
    texts = writing.write(tmp_path, 43, Writer(server.url, "writer-1"))
    rows = written(tmp_path)
    assert Counter(row["slice"] for row in rows) == {"plain": 11, "light": 11, "moderate": 11, "dense": 6, "edge": 4}
    for row in rows:
        least, most = TAG_RANGE.get(row["slice"], (0, 99))
        assert least <= len(tags.names(row["text"])) <= most
    assert sorted(texts) == sorted(row["text"] for row in rows) and len(set(texts)) == 43
    assert all(asked["response_format"]["json_schema"]["strict"] for asked in server.asked)
    assert server.asked[0]["path"] == "/v1/chat/completions" and server.asked[0]["model"] == "writer-1"


@pytest.mark.parametrize(
    ("text", "kind", "why"),
    [
        ("[sighs] No.", "light", ""),
        ("No.", "plain", ""),
        ("[laughs] [sighs]", "edge", ""),
        ("", "plain", "empty"),
        ("[sighs No.", "light", "not closed"),
        ("sighs] No.", "light", "not closed"),
        ("[grumbles like a bear] No.", "light", "no tag that is known"),
        ("[] No.", "light", "no tag that is known"),
        ("(sighs) [laughs] No.", "light", "square brackets"),
        ("*sighs* [laughs] No.", "light", "square brackets"),
        ("[sighs] No.", "plain", "it has 1 tags, and plain ones have 0 to 0"),
        ("[sighs] [laughs]", "light", "no words"),
        ("[laughs] KNOWN before!", "light", "another one says the same"),
        ("a" * 301, "plain", "longer than"),
    ],
)
def test_what_is_refused(text, kind, why):
    found = writing.wrong(text, kind, {"known before"})
    assert why in found and bool(why) == bool(found)


def test_duplicates_and_ill_formed_ones_are_asked_again_with_the_reason(server, tmp_path):
    server.plan = [["Once.", "once!", "[sigh Twice.", "Thrice."], "no JSON", ["Four.", "Once."]]
    writer = Writer(server.url, "writer-1", concurrency=1, slices=writing.Slices(1, 0, 0, 0, 0))
    assert sorted(writing.write(tmp_path, 3, writer)) == ["Four.", "Once.", "Thrice."]
    refused = [json.loads(line) for line in (tmp_path / "refused.jsonl").read_text().splitlines()]
    assert [row["text"] for row in refused] == ["once!", "[sigh Twice."]
    assert "'[sigh Twice.': a bracket is not closed" in server.asked[1]["messages"][0]["content"]
    assert len({asked["seed"] for asked in server.asked}) == 3


def test_a_busy_server_is_waited_for_as_it_says(server, tmp_path):
    server.plan = [429, 503, "cut"]
    waits: list[float] = []
    assert len(writing.write(tmp_path, 4, one_at_a_time(server), waits.append)) == 4
    assert waits == [7.0, 2.0, 4.0]


def test_what_was_written_is_not_asked_for_again(server, tmp_path):
    server.plan = [None, None, 401]
    with pytest.raises(RecipeError, match="wants another key"):
        writing.write(tmp_path, 40, one_at_a_time(server))
    first = written(tmp_path)
    assert len(first) == 10
    with (tmp_path / "written.jsonl").open("a") as file:
        file.write('{"slice": "pl')  # as a kill leaves it
    writing.write(tmp_path, 40, one_at_a_time(server))
    assert written(tmp_path)[:10] == first and len(written(tmp_path)) == 40


def test_a_model_that_writes_nothing_of_use_is_given_up_with_the_reason(server, tmp_path):
    server.plan = [["[sigh No."]] * 99
    with pytest.raises(SpeechError, match=r"writer-1 writes no \w+ scripts that can be used .*not closed"):
        writing.write(tmp_path, 4, one_at_a_time(server))
    assert len(server.asked) <= 5 * writing.MAX_ROUNDS


@pytest.mark.parametrize(
    ("status", "sentence"), [(404, "has no model"), (400, "must support structured output"), (418, "status 418")]
)
def test_an_endpoint_that_cannot_be_used_is_a_sentence(server, tmp_path, capsys, status, sentence):
    server.plan = [status] * 9
    asked = ["make", str(tmp_path / "new"), "--scripts-from", server.url, "--scripts-model", "writer-1", "--clips", "4"]
    assert command.main(asked) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("url", ["nonsense", "http://127.0.0.1:9/v1"])
def test_no_endpoint_is_a_sentence(tmp_path, capsys, url):
    arguments = ["make", str(tmp_path / "new"), "--scripts-from", url, "--clips", "4"]
    assert command.main(arguments) == 2
    assert "--scripts-model NAME" in capsys.readouterr().err
    assert command.main([*arguments[:-2], "--scripts-model", "x", "--clips", "4"]) == 2
    told = capsys.readouterr().err
    assert "is no address" in told or "Nothing answers" in told or "other settings" in told


def test_a_corpus_is_spoken_from_scripts_that_a_model_wrote(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-local")
    folder = tmp_path / "made"
    asked = ["make", str(folder), "--scripts-from", server.url, "--scripts-model", "writer-1", "--clips", "5"]
    assert command.main(asked) == 0, capsys.readouterr().err
    config = making.MakeConfig(clips=5, scripts_from=server.url, scripts_model="writer-1")
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == [line.text for line in making.lines(folder, config)]
    assert sorted(row["text"] for row in rows) == sorted(row["text"] for row in written(folder))
    requests = len(server.asked)
    assert server.asked[0]["key"] == "Bearer sk-local"
    assert command.main(asked) == 0 and len(server.asked) == requests

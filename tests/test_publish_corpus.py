"""A corpus that is pushed to the Hub with its card, and a run that has its corpus spoken first."""

import json

import pytest
import yaml
from local_hub import WRITES, LocalHub
from test_making import KEY, serving

from evoxtral.speech import elevenlabs
from training import corpus, dataset, publish, recipe, run
from training.corpora import reading


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Twelve clips in the embedded voice."""
    folder = tmp_path_factory.mktemp("corpora") / "made"
    assert corpus.main(["make", str(folder), "--clips", "12"]) == 0
    return folder


def test_a_corpus_is_pushed_with_a_card_that_says_what_is_in_it(made, monkeypatch, capsys, tmp_path):
    assert publish.main([str(made), "--push-corpus", "me/my-clips", "--dry-run"]) == 0
    text = (made / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["size_categories"] == ["n<1K"] and front["language"] == ["en"] and "synthetic" in front["tags"]
    assert 'load_dataset("me/my-clips")' in text and "Spoken by the embedded voice" in text and "| clips | 12" in text
    with LocalHub({}) as hub:
        hub.use(monkeypatch, tmp_path / "cache")
        monkeypatch.setenv("HF_TOKEN", WRITES)
        assert publish.main([str(made), "--push-corpus", "me/my-clips", "--private"]) == 0
        hub.shutdown()
    rows = [json.loads(line) for line in (made / "metadata.jsonl").read_text().splitlines()]
    assert hub.pushed.keys() == {"README.md", "metadata.jsonl", *(row["file_name"] for row in rows)}
    assert hub.created[0]["type"] == "dataset" and hub.created[0]["visibility"] == "private"
    received = tmp_path / "received"
    received.mkdir()
    for name, content in hub.pushed.items():
        (received / name).write_bytes(content)
    assert [row.text for row in reading.read(str(received)).rows] == [row["text"] for row in rows]
    assert "12 recordings" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("token", "repo", "sentence"),
    [
        ("", "me/my-clips", "There is no token of the Hub here"),
        ("hf_reads", "me/my-clips", "The token may not write to me/my-clips"),
        (WRITES, "me/taken", "me/taken exists already: choose another name"),
    ],
)
def test_a_push_that_fails_is_one_sentence(made, monkeypatch, capsys, tmp_path, token, repo, sentence):
    with LocalHub({}, datasets={"me/taken": tmp_path}) as hub:
        hub.use(monkeypatch, tmp_path / "cache")
        monkeypatch.setenv("HF_TOKEN", token)
        monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
        assert publish.main([str(made), "--push-corpus", repo]) == 2
        hub.shutdown()
    assert sentence in capsys.readouterr().err.strip().splitlines()[-1] and not hub.pushed


def test_what_datasets_would_leave_out_is_refused(made, tmp_path, capsys):
    (row, *_) = [json.loads(line) for line in (made / "metadata.jsonl").read_text().splitlines()]
    (tmp_path / "a test.flac").write_bytes((made / row["file_name"]).read_bytes())
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row | {"file_name": "a test.flac"}) + "\n")
    assert publish.main([str(tmp_path), "--push-corpus", "me/x"]) == 2
    assert "a test.flac: `datasets` takes a word in this name" in capsys.readouterr().err
    assert publish.main([str(tmp_path / "none"), "--push-corpus", "me/x"]) == 2
    assert "is no corpus" in capsys.readouterr().err


def test_the_published_recipe_has_elevenlabs_speak_and_asks_before_it_spends(tmp_path, monkeypatch, capsys):
    assert recipe.load("mini-3b").train.source == "elevenlabs"
    (tmp_path / "small.toml").write_text(
        "base = 'tiny'\n[train]\nsource = 'elevenlabs'\nclips = 8\n[validation]\nclips = 2\nsplit = 'validation'\n"
        "[test]\nclips = 2\nsplit = 'test'\n"
    )
    command = ["--recipe", str(tmp_path / "small.toml"), "--runs", str(tmp_path / "runs"), "--stages", "data"]
    monkeypatch.delenv("ELEVENLABS_API_KEY", raising=False)
    assert run.main(command) == 2
    assert "There is no key of ElevenLabs" in capsys.readouterr().err
    monkeypatch.setenv("ELEVENLABS_API_KEY", KEY)
    assert run.main(command) == 2
    assert "12 clips to speak" in (told := capsys.readouterr().err) and "give --budget" in told
    with serving() as server:
        monkeypatch.setattr(elevenlabs, "API", server.url)
        assert run.main([*command, "--budget", "5"]) == 0, capsys.readouterr().err
        assert len(server.paid) == 12
        assert run.main(command) == 0 and len(server.paid) == 12
    data = tmp_path / "runs" / "small" / "data"
    assert sum(len(dataset.Clips.load(data, name)) for name in ("train", "validation", "test")) == 12

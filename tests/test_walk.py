"""The walk of docs/training.md, from a folder of clips to an adapter that is pushed and used, and the card it gets."""

import json
import re
from pathlib import Path

import pytest
import yaml
from local_hub import WRITES, LocalHub
from shell import execute

from training import card, corpus, loop, publish, run

WALK = (Path(__file__).parents[1] / "docs" / "training.md").read_text(encoding="utf-8").split("## The walk")[1]
PROGRAMS = {"training/corpus.py": corpus.main, "training/run.py": run.main, "training/publish.py": publish.main}
QUICK = """
base = "tiny"
[train]
augment = false
[sft]
epochs = 1
warmup = 1
micro_batch = 8
cropped = 1.0
[raft]
samples = 2
[raft.sft]
epochs = 1
warmup = 1
micro_batch = 8
cropped = 1.0
[bench]
resamples = 50
ordinary = 0
"""


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """The folder in which a reader has done all of it, with fewer steps."""
    folder = tmp_path_factory.mktemp("walk")
    (folder / "quick.toml").write_text(QUICK, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(loop, "cores", lambda: 1)
        patch.setenv(loop.PRECISION, "float32")
        for language, code in re.findall(r"^```(python|sh)\n(.*?)^```$", WALK, re.MULTILINE | re.DOTALL):
            if language == "python":
                exec(code, {})  # noqa: S102 - the document's own code
                continue
            for line in code.strip().splitlines():
                execute(line.replace("--recipe corpus", "--recipe quick.toml"), PROGRAMS)
    return folder


def test_the_walk_ends_with_an_adapter_that_is_a_fourth_variant(walked, monkeypatch, capsys):
    monkeypatch.chdir(walked)
    assert "<audio" in (walked / "corpus.html").read_text(encoding="utf-8")
    last = re.findall(r"^EVOXTRAL_MODEL.*$", WALK, re.MULTILINE)[-1]
    execute(last)
    assert re.findall(r"^== mine/0.wav · (\w+) ==$", capsys.readouterr().out, re.MULTILINE) == [
        "base", "sft", "rl", "mine"
    ]  # fmt: skip


def test_the_card_has_what_was_measured_and_the_numbers_of_the_recipe(walked):
    results = json.loads((walked / "runs" / "mine" / "results.json").read_text())
    text = (walked / "runs" / "mine" / "push" / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["library_name"] == "peft" and front["pipeline_tag"] == "automatic-speech-recognition"
    assert "raft" in front["tags"] and front["datasets"] == ["custom"] and "base_model" not in front
    entry = front["model-index"][0]
    scores = {metric["type"]: metric["value"] for result in entry["results"] for metric in result["metrics"]}
    assert entry["name"] == "my-lora"
    assert scores == {name: pytest.approx(results["variants"]["rl"][name], abs=1e-4) for name in scores}
    assert {"wer", "tag_f1", "tag_hallucination"} <= scores.keys()
    for told in (
        "learning rate 0.0002, warm-up 1 steps, 1 epochs",
        "2 per clip",
        "| WER |",
        "Too rare in the test clips",
    ):
        assert told in text, told
    assert card.usage("me/my-lora", "tiny") in text


def test_the_usage_of_the_card_runs(walked, monkeypatch, capsys):
    monkeypatch.chdir(walked)
    execute(card.usage("runs/mine/push", "tiny").replace("hello.wav", "mine/0.wav"))
    assert "room" in capsys.readouterr().out
    config = json.loads((walked / "runs" / "mine" / "push" / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"


def test_a_push_sends_what_the_dry_run_wrote(walked, monkeypatch, capsys):
    with LocalHub({}) as hub:
        hub.use(monkeypatch, walked / "cache")
        monkeypatch.setenv("HF_TOKEN", WRITES)
        assert publish.main([str(walked / "runs" / "mine"), "--push", "me/my-lora", "--private"]) == 0
        hub.shutdown()
    folder = walked / "runs" / "mine" / "push"
    assert hub.pushed == {file.name: file.read_bytes() for file in folder.iterdir()}
    assert hub.created[0]["visibility"] == "private" and "me/my-lora" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("token", "repo", "sentence"),
    [
        ("", "me/my-lora", "There is no token of the Hub here"),
        ("hf_reads", "me/my-lora", "The token may not write to me/my-lora"),
        (WRITES, "me/taken", "me/taken exists already: choose another name"),
    ],
)
def test_a_push_that_fails_is_one_sentence(walked, monkeypatch, capsys, token, repo, sentence):
    with LocalHub({"me/taken": walked / "mine"}) as hub:
        hub.use(monkeypatch, walked / "cache")
        monkeypatch.setenv("HF_TOKEN", token)
        monkeypatch.setenv("HF_TOKEN_PATH", str(walked / "none"))
        assert publish.main([str(walked / "runs" / "mine"), "--push", repo]) == 2
        hub.shutdown()
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert sentence in told and not hub.pushed


def test_a_run_that_is_not_finished_is_not_pushed(tmp_path, capsys):
    assert publish.main([str(tmp_path), "--push", "me/x"]) == 2
    assert "not a finished run" in capsys.readouterr().err

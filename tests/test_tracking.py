"""Trackers follow the files of a run: what they are told, and what is there after something was killed.

Trackio is really run; Weights & Biases in offline mode, where it is installed: it is large, and `dev` leaves it out.
"""

import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import wait_until

from training import run as pipeline
from training import tracking

ROOT = Path(__file__).parents[1]
needs_trackio = pytest.mark.skipif("trackio" in tracking.missing(["trackio"]), reason="trackio is not installed")
needs_wandb = pytest.mark.skipif("wandb" in tracking.missing(["wandb"]), reason="wandb is not installed: it is large")


def write(path: Path, *rows: dict) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


def trained(step: int) -> dict:
    return {"step": step, "loss": 1 / step, "norm": 0.5, "rate": 1e-4, "seconds": 1.0, "clips_per_second": 16.0}


SHOWN = {"id": "a", "reference": "[sighs] No.", "prediction": "No.", "voice": "en-us+f3", "seed": 1, "audio": None}


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    """The files of a run in the middle of SFT, with one evaluation."""
    for name, folder in (("TRACKIO_DIR", "trackio"), ("WANDB_CACHE_DIR", "c"), ("WANDB_CONFIG_DIR", "d")):
        monkeypatch.setenv(name, str(tmp_path / folder))
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "recipe.json").write_text(json.dumps({"base": "tiny", "sft": {"learning_rate": 2e-4}}))
    write(folder / "sft.log.jsonl", trained(20), trained(40), {"step": 40, "validation_loss": 0.7})
    write(folder / "sft.predictions.jsonl", {"step": 40, "predictions": [SHOWN]})
    return folder


def go_on(folder: Path) -> None:
    """What the rest of the run writes; step 40 is done again, as after an interruption."""
    write(folder / "sft.log.jsonl", trained(40), trained(60))
    write(folder / "samples.jsonl", {"id": "a", "reference": "", "texts": ["", ""], "rewards": [0.25, 1.0]})
    write(folder / "rl.log.jsonl", trained(20))
    scores = {"wer": 0.1, "tag_f1": 0.9, "per_tag": {}}
    (folder / "results.json").write_text(json.dumps({"variants": {"base": scores, "sft": scores}}))


def test_events_only_grow_at_the_end_and_a_step_done_again_counts_once(run):
    first = tracking.events(run)
    assert [(e.stage, e.step, sorted(e.values)[0]) for e in first] == [
        ("sft", 20, "clips_per_second"), ("sft", 40, "clips_per_second"), ("sft", 40, "validation_loss")
    ]  # fmt: skip
    assert [len(e.predictions) for e in first] == [0, 0, 1]
    with (run / "sft.log.jsonl").open("a") as file:
        file.write('{"step": 60, "lo')  # as it is being written
    assert tracking.events(run) == first
    text = (run / "sft.log.jsonl").read_text()
    (run / "sft.log.jsonl").write_text(text[: text.rindex("{")])
    go_on(run)
    every = tracking.events(run)
    assert every[:3] == first
    assert [(e.stage, e.step) for e in every[3:]] == [
        ("sft", 60), ("raft", 0), ("rl", 20), ("bench/base", 0), ("bench/sft", 1)
    ]  # fmt: skip
    assert every[4].values == {"mean_reward": 0.625, "mean_best_reward": 1.0}
    assert every[4].rewards == {"rewards": [0.25, 1.0], "best_rewards": [1.0]}
    assert every[5].values["norm"] == 0.5 and every[6].values == {"wer": 0.1, "tag_f1": 0.9}


def follower(run: Path, name: str) -> subprocess.Popen:
    """As `run.py` starts it."""
    command = [sys.executable, str(ROOT / "training" / "tracking.py"), str(run), "--track", name, "--follow"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def trackio_rows(run: Path) -> list[dict]:
    """What is in Trackio's database of the only run there, asked in a process that reads TRACKIO_DIR anew."""
    code = (
        "import json; from trackio.sqlite_storage import SQLiteStorage as s; (name,) = s.get_runs('evoxtral');"
        "print(json.dumps([s.get_run_config('evoxtral', name), s.get_logs('evoxtral', name)], default=str))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    config, rows = json.loads(done.stdout.splitlines()[-1])
    assert config["sft"]["learning_rate"] == 2e-4
    return rows


@needs_trackio
def test_trackio_has_everything_once_although_the_follower_was_killed(run):
    """The first follower is killed as soon as something arrived; the second sees the rest, when its run has ended."""
    with follower(run, "trackio") as process:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        wait_until(lambda: list((run.parent / "trackio").glob("*.db")) and len(trackio_rows(run)) >= 1)
        process.kill()
    go_on(run)
    with follower(run, "trackio") as process:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        process.stdin.close()  # as the end of the run, or of the process that was killed
        assert process.wait() == 0, process.stderr.read()
    rows = trackio_rows(run)
    assert [(row["step"], row.get("sft/loss"), row.get("rl/loss")) for row in rows] == [
        (20, 0.05, None), (40, 0.025, None), (40, None, None), (60, 1 / 60, None), (0, None, None), (20, None, 0.05),
        (0, None, None), (1, None, None),
    ]  # fmt: skip
    assert rows[2]["sft/predictions"]["_value"] == [{"clip": 1, "said": "[sighs] No.", "written": "No."}]
    assert (run.parent / "trackio" / "media" / rows[2]["sft/clip 1"]["file_path"]).stat().st_size > 16000
    assert sum(rows[4]["raft/rewards"]["values"]) == 2 and rows[6]["bench/base/wer"] == 0.1


def wandb_records(content: bytes) -> Iterator[bytes]:
    """The records of a .wandb file: LevelDB's log format behind a header of 7 bytes, blocks of 32 KiB."""
    place, record = 7, b""
    while place + 7 <= len(content):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        length, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or its last part
            yield record
            record = b""


def wandb_history(run: Path) -> list[dict]:
    """The history that `wandb sync` would send, session by session."""
    from wandb.proto import wandb_internal_pb2

    rows = []
    for file in sorted((run / "wandb").glob("offline-run-*/*.wandb")):
        for content in wandb_records(file.read_bytes()):
            record = wandb_internal_pb2.Record.FromString(content)
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                rows.append({"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items})
    return rows


@needs_wandb
def test_wandb_offline_has_everything_once_although_the_follower_was_killed(run):
    with follower(run, "wandb") as process:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        os.kill(process.pid, signal.SIGKILL)
    go_on(run)
    with follower(run, "wandb") as process:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        process.stdin.close()
        assert process.wait() == 0, process.stderr.read()
    rows = wandb_history(run)
    assert [row["_step"] for row in rows] == list(range(8))
    assert [row["sft/loss"] for row in rows if "sft/loss" in row] == [0.05, 0.025, 1 / 60]
    assert rows[2]["sft/predictions/_type"] == "table-file" and rows[4]["raft/rewards/_type"] == "histogram"
    assert len(list((run / "wandb").glob("unfinished-*"))) == 1


def test_a_tracker_that_is_not_installed_is_a_sentence_before_anything_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tracking, "TRACKERS", ("nowhere",))
    assert pipeline.main(["--runs", str(tmp_path), "--track", "nowhere"]) == 2
    assert "nowhere is not installed: pip install 'evoxtral[track]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_is_no_run_is_a_sentence(tmp_path, capsys):
    assert tracking.main([str(tmp_path), "--track", "trackio"]) == 2
    assert "is not the folder of a run" in capsys.readouterr().err

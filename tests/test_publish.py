"""What publishing makes of a finished run's files: figures with their intervals, thinned curves, rewards."""

import json
from pathlib import Path

import pytest

from evoxtral import metrics
from evoxtral.errors import EvoxtralError
from evoxtral.ui import report, results_file, training_report
from training import publish, raft

REFERENCE = "[sighs] I told you. [laughs]"
TEXTS = {
    "base": ("I told you.", ()),
    "sft": ("[sighs] I told you.", (("sighs", 0.9),)),
    "rl": ("[sighs] I told you. [laughs] [sad]", (("sighs", 0.8), ("laughs", 0.6), ("sad", 0.2))),
}


def write(path: Path, *rows: dict) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    """The files of a run that an older bench has measured, next to an empty folder of results."""
    monkeypatch.setattr(publish, "RESULTS", tmp_path / "results")
    publish.RESULTS.mkdir()
    run = tmp_path / "run"
    run.mkdir()
    recipe = {"base": "tiny", "bench": {"resamples": 100, "seed": 0}, "raft": {"drop": 0.25, "supervised": 7}}
    (run / "recipe.json").write_text(json.dumps(recipe))
    predictions = {name: {"text": text, "tags": tags} for name, (text, tags) in TEXTS.items()}
    write(run / "predictions.jsonl", *[{"reference": REFERENCE, "predictions": predictions}] * 4)
    measured = {"n": 4, "commit": "abc", "variants": {name: {"held_out_voices": None} for name in TEXTS}}
    (run / "results.json").write_text(json.dumps(measured))
    write(
        run / "sft.log.jsonl", *({"step": s, "loss": 1 / s, "rate": 0.1, "seconds": 2.0} for s in range(20, 3020, 20))
    )
    rewards = [[0.1, 0.2], [0.5, 1.0], [0.9, 0.7], [1.0, 1.0]]
    samples = (raft.Sampled(str(i), "a", ["a", "b"], found) for i, found in enumerate(rewards))
    write(run / "samples.jsonl", *map(vars, samples))
    return run


def test_the_figures_of_an_older_bench_are_completed_from_its_predictions(run):
    found = publish.figures(run)
    assert (found["n"], found["commit"]) == (4, "abc")
    for name, (text, _) in TEXTS.items():
        scores = metrics.summary(metrics.score([(text, REFERENCE)] * 4), resamples=100)
        assert found["variants"][name] == {"held_out_voices": None} | scores


def test_each_tag_has_its_change_with_an_interval(run):
    change = publish.figures(run)["tag_differences"]["rl - sft"]
    assert change["laughs"]["value"] == 1 and change["laughs"]["low"] <= 1 <= change["laughs"]["high"]
    assert change["sighs"]["value"] == 0


def test_the_curve_over_the_threshold_is_small_and_ends_with_every_tag(run):
    curves = publish.figures(run)["confidence"]
    assert set(curves) == {"sft", "rl"}  # the base writes no tags
    assert all(len(points) <= 60 for points in curves.values())
    assert [point["threshold"] for point in curves["rl"]] == [0.8, 0.6, 0.2]
    assert curves["rl"][-1] == {"threshold": 0.2, "precision": 0.6667, "recall": 1.0, "f1": 0.8, "kept": 12}


def test_training_curves_are_thinned_and_know_how_long_the_stage_took(run):
    stage = publish.curves(run)["stages"]["sft"]
    assert (stage["steps"], stage["seconds"], stage["commit"]) == (3000, 6000, "abc")
    losses = stage["series"]["loss"]
    assert set(stage["series"]) == {"loss"} and 30 <= len(losses) <= 60
    assert losses[-1][0] == 3000 and losses == sorted(losses, key=lambda point: -point[1])


def test_steps_done_again_after_an_interruption_count_once(run):
    rows = [{"step": step, "loss": loss, "seconds": 1.0} for step, loss in ((20, 3.0), (40, 2.0), (40, 1.0))]
    write(run / "sft.log.jsonl", *rows, {"step": 40, "validation_loss": 5.0})
    stage = publish.curves(run)["stages"]["sft"]
    assert stage == {
        "steps": 40,
        "seconds": 40,
        "commit": "abc",
        "series": {"loss": [(20, 3.0), (40, 1.0)], "validation_loss": [(40, 5.0)]},
    }


def test_rewards_are_counted_before_and_after_curation(run):
    found = publish.curves(run)["raft"]
    assert (found["clips"], found["samples"], found["kept"], found["threshold"]) == (4, 2, 3, 0.9)
    assert found["supervised"] == 7
    assert found["mean_reward"] == pytest.approx(0.675) and found["mean_curated_reward"] == pytest.approx(2.9 / 3)
    assert found["without_mistake"] == 3 / 8 and found["commit"] == "abc"
    sampled, curated = found["histogram"]["sampled"], found["histogram"]["curated"]
    assert sum(sampled) == 8 and sum(curated) == 3 and curated[-1] == 2  # a reward of 1.0 is in the last part


def test_a_base_trained_from_another_is_reported_as_such(run):
    recipe = json.loads((run / "recipe.json").read_text())
    write(run / "pretrain.log.jsonl", {"step": 20, "loss": 1.0, "seconds": 1.0})
    for start in ("tiny", ""):
        (run / "recipe.json").write_text(json.dumps(recipe | {"pretrain": {"start": start}}))
        stage = publish.curves(run)["stages"]["pretrain"]
        assert ("went on from" in training_report.stage_chart(stage)) == bool(start)


def test_a_run_on_the_base_that_ships_keeps_that_bases_curve(run):
    assert "pretrain" not in publish.curves(run)["stages"]
    (publish.RESULTS / "training.json").write_text(json.dumps({"stages": {"pretrain": {"steps": 1}, "sft": {}}}))
    stages = publish.curves(run)["stages"]
    assert list(stages) == ["pretrain", "sft"] and stages["pretrain"] == {"steps": 1} and stages["sft"]["steps"] == 3000


@pytest.mark.parametrize(("base", "sentence"), [("mini-3b", "a run of mini-3b"), ("tiny", "base")])
def test_a_run_that_cannot_be_published_changes_nothing(run, tmp_path, base, sentence):
    recipe = json.loads((run / "recipe.json").read_text()) | {"base": base}
    (run / "recipe.json").write_text(json.dumps(recipe))
    there = tmp_path / "tiny"
    there.mkdir()
    (there / "weights").touch()
    with pytest.raises(EvoxtralError, match=sentence):  # the run of tiny has no base that could be read
        publish.install(run, there)
    assert [path.name for path in tmp_path.glob("tiny*/*")] == ["weights"]


def test_the_page_can_show_what_was_published(run):
    publish.RESULTS.joinpath("measured.json").write_text(json.dumps(publish.figures(run)))
    results = results_file.Results.read(publish.RESULTS / "measured.json")
    assert "ev-whisker" in report.change_chart(results) and "ev-ring" in report.confidence_chart(results)
    assert "learned from" in training_report.training(publish.curves(run))

"""The speed benchmark: it runs, what it finds is kept part by part, and the documentation shows nothing else."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks import decode, laptop, serve, speed_records, train


@pytest.fixture(scope="module")
def records(tmp_path_factory, preloaded) -> list[dict]:
    results = tmp_path_factory.mktemp("results") / "results.json"
    asked = "--shape tiny --tokens 9 --repeats 1 --windows 2 --long-clip 40 --device cpu"
    return measured(decode, asked, results)


def measured(program: ModuleType, asked: str, results: Path) -> list[dict]:
    """What a benchmark writes; what it measures runs in processes of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [program.__file__, *asked.split(), "--results", str(results)])
        program.main()
    return json.loads(results.read_text())


def test_engine_and_baseline_write_the_same_tokens(records):
    (tokens,) = (entry for entry in records if entry["part"] == "tokens")
    assert tokens["same"] == {"base": 1.0, "sft": 1.0, "rl": 1.0}


def test_a_record_states_measurement_machine_and_date(records):
    assert [entry["part"] for entry in records] == ["batch", "clip", "long", "memory", "start", "table", "tokens"]
    for entry in records:
        assert entry["shape"] == "tiny" and entry["dtype"] == "float32" and entry["tokens"] == 9
        assert entry["machine"]["name"] and entry["machine"]["cores"] and entry["commit"] and entry["date"]
    clip = records[1]
    assert clip["speed_up"] == pytest.approx(clip["reference_s"] / clip["ours_s"])


def test_a_long_clip_streams_its_first_text_before_its_last(records):
    (entry,) = (entry for entry in records if entry["part"] == "long")
    assert entry["clip_s"] == 40 and 0 < entry["first_s"] < entry["ours_s"]


def test_peak_memory_is_measured_in_a_fresh_process(records):
    (entry,) = (entry for entry in records if entry["part"] == "memory")
    assert entry["base_bytes"] == 4 * decode.SHAPES["tiny"].parameters()["base"]
    assert entry["over_base"] == pytest.approx(entry["over_base_bytes"] / entry["base_bytes"])
    assert entry["reference_over_base_bytes"] != entry["over_base_bytes"]


def test_a_newer_record_replaces_the_older_one(records, tmp_path):
    file = tmp_path / "results.json"
    batch, clip, *_ = records
    for entry in (batch, clip, {**clip, "ours_s": 1.0}, {**clip, "shape": "250m"}):
        speed_records.keep(entry, file)
    kept = json.loads(file.read_text())
    assert [(entry["shape"], entry["part"]) for entry in kept] == [
        ("250m", "clip"), ("tiny", "batch"), ("tiny", "clip")
    ]  # fmt: skip
    assert kept[2]["ours_s"] == 1.0


def test_the_table_has_every_number_of_windows_by_every_number_of_variants(records):
    (table,) = (entry for entry in records if entry["part"] == "table")
    cells = [(row["windows"], row["variants"]) for row in table["rows"]]
    assert sorted(cells) == [(windows, variants) for windows in (1, 2) for variants in decode.COUNTS]
    assert all(row["seconds"] > 0 for row in table["rows"])


def test_the_published_sizes_are_the_published_models():
    parameters = decode.SHAPES["3b"].parameters()
    assert parameters["base"] == 4_801_051_648 - 124_780_544
    assert 200e6 < decode.SHAPES["250m"].parameters()["base"] < 300e6


def test_the_documentation_equals_the_results_file():
    results = json.loads(speed_records.RESULTS.read_text(encoding="utf-8")) if speed_records.RESULTS.exists() else []
    assert speed_records.START + speed_records.tables(results) + speed_records.END in speed_records.DOCS.read_text(
        encoding="utf-8"
    )


def test_a_training_step_is_measured_on_the_published_recipe(tmp_path, preloaded):
    asked = "--shape tiny --device cpu --tokens 9 --batch 2 --repeats 1"
    (entry,) = measured(train, asked, tmp_path / "results.json")
    assert entry["part"] == "train" and (entry["batch"], entry["micro_batch"]) == (2, 2)
    assert entry["step_s"] > 0 and entry["peak_bytes"] > 0
    assert "a step of SFT on 2 clips of 30 s with 9 tokens each" in speed_records.tables([entry])


def test_what_the_docs_say_of_a_laptop_is_in_its_results():
    content = json.loads(laptop.RESULTS.read_text(encoding="utf-8"))
    root = laptop.ROOT
    assert laptop.table(content) in (root / "docs" / "speed.md").read_text(encoding="utf-8")
    assert laptop.readme(content) in (root / "README.md").read_text(encoding="utf-8")


def test_what_the_docs_say_of_a_crowd_is_in_its_results():
    content = json.loads(serve.RESULTS.read_text(encoding="utf-8"))
    page = (serve.ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    assert serve.table(content) in page and serve.table_of_steps(content) in page


def test_a_laptop_s_worker_measures_a_quantised_model_and_its_figures_make_a_table(tmp_path):
    laptop.write_whole(laptop.SHAPES["tiny"], tmp_path / "int8", "int8")
    worker = laptop.Worker(laptop.ROOT, tmp_path / "int8", "int8", ("base", "sft", "rl"), 1)
    clip, first = worker.run("6"), worker.run("first 6")
    worker.end()
    assert clip["seconds"] > 0 and clip["processor_s"] > 0 and clip["peak"] >= clip["peak_before"]
    assert 0 < first["first_s"] < first["all_s"] and 0 < first["first_processor_s"] < first["all_processor_s"]
    one = {"clip_s": 10.0, "load_s": 2.0, "peak_bytes": 7e9}
    slow = {"threads": 2, "3 variants": one | {"clip_s": 30.0}, "1 variants": one}
    found = {"whole today": slow, "whole int8": {"threads": 2, "3 variants": one, "1 variants": one, "rl first": first}}
    shown = laptop.table({"a CPU, tiny": found})
    assert "a CPU, tiny, 2 threads:" in shown and "| three variants | 30.0 s | 10.0 s (3.0 ×) |" in shown
    assert "| RL first: its text | – |" in shown

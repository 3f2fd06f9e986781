"""`bulk --cluster` on several Ray nodes of this machine, some of which are killed.

Ray is not in the extra `dev`: these two tests start a dozen engines, minutes of a core.
"""

import os
import sys

import pytest

pytest.importorskip("ray", reason="to run it: pip install -e '.[bulk]' && python -m pytest tests/test_ray_bulk.py")

import ray
from ray import cloudpickle

from benchmarks import cluster
from evoxtral import cli
from evoxtral.errors import AudioError
from evoxtral.inference import inputs, ray_bulk


class Fragile(ray_bulk.Transcriber):
    """Ends its process at one file, as a decoder that crashes would."""

    def __call__(self, batch):
        if any(path.endswith("00003.wav") for path in batch["path"]):
            os._exit(1)
        return super().__call__(batch)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster") / "clips"
    cluster.write_clips(folder, 24)
    return folder


def test_a_killed_worker_driver_and_node_lose_nothing_and_nothing_is_written_twice(clips, tmp_path):
    asked = ["-q", "bulk", str(clips), "-o", str(tmp_path / "single.jsonl"), *cluster.ASKED]
    assert cli.main(asked) == 2, "two files are no recordings"
    found = cluster.killed(clips, tmp_path / "cluster.jsonl", 24)
    assert cluster.told(found) == cluster.told(cluster.results(tmp_path / "single.jsonl"))


def test_a_file_that_ends_every_worker_fails_alone(clips, monkeypatch):
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(ray_bulk, "Transcriber", Fragile)
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.setattr(ray_bulk, "ATTEMPTS", 1)  # each one starts an engine
    monkeypatch.setattr(ray_bulk, "ROUNDS", (ray_bulk.MAX_FILES, 1))
    files = [*inputs.listed([clips])][:6]
    joined = ray_bulk.Cluster("auto", 1)
    try:
        asked = ray_bulk.Asked(joined.checkpoint("tiny", "fp32"), ("rl",), "en", 60.0, False)
        found = dict(joined.transcribe(asked, files))
    finally:
        ray.shutdown()
    assert found.keys() == set(files)
    failed = {file: result for file, result in found.items() if isinstance(result, AudioError)}
    assert [file[-9:] for file in failed] == ["00003.wav"] and "every process" in str(*failed.values())

"""Which weights: names, folders, the Hub and the environment, and one sentence for everything that can go
wrong.
"""

import json
import re
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from conftest import save_base, tone
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError
from local_hub import LocalHub
from transformers import VoxtralForConditionalGeneration

from evoxtral.errors import CheckpointError
from evoxtral.inference.alignment import Heads
from evoxtral.inference.engine import Engine
from evoxtral.model import checkpoints, lora
from evoxtral.model.checkpoints import MINI_ADAPTERS, MINI_BASE, Checkpoint, load_base, load_config, resolve
from evoxtral.model.hub import fetch


def test_mini_is_the_published_model_with_the_published_adapters():
    checkpoint = resolve("mini-3b", environ={})
    assert (checkpoint.name, checkpoint.base) == ("mini-3b", "mistralai/Voxtral-Mini-3B-2507")
    assert checkpoint.adapters == {"sft": "YongkangZOU/evoxtral-lora", "rl": "YongkangZOU/evoxtral-rl"}
    assert checkpoint.variants == ("base", "sft", "rl")


def test_a_folder_holds_base_and_adapters_in_the_order_they_were_trained(checkpoint, tmp_path):
    for name in ("rl", "zebra", "sft", "apple"):
        shutil.copytree(checkpoint.adapters["sft"], tmp_path / name)
    (tmp_path / "base").mkdir()
    (tmp_path / "logs").mkdir()
    found = resolve(str(tmp_path), environ={})
    assert found.variants == ("base", "sft", "rl", "apple", "zebra")
    assert found.base == str(tmp_path / "base") and found.adapters["rl"] == str(tmp_path / "rl")


def test_a_hub_id_is_a_base_without_adapters_and_keeps_its_revision():
    assert resolve("me/my-voxtral@v2", environ={}) == Checkpoint("me/my-voxtral@v2", "me/my-voxtral@v2")


def test_a_folder_with_a_configuration_is_a_base_alone(checkpoint):
    assert resolve(checkpoint.base, environ={}) == Checkpoint(checkpoint.base, checkpoint.base)


@pytest.mark.parametrize("name", ["large", "no/such/folder", "./nofolder", "/nofolder", "../no", "", "tiny "])
def test_an_unknown_name_lists_the_known_ones(name):
    with pytest.raises(CheckpointError, match="no model .* use tiny, mini-3b, a folder"):
        resolve(name, environ={})


def test_a_machine_without_cuda_gets_tiny_and_the_reason(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(checkpoints, "_base_and_adapters", lambda name: ("base", {}))
    chosen = resolve("auto", environ={})
    assert chosen.name == "tiny" and "no CUDA device" in chosen.reason


def test_a_gpu_that_is_too_small_gets_tiny_and_the_reason(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(checkpoints, "_gpu_bytes", lambda: 8 * 2**30)
    chosen = resolve("auto", environ={})
    assert chosen.name == "tiny" and "the GPU has 9 GB and mini-3b needs 12" in chosen.reason


def test_an_empty_variable_counts_as_unset(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve("auto", environ={"EVOXTRAL_MODEL": "", "EVOXTRAL_SFT": "", "EVOXTRAL_ADAPTERS": ""}).name == "tiny"


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """A ZeroGPU's environment: `files` of the base and its adapters are cached, and the Hub raises an error or not."""
    shards = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")

    class Gpu:
        files = {"config.json", "tekken.json", "preprocessor_config.json", lora.CONFIG_FILE, lora.WEIGHTS_FILE, *shards}
        environ = {"SPACES_ZERO_GPU": "true"}
        error: Exception | None = None

    def snapshot(*arguments, local_files_only, **settings):
        if not Gpu.files:
            raise LocalEntryNotFoundError("not here")
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {s: s for s in shards}}))
        for name in Gpu.files:
            (tmp_path / name).touch()
        return str(tmp_path)

    def info(*arguments, **settings):
        if Gpu.error:
            raise Gpu.error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", info)
    monkeypatch.setattr(checkpoints, "_base_and_adapters", lambda name: ("base", {}))
    return Gpu


def test_a_gpu_gets_mini_without_the_hub_if_it_is_cached(gpu):
    gpu.error = ConnectionError("no network")
    assert resolve("auto", gpu.environ).name == "mini-3b"


@pytest.mark.parametrize(
    "absent", ["all", "model-00002-of-00002.safetensors", "tekken.json", "preprocessor_config.json", lora.WEIGHTS_FILE]
)
def test_if_files_are_not_cached_the_hub_decides(gpu, absent):
    gpu.files = set() if absent == "all" else gpu.files - {absent}
    assert resolve("auto", gpu.environ).name == "mini-3b"
    gpu.error = ConnectionError("no network")
    chosen = resolve("auto", gpu.environ)
    assert chosen.name == "tiny" and "the Hub does not give it (ConnectionError)" in chosen.reason


def test_a_gated_base_is_reported_as_gated(gpu):
    gpu.files, gpu.error = set(), GatedRepoError("gated", response=response(403))
    chosen = resolve("auto", gpu.environ)
    assert chosen.name == "tiny" and "is gated: accept its terms" in chosen.reason


def test_the_environment_chooses_model_and_adapters():
    environ = {
        "EVOXTRAL_MODEL": "mini-3b",
        "EVOXTRAL_SFT": "me/sft@v1",
        "EVOXTRAL_ADAPTERS": "mine=me/my-lora, my-2nd=/some folder",
    }
    chosen = resolve("auto", environ)
    assert (chosen.name, chosen.base) == ("mini-3b", MINI_BASE) and "EVOXTRAL_MODEL" in chosen.reason
    assert chosen.adapters == {
        "sft": "me/sft@v1", "rl": MINI_ADAPTERS["rl"], "mine": "me/my-lora", "my-2nd": "/some folder"
    }  # fmt: skip
    assert resolve("me/base", environ).base == "me/base", "a name that is asked for wins over EVOXTRAL_MODEL"


def test_adapters_of_mini_are_ignored_when_tiny_is_chosen_automatically(monkeypatch, tmp_path):
    """So that the copy of a Space starts on a CPU. A folder is taken at its owner's word."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(checkpoints, "_base_and_adapters", lambda name: ("base", {"sft": "its own"}))
    environ = {"EVOXTRAL_SFT": "me/my-3b-lora", "EVOXTRAL_ADAPTERS": f"mine=me/other,here={tmp_path},gone=./gone"}
    chosen = resolve("auto", environ)
    assert chosen.adapters == {"sft": "its own", "here": str(tmp_path), "gone": "./gone"}
    assert "; EVOXTRAL_SFT is for mini-3b and is not used here" in chosen.reason
    assert "; EVOXTRAL_ADAPTERS' mine is for mini-3b and is not used here" in chosen.reason
    for asked in (resolve("tiny", environ), resolve("auto", {**environ, "EVOXTRAL_MODEL": "tiny"})):
        assert (asked.adapters["sft"], asked.adapters["mine"]) == ("me/my-3b-lora", "me/other")
        assert "not used" not in asked.reason


@pytest.mark.parametrize("adapters", ["me/my-lora", "=me/my-lora", "mine=", "base=me/x", "all=me/x", "a b=c"])
def test_a_malformed_adapter_list_gets_an_error_with_the_format(adapters):
    with pytest.raises(CheckpointError, match="EVOXTRAL_ADAPTERS has .* write name="):
        resolve("mini-3b", {"EVOXTRAL_ADAPTERS": adapters})


# ------------------------------------------------------------------------------------------------------ fetch


def response(status: int):
    import httpx2

    return httpx2.Response(status, request=httpx2.Request("GET", "https://huggingface.co"))


HEADS = Heads(((1, 0, 1.0),), clips=4)  # that tell when words sound


@pytest.fixture
def hub(checkpoint, tmp_path, monkeypatch):
    """A Hub on this machine with the tests' own model, for the real client, whose cache is empty."""
    adapter = shutil.copytree(checkpoint.adapters["sft"], tmp_path / "with heads")
    HEADS.save(adapter)
    names = {"me/base": checkpoint.base, "me/sft": adapter, "me/gated": checkpoint.base}
    with LocalHub({name: Path(folder) for name, folder in names.items()}, gated=("me/gated",)) as hub:
        hub.use(monkeypatch, tmp_path / "cache")
        yield hub
        hub.shutdown()


def test_a_model_of_hub_ids_is_downloaded_and_runs_and_later_without_the_hub(hub, engine, tmp_path):
    chosen = resolve("me/base", {"EVOXTRAL_ADAPTERS": "mine=me/sft"})
    expected = engine.transcribe((16_000, tone(1.5)), "sft").text
    on_progress = []
    downloaded = Engine(chosen, on_progress=on_progress.append)
    assert downloaded.transcribe((16_000, tone(1.5)), "mine").text == expected and downloaded.heads == HEADS
    assert on_progress[-1] == "Downloaded me/sft"
    hub.shutdown()
    hub.server_close()
    assert Engine(chosen, on_progress=on_progress.append).transcribe((16_000, tone(1.5)), "mine").text == expected
    assert on_progress[-1] == "Downloaded me/sft" and on_progress.count(on_progress[-1]) == 1


def test_a_download_reports_its_progress(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("evoxtral.model.hub._REPORT_EVERY", 0)
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / "model.safetensors").write_bytes(bytes(45_000_000))
    hub.repos["me/large"] = tmp_path / "large"
    on_progress = []
    fetch("me/large", on_progress=on_progress.append)
    *steps, done = on_progress
    shares = [int(re.fullmatch(r"Downloading me/large: (\d+)% of 0\.0 GB, \d\d:\d\d left", step)[1]) for step in steps]
    assert len(shares) > 2 and shares == sorted(set(shares)) and 0 < shares[0] < shares[-1] < 100
    assert done == "Downloaded me/large"


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("me/gated", "me/gated is gated: accept its terms"),
        ("me/none", "me/none is not on the Hub, or it is private"),
        ("me/base@v2", "me/base has no revision 'v2'"),
    ],
)
def test_errors_of_the_hub_become_one_sentence(hub, reference, sentence):
    with pytest.raises(CheckpointError, match=sentence):
        fetch(reference)


def test_an_unreachable_hub_is_reported(hub):
    hub.shutdown()
    hub.server_close()
    with pytest.raises(CheckpointError, match="the Hub cannot be reached: check the network"):
        fetch("me/base")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(28, "No space left on device"), "could not be stored on this machine: No space left"),
        (RuntimeError("IO Error: No space left on device"), "download of me/model@v1 broke off .*No space left"),
    ],
)
def test_an_interrupted_download_is_reported(monkeypatch, error, sentence):
    def snapshot(*arguments, dry_run=False, **settings):
        if dry_run:
            return []
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    with pytest.raises(CheckpointError, match=sentence):
        fetch("me/model@v1")


def test_a_full_disk_is_reported_before_the_download(monkeypatch, tmp_path):
    class File:
        will_download, file_size = True, 10**18

    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *a, dry_run=False, **s: [File] if dry_run else 1 / 0
    )
    with pytest.raises(CheckpointError, match=r"needs 1000000000\.0 GB of disk and .* GB free"):
        fetch("me/model")


def test_a_revision_is_pinned_and_a_folder_is_used_as_it_is(monkeypatch, tmp_path):
    asked = []

    def snapshot(repo, revision, dry_run=False, **settings):
        asked.append((repo, revision))
        return [] if dry_run else str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert fetch("me/model@abc") == tmp_path and set(asked) == {("me/model", "abc")}
    assert fetch(str(tmp_path)) == tmp_path and len(asked) == 2


@pytest.mark.parametrize("reference", ["/no/such/folder", "./nofolder", "me/my--model", "me/model.git"])
def test_an_invalid_hub_id_is_rejected_without_a_request(reference):
    with pytest.raises(CheckpointError, match="neither a folder nor a Hub id"):
        fetch(reference)


# ------------------------------------------------------------------------------------------------------- load


def test_weights_can_be_memory_mapped(tmp_path):
    save_base(tmp_path)
    read, mapped = (load_base(tmp_path, torch.float32, mapped).state_dict() for mapped in (False, True))
    assert read.keys() == mapped.keys() and all(read[name].equal(mapped[name]) for name in read)


def test_an_incomplete_base_or_another_architecture_is_rejected(tmp_path, capsys, caplog):
    save_base(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())

    def write(**changes):
        (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))

    assert load_base(tmp_path, torch.float32).dtype == torch.float32
    write(text_config={**config["text_config"], "num_hidden_layers": 3})
    with pytest.raises(CheckpointError, match=r"do not fit its config\.json: .*layers\.2"):
        load_base(tmp_path, torch.float32)
    assert "REPORT" not in capsys.readouterr().err + caplog.text, "one sentence is enough"
    write(model_type="whisper")
    with pytest.raises(CheckpointError, match="of type 'whisper'"):
        load_config(tmp_path)
    write()
    (tmp_path / "generation_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"generation_config\.json cannot be used"):
        load_base(tmp_path, torch.float32)
    (tmp_path / "model.safetensors").write_bytes(b"half a download")
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be used .*: repair it, or download it again"):
        load_base(tmp_path, torch.float32)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing: the model was not downloaded"):
        load_base(tmp_path, torch.float32)


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "5", '{"model_type": "voxtral", "dtype": "float99"}']
    + [
        json.dumps({"model_type": "voxtral", "text_config": text})
        for text in (5, {"model_type": "llama", "num_hidden_layers": "2"}, {"model_type": "llama", "hidden_size": 7})
    ],
)
def test_a_configuration_that_cannot_be_used_is_named(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json cannot be used \(\w+: [^\n]+\): repair it"):
        load_config(tmp_path)


def test_a_configuration_that_no_model_can_be_built_from_is_named(checkpoint, tmp_path):
    shutil.copytree(checkpoint.base, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["hidden_act"] = "no such function"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"config\.json or the weights .* cannot be used"):
        load_base(tmp_path, torch.float32)
    with pytest.raises(CheckpointError, match=r"config\.json of .* cannot be used"):
        checkpoints.parameter_counts(Checkpoint("mine", str(tmp_path)))


def test_a_sharded_base_loads_or_names_the_missing_file(checkpoint, tmp_path):
    whole = load_base(Path(checkpoint.base), torch.float32)
    whole.save_pretrained(tmp_path, max_shard_size="200KB")
    first, *others = sorted(tmp_path.glob("model-*.safetensors"))
    assert others, "several files"
    assert all(map(torch.equal, load_base(tmp_path, torch.float32).parameters(), whole.parameters()))
    first.unlink()
    with pytest.raises(CheckpointError, match=f"{first.name} is missing"):
        load_base(tmp_path, torch.float32)
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"index\.json cannot be used"):
        load_base(tmp_path, torch.float32)


def test_a_loaded_base_equals_that_of_transformers(checkpoint):
    ours = load_base(Path(checkpoint.base), torch.float32)
    theirs = VoxtralForConditionalGeneration.from_pretrained(checkpoint.base, dtype=torch.float32)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert all(map(torch.equal, ours.state_dict().values(), theirs.state_dict().values()))
    assert ours.generation_config == theirs.generation_config and not ours.training


def test_the_published_configuration_is_the_published_model():
    config = checkpoints.published_config()
    assert config.audio_config.max_source_positions == 1500 and config.text_config.num_hidden_layers == 30
    assert config.text_config.rope_parameters["rope_theta"] == 1e8
    assert Path(__file__).parents[1] / "evoxtral" / "assets" / "tiny" == checkpoints.TINY_FOLDER

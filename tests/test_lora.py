"""Adapters: every tensor lands and every slot is filled, or one sentence says what is wrong."""

import json
import re
import weakref
from copy import deepcopy as copy_of
from pathlib import Path

import pytest
import torch
from conftest import RECIPE, save_adapter, save_base, tone
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import VoxtralForConditionalGeneration

from evoxtral.errors import CheckpointError
from evoxtral.model import backends, checkpoints, lora
from evoxtral.model.linear import Mix, MixedLinear, joined

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(checkpoint):
    return checkpoints.load_base(Path(checkpoint.base), torch.float32)


@pytest.fixture
def copy(checkpoint, tmp_path):
    """Copies the SFT adapter, with its tensors and its settings changed on the way."""

    def make(tensors=lambda t: t, **settings) -> Path:
        source = Path(checkpoint.adapters["sft"])
        config = json.loads((source / lora.CONFIG_FILE).read_text())
        (tmp_path / lora.CONFIG_FILE).write_text(json.dumps({**config, **settings}))
        save_file(tensors(load_file(source / lora.WEIGHTS_FILE)), tmp_path / lora.WEIGHTS_FILE)
        return tmp_path

    return make


def named_by_transformers_4(tensors: dict) -> dict:
    def old(key: str) -> str:
        key = key.replace("base_model.model.model.language_model.", "base_model.model.language_model.model.")
        return re.sub(r"base_model\.model\.model\.(audio_tower|multi_modal_projector)", r"base_model.model.\1", key)

    renamed = {old(key): tensor for key, tensor in tensors.items()}
    assert not renamed.keys() & tensors.keys(), "every name differs between the two"
    return renamed


def one_fewer(tensors: dict) -> dict:
    return {k: t for k, t in tensors.items() if not k.endswith("language_model.layers.1.mlp.up_proj.lora_B.weight")}


def one_layer_fewer(tensors: dict) -> dict:
    return {k: t for k, t in tensors.items() if ".layers.1." not in k}


def one_nan(tensors: dict) -> dict:
    tensors["base_model.model.model.language_model.layers.0.mlp.up_proj.lora_A.weight"][0, 0] = torch.nan
    return tensors


def logits(model, engine) -> torch.Tensor:
    ids = torch.tensor([engine.prompt.transcription_ids("en")])
    with torch.no_grad():
        return model(input_ids=ids, input_features=engine.prompt.log_mel([tone(3.0)])).logits


# --------------------------------------------------------------------------------------------------- read


def test_names_of_transformers_4_and_5_read_as_the_same_adapter(checkpoint, model, copy):
    new = lora.read(checkpoint.adapters["sft"], model, "sft")
    old = lora.read(copy(named_by_transformers_4), model, "sft")
    assert new.weights.keys() == old.weights.keys()
    for path, (a, b) in new.weights.items():
        assert torch.equal(a, old.weights[path][0]) and torch.equal(b, old.weights[path][1])


def test_the_recipe_reaches_text_model_projector_and_the_towers_attention(model):
    paths = [path for path, _ in lora.targeted(model, RECIPE.targets)]
    assert len(paths) == 2 * 3 + 2 + 2 * 7
    assert "model.audio_tower.layers.0.self_attn.q_proj" in paths
    assert "model.audio_tower.layers.0.self_attn.out_proj" not in paths
    assert "model.multi_modal_projector.linear_2" in paths


def test_an_adapter_of_the_text_model_alone_is_complete(checkpoint, model, tmp_path):
    pattern = r".*language_model.*\.(q_proj|down_proj)"
    save_adapter(checkpoint.base, tmp_path, seed=3, target_modules=pattern)
    adapter = lora.read(tmp_path, model, "text")
    mix = Mix([adapter])
    assert len(adapter.weights) == 4
    assert not mix.touches("text", lora.TOWER, lora.PROJECTOR) and mix.touches("text", "model.language_model")


def test_a_pattern_written_for_the_names_of_transformers_4_selects_the_same_layers(model):
    old = r"language_model\.model\.layers\.\d+\.self_attn\.q_proj|multi_modal_projector\.linear_1"
    new = r"model\.language_model\.layers\.\d+\.self_attn\.q_proj|model\.multi_modal_projector\.linear_1"
    assert dict(lora.targeted(model, old)) == dict(lora.targeted(model, new)) != {}


# ------------------------------------------------------------------------------------------------ refused


@pytest.mark.parametrize(
    ("tensors", "settings", "sentence"),
    [
        (one_fewer, {}, r"incomplete.*: 1 of its 44 tensors.*language_model\.layers\.1\.mlp\.up_proj\.lora_B"),
        (lambda t: {}, {}, r"incomplete.*: 44 of its 44"),
        (one_layer_fewer, {}, r"incomplete, or was made for another base \(.*base\): 20 of its 44.*with its own base"),
        (one_nan, {}, r"not finite \(model\.language_model\.layers\.0\.mlp\.up_proj\.lora_A\)"),
        (
            lambda t: {
                **t,
                "base_model.model.model.language_model.layers.9.mlp.up_proj.lora_A.weight": torch.ones(4, 48),
            },
            {},
            r"another base.*1 of its layers.*layers\.9\.mlp\.up_proj",
        ),
        (
            lambda t: {**t, "base_model.model.lm_head.weight": torch.ones(2, 2)},
            {},
            r"beside its LoRA matrices .* not those of this base \(base_model\.model\.lm_head\.weight\)",
        ),
        (lambda t: {**t, "base_model.model.mine": torch.ones(2)}, {}, r"1 tensors that are not LoRA.*model\.mine"),
        (
            lambda t: {k: v[:2] if "lora_A" in k else v for k, v in t.items()},
            {},
            r"says rank 4, but its .*\.lora_A is \(2, ",
        ),
        (
            lambda t: {**t, **{k: v.clone() for k, v in named_by_transformers_4(t).items()}},
            {},
            r"44 tensors that .* there twice",
        ),
        (lambda t: t, {"r": 8}, r"says rank 8, but"),
        (lambda t: t, {"use_dora": True}, r"uses use_dora"),
        (lambda t: t, {"bias": "all"}, r"uses bias"),
        (
            lambda t: t,
            {"modules_to_save": ["lm_head"], "layer_replication": [[0, 2]]},
            r"modules_to_save, layer_replication",
        ),
        (lambda t: t, {"init_lora_weights": "pissa"}, r"uses init_lora_weights"),
        (lambda t: t, {"peft_type": "IA3"}, r"of type IA3"),
        (lambda t: t, {"lora_alpha": None}, r"has no usable lora_alpha in .*adapter_config\.json"),
        (lambda t: t, {"r": "64", "target_modules": 5}, r"has no usable r, target_modules in"),
        (lambda t: t, {"rank_pattern": {"q_proj": 2}}, r"says rank 2, but its .*q_proj\.lora_A is \(4, "),
        (lambda t: t, {"rank_pattern": {"q_proj": 0}, "alpha_pattern": [2]}, r"no usable rank_pattern, alpha_pattern"),
        (lambda t: t, {"alpha_pattern": {"(": 2}}, r"adapter_config\.json cannot be used \(error: "),
        (lambda t: t, {"exclude_modules": ["k_proj"]}, r"another base .*: 4 of its layers have no place"),
        (lambda t: t, {"layers_to_transform": [0]}, r"layers have no place in this one"),
        (lambda t: t, {"target_modules": "("}, r"adapter_config\.json cannot be used \(error: .*\): repair it"),
        (lambda t: t, {"target_modules": [5]}, r"adapter_config\.json cannot be used \(TypeError"),
    ],
)
def test_an_adapter_that_does_not_fit_is_rejected_in_one_sentence(model, copy, tensors, settings, sentence):
    with pytest.raises(CheckpointError, match=sentence):
        lora.read(copy(tensors, **settings), model, "sft")


def test_an_adapter_of_another_base_is_refused_by_the_shape_of_its_layers(checkpoint, model, tmp_path):
    save_base(tmp_path / "wide", hidden=64)
    save_adapter(tmp_path / "wide", tmp_path / "sft", seed=1)
    weights = tmp_path / "sft" / lora.WEIGHTS_FILE
    save_file(one_layer_fewer(load_file(weights)), weights)  # what is missing does not hide what does not fit
    with pytest.raises(CheckpointError, match=r"another base \(.*wide\): its .* is \(64, 4\) there and \(48, 4\) here"):
        lora.read(tmp_path / "sft", model, "sft")


def test_missing_and_damaged_files_are_named(checkpoint, model, copy, tmp_path):
    with pytest.raises(CheckpointError, match="no adapter_config.json"):
        lora.read(tmp_path, model, "sft")
    folder = copy()
    (folder / lora.WEIGHTS_FILE).write_bytes(b"half a download")
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors cannot be used"):
        lora.read(folder, model, "sft")
    (folder / lora.WEIGHTS_FILE).unlink()
    with pytest.raises(CheckpointError, match="has no weights"):
        lora.read(folder, model, "sft")
    for content in ("{", "[]", "[" * 99_999, "\0"):
        (folder / lora.CONFIG_FILE).write_text(content)
        with pytest.raises(CheckpointError, match=r"adapter_config\.json cannot be used .*: repair it"):
            lora.read(folder, model, "sft")


# ------------------------------------------------------------------------------------------------ computed


@pytest.mark.parametrize("rslora", [False, True])
def test_a_mixed_batch_gives_each_row_what_peft_gives_its_variant_alone(checkpoint, model, engine, tmp_path, rslora):
    """Through every layer that the recipe touches, one at a time, so that no error can hide behind
    another.
    """
    folders = {}
    for seed, name in enumerate(("sft", "rl", "mine"), start=7):
        folders[name] = tmp_path / name
        save_adapter(checkpoint.base, folders[name], seed, use_rslora=rslora)
    adapters = [lora.read(folder, model, name) for name, folder in folders.items()]
    mix = Mix(adapters)
    references = {"base": model}
    for name, folder in folders.items():
        fresh = checkpoints.load_base(Path(checkpoint.base), torch.float32)
        references[name] = PeftModel.from_pretrained(fresh, folder).base_model.model
    for path, linear in lora.targeted(model, RECIPE.targets):
        mixed = MixedLinear({path: linear}, adapters, mix, CPU)
        x = torch.randn(3, 2, 5, linear.in_features)
        for names in (
            ("base",),
            ("rl",),
            ("base", "rl"),
            ("sft", "mine"),
            ("base", "sft", "rl"),
            ("sft", "rl", "mine"),
        ):
            blocks = x[: len(names)]
            with mix.using(names), torch.no_grad():
                y = mixed(blocks.flatten(0, 1)).unflatten(0, (len(names), 2))
                expected = [references[n].get_submodule(path)(block) for n, block in zip(names, blocks, strict=True)]
            torch.testing.assert_close(y, torch.stack(expected), atol=1e-5, rtol=1e-5)


SELECTIONS = {
    "excluded by name": {"exclude_modules": ["down_proj", "model.multi_modal_projector.linear_1"]},
    "excluded by pattern": {"exclude_modules": r".*audio_tower.*|.*layers\.0\..*"},
    "a layer": {"layers_to_transform": 1},
    "layers of a pattern": {"layers_to_transform": [1], "layers_pattern": "layers"},
    "layers and one by its path": {
        "target_modules": ["q_proj", "model.multi_modal_projector.linear_2"], "layers_to_transform": [0],
    },
    "ranks and scales": {
        "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.up_proj": 9},
        "alpha_pattern": {"q_proj": 5, r"language_model\.layers\.0\..*": 3},
    },
    "rank-stabilised": {"rank_pattern": {"k_proj": 3}, "alpha_pattern": {"o_proj": 7}, "use_rslora": True},
    "the head": {"target_modules": ["lm_head", "q_proj"]},
    "scale that 16 bits do not hold": {"r": 12, "lora_alpha": 7},
}  # fmt: skip


@pytest.mark.parametrize("settings", SELECTIONS.values(), ids=SELECTIONS)
def test_layers_ranks_and_scales_are_those_of_peft(checkpoint, model, tmp_path, settings):
    """In bfloat16, as many adapters are saved: the scale is applied after the file's numbers were widened."""
    save_adapter(checkpoint.base, tmp_path, seed=9, dtype=torch.bfloat16, **settings)
    adapter = lora.read(tmp_path, model, "mine")
    fresh = checkpoints.load_base(Path(checkpoint.base), torch.float32)
    adapted = PeftModel.from_pretrained(fresh, tmp_path).base_model.model
    of_peft = {path for path, module in adapted.named_modules() if hasattr(module, "lora_A")}
    assert adapter.weights.keys() == of_peft
    mix = Mix([adapter])
    for path in sorted(of_peft):
        linear = model.get_submodule(path)
        x = torch.randn(2, 3, linear.in_features)
        with mix.using(("mine",)), torch.no_grad():
            y = MixedLinear({path: linear}, [adapter], mix, CPU)(x)
            torch.testing.assert_close(y, adapted.get_submodule(path)(x), atol=1e-5, rtol=1e-5)


def test_scales_lose_no_precision_in_16_bits(checkpoint, model, tmp_path):
    """Against PEFT's update in float32, of a bfloat16 adapter that is applied in bfloat16: 7 / 12 like 8 / 4."""
    off = {}
    for rank, alpha in ((4, 8), (12, 7)):
        save_adapter(checkpoint.base, tmp_path / str(rank), 9, dtype=torch.bfloat16, r=rank, lora_alpha=alpha)
        adapter = lora.read(tmp_path / str(rank), model, "mine", torch.bfloat16)
        tensors = load_file(tmp_path / str(rank) / lora.WEIGHTS_FILE)
        errors = []
        for path, (a, b) in adapter.weights.items():
            saved_a, saved_b = (tensors[f"base_model.model.{path}.lora_{side}.weight"].float() for side in "AB")
            update = alpha / rank * saved_b @ saved_a
            errors.append((b.float() @ a.float() - update).norm() / update.norm())
        off[rank] = max(errors)
    assert off[4] == 0 and off[12] < 2**-8


def test_weights_of_the_base_that_were_trained_are_refused_in_a_merge_too(checkpoint, tmp_path):
    save_adapter(checkpoint.base, tmp_path / "head", seed=9, target_modules=["lm_head"])
    alone = checkpoints.Checkpoint("mine", checkpoint.base, {"head": str(tmp_path / "head")})
    checkpoints.write_merged(alone, "head", tmp_path / "merged")
    weights = tmp_path / "head" / lora.WEIGHTS_FILE
    tensors = load_file(weights)
    (saved, *_) = [key for key in tensors if "lm_head" in key and "lora" not in key]
    save_file({**tensors, saved: tensors[saved] + 1}, weights)
    with pytest.raises(CheckpointError, match=r"not those of this base .*lm_head.* merge it into its own base"):
        checkpoints.write_merged(alone, "head", tmp_path / "merged again")


@pytest.mark.parametrize(("dtype", "off"), [(torch.float32, 1e-5), (torch.float16, 1e-5), (torch.bfloat16, 4e-2)])
def test_a_prepacked_layer_computes_what_its_weights_give_in_float32(checkpoint, model, dtype, off):
    def adapters():
        return [lora.read(folder, model, name, dtype) for name, folder in checkpoint.adapters.items()]

    mix = Mix(adapters())
    for path in ("model.audio_tower.layers.0.self_attn.q_proj", "model.language_model.layers.0.mlp.up_proj"):
        linear = copy_of(model.get_submodule(path)).to(dtype)  # one with a bias, one without
        settled = MixedLinear({path: linear}, adapters(), mix, CPU).prepack()
        plain = MixedLinear({path: linear.float()}, adapters(), mix, CPU)
        x = torch.randn(6, 5, linear.in_features, generator=torch.Generator().manual_seed(0))
        x = x.to(backends.activations(dtype, CPU))
        with mix.using(("base", "sft", "rl")), torch.no_grad():
            torch.testing.assert_close(settled(x).float(), plain(x.float()), atol=off, rtol=off)


@pytest.mark.parametrize(("dtype", "off"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("attention", ["model.language_model.layers.0.self_attn", f"{lora.TOWER}.layers.0.self_attn"])
def test_joined_layers_compute_what_each_computes_alone(checkpoint, model, attention, dtype, off):
    """The text model's are of several sizes; of the tower's some have a bias."""

    def adapters():
        return [lora.read(folder, model, name, dtype) for name, folder in checkpoint.adapters.items()]

    mix = Mix(adapters())
    names = [f"{attention}.{name}" for name in ("q_proj", "k_proj", "v_proj")]
    layers = {name: copy_of(model.get_submodule(name)).to(dtype) for name in names}
    x = torch.randn(6, 3, layers[names[0]].in_features, dtype=dtype)
    for variants in (("base", "sft", "rl"), ("base", "rl"), ("sft",)):
        with mix.using(variants), torch.no_grad():
            alone = [MixedLinear({path: layer}, adapters(), mix, CPU)(x) for path, layer in layers.items()]
            joined = MixedLinear(layers, adapters(), mix, CPU)(x)
        torch.testing.assert_close(joined, torch.cat(alone, dim=-1), atol=off, rtol=off)


def test_ranks_and_target_layers_may_differ_between_adapters(checkpoint, model, tmp_path):
    save_adapter(checkpoint.base, tmp_path / "small", seed=4, r=2, target_modules=["q_proj"])
    save_adapter(checkpoint.base, tmp_path / "large", seed=5, r=8, target_modules=["q_proj", "k_proj"])
    save_adapter(checkpoint.base, tmp_path / "other", seed=6, r=4, target_modules=["k_proj"])
    adapters = [lora.read(tmp_path / name, model, name) for name in ("large", "small", "other")]
    weights = [dict(adapter.weights) for adapter in adapters]  # layers take theirs out
    mix = Mix(adapters)
    for leaf in ("q_proj", "k_proj", "v_proj"):
        path = f"model.language_model.layers.1.self_attn.{leaf}"
        linear = model.get_submodule(path)
        x = torch.randn(4, 4, 48)
        with mix.using(("base", "large", "small", "other")), torch.no_grad():
            y = MixedLinear({path: linear}, adapters, mix, CPU)(x)
        for row, matrices in enumerate(weights, start=1):
            a, b = matrices.get(path, (torch.zeros(1, 48), torch.zeros(linear.out_features, 1)))
            torch.testing.assert_close(y[row], linear(x[row]) + x[row] @ a.T @ b.T)


def test_the_base_is_not_in_memory_twice(checkpoint):
    model = checkpoints.load_base(Path(checkpoint.base), torch.float32)
    adapters = [lora.read(checkpoint.adapters["sft"], model, "sft")]
    attention = f"{lora.TOWER}.layers.0.self_attn"
    path = f"{attention}.q_proj"
    weight = weakref.ref(model.get_submodule(path).weight)
    assert path in adapters[0].weights
    joined(model.get_submodule(attention), attention, ("q_proj",), adapters, Mix(adapters), CPU)
    assert weight() is None and path not in adapters[0].weights


# ---------------------------------------------------------------------------------------------------- merging


def test_a_merged_model_writes_what_the_adapter_writes(checkpoint, engine, tmp_path):
    checkpoints.write_merged(checkpoint, "rl", tmp_path / "merged")
    merged = VoxtralForConditionalGeneration.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    base = checkpoints.load_base(Path(checkpoint.base), torch.float32)
    adapted = PeftModel.from_pretrained(base, checkpoint.adapters["rl"])
    torch.testing.assert_close(logits(merged, engine), logits(adapted, engine), atol=1e-4, rtol=1e-4)


def test_a_merged_folder_is_a_model_of_its_own(checkpoint, engine, tmp_path):
    from evoxtral.inference.engine import Engine
    from evoxtral.model.checkpoints import Checkpoint

    checkpoints.write_merged(checkpoint, "sft", tmp_path / "merged")
    alone = Engine(Checkpoint("merged", str(tmp_path / "merged")), device="cpu", dtype=torch.float32)
    clip = (16_000, tone(3.0))
    assert alone.compare(clip)["base"].text == engine.transcribe(clip, "sft").text


def test_merging_needs_an_adapter_and_a_new_folder(checkpoint, tmp_path):
    with pytest.raises(CheckpointError, match="'base' cannot be merged.*sft, rl"):
        checkpoints.write_merged(checkpoint, "base", tmp_path / "x")
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(CheckpointError, match="exists already"):
        checkpoints.write_merged(checkpoint, "rl", tmp_path)
    with pytest.raises(CheckpointError, match="cannot be written"):
        checkpoints.write_merged(checkpoint, "rl", tmp_path / "mine.txt" / "x")


def test_a_merge_that_fails_leaves_nothing_and_can_be_tried_again(checkpoint, tmp_path, monkeypatch):
    def full(_, folder, **settings):
        (folder / "config.json").touch()
        assert not (tmp_path / "merged").exists(), "killed here, it would leave no folder that looks like a model"
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(CheckpointError, match="cannot be written: No space left"):
        patch.setattr(VoxtralForConditionalGeneration, "save_pretrained", full)
        checkpoints.write_merged(checkpoint, "rl", tmp_path / "merged")
    assert not list(tmp_path.glob("merged*"))
    checkpoints.write_merged(checkpoint, "rl", tmp_path / "merged")


def test_a_bad_adapter_is_found_before_the_base_is_loaded(checkpoint, copy, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "load_base", None)
    bad = checkpoints.Checkpoint("bad", checkpoint.base, {"sft": str(copy(one_nan))})
    with pytest.raises(CheckpointError, match="not finite"):
        checkpoints.write_merged(bad, "sft", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


# ----------------------------------------------------------------------------------------------------- counts


def test_the_recipe_on_the_published_model_has_the_published_number_of_parameters():
    published = checkpoints.Checkpoint("mini-3b", checkpoints.MINI_BASE)
    assert checkpoints.parameter_counts(published) == (4_801_051_648, 124_780_544)


def test_counts_equal_those_of_peft(checkpoint):
    base = checkpoints.load_base(Path(checkpoint.base), torch.float32)
    adapted = PeftModel.from_pretrained(base, checkpoint.adapters["rl"], is_trainable=True)
    trainable, total = adapted.get_nb_trainable_parameters()
    assert checkpoints.parameter_counts(checkpoint) == (total, trainable)

"""A merged model in Mistral's layout, against transformers' own conversion of that layout, stated here once more."""

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import VoxtralConfig
from transformers.models.whisper.modeling_whisper import sinusoids

from evoxtral import cli
from evoxtral.errors import CheckpointError
from evoxtral.model import checkpoints, mistral_layout
from evoxtral.model.checkpoints import Checkpoint

AUDIO, ENCODER = "mm_whisper_embeddings.", "mm_whisper_embeddings.whisper_encoder.transformer."


POSITIONS = "audio_tower.embed_positions.weight"


def in_transformers(name: str) -> str:
    """The name that transformers' conversion gives a tensor of Mistral's layout: replacements, one after the other."""
    if name.startswith(ENCODER):
        name = name.removeprefix(ENCODER)
        for theirs, ours in (
            ("attention.wo", "self_attn.out_proj"), ("attention.w", "self_attn.#"), ("feed_forward.w", "fc"),
            ("attention_norm", "self_attn_layer_norm"), ("ffn_norm", "final_layer_norm"),
        ):  # fmt: skip
            name = name.replace(theirs, ours)
        name = name if name.startswith("layers") else f"layer_{name}"
        return "audio_tower." + re.sub(r"#(\w)", r"\1_proj", name)
    name = name.replace(AUDIO + "whisper_encoder.conv_layers.0", "audio_tower.conv1")
    name = name.replace(AUDIO + "whisper_encoder.conv_layers.1", "audio_tower.conv2")
    name = name.replace(AUDIO + "audio_language_projection.0", "multi_modal_projector.linear_1")
    name = name.replace(AUDIO + "audio_language_projection.2", "multi_modal_projector.linear_2")
    if name.startswith(("audio_tower", "multi_modal")):
        return name
    if name == "output.weight":
        return "language_model.lm_head.weight"
    for theirs, ours in (
        (AUDIO + "tok_embeddings", "embed_tokens"), ("attention_norm", "input_layernorm"),
        ("ffn_norm", "post_attention_layernorm"), ("attention.w", "self_attn.#"), ("feed_forward.w1", "mlp.gate_proj"),
        ("feed_forward.w2", "mlp.down_proj"), ("feed_forward.w3", "mlp.up_proj"),
    ):  # fmt: skip
        name = name.replace(theirs, ours)
    return "language_model.model." + re.sub(r"#(\w)", r"\1_proj", name)


@pytest.fixture(scope="module")
def untrained_positions(checkpoint, tmp_path_factory) -> Checkpoint:
    """The model of the tests with the positions that Whisper and Voxtral have: sines, which nothing trained."""
    base = tmp_path_factory.mktemp("sines") / "base"
    shutil.copytree(checkpoint.base, base)
    tensors = load_file(base / "model.safetensors")
    tensors[POSITIONS] = sinusoids(*tensors[POSITIONS].shape).to(tensors[POSITIONS].dtype)
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    return replace(checkpoint, base=str(base))


def test_every_tensor_converts_back_to_the_merged_model(untrained_positions, tmp_path, monkeypatch):
    checkpoint = untrained_positions
    monkeypatch.setattr(checkpoints, "resolve", lambda _: checkpoint)
    assert cli.main(["-q", "merge", "--variant", "sft", "--layout", "mistral", "-o", str(tmp_path / "theirs")]) == 0
    checkpoints.write_merged(checkpoint, "sft", tmp_path / "ours")
    assert {file.name for file in (tmp_path / "theirs").iterdir()} == {
        "params.json", "consolidated.safetensors", "tekken.json",
    }  # fmt: skip
    ours = load_file(tmp_path / "ours" / "model.safetensors")
    text = VoxtralConfig.from_pretrained(tmp_path / "ours").text_config
    converted = {}
    for name, tensor in load_file(tmp_path / "theirs" / "consolidated.safetensors").items():
        own = in_transformers(name)
        heads = {"q_proj": text.num_attention_heads, "k_proj": text.num_key_value_heads}.get(own.split(".")[-2])
        if heads and own.startswith("language_model"):
            rows, columns = tensor.shape
            tensor = tensor.view(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)
        converted[own] = tensor
    assert ours.keys() - converted.keys() == {POSITIONS} and converted.keys() <= ours.keys()
    for name, tensor in converted.items():
        assert torch.equal(tensor, ours[name]), name


def test_params_say_what_the_configuration_says(untrained_positions, tmp_path):
    checkpoint = untrained_positions
    checkpoints.write_merged(checkpoint, "rl", tmp_path / "theirs", "mistral")
    params = json.loads((tmp_path / "theirs" / "params.json").read_text())
    config = VoxtralConfig.from_pretrained(checkpoint.base)
    assert (params["dim"], params["n_layers"], params["rope_theta"]) == (48, 2, 10_000.0)
    args = params["multimodal"]["whisper_model_args"]
    assert args["downsample_args"] == {"downsample_factor": 4}
    assert args["encoder_args"]["max_source_positions"] == config.audio_config.max_source_positions
    assert args["encoder_args"]["audio_encoding_args"]["num_mel_bins"] == 128


def test_what_the_layout_has_no_place_for_is_said(checkpoint, tmp_path):
    with pytest.raises(CheckpointError, match="no place for trained positions"):
        checkpoints.write_merged(checkpoint, "rl", tmp_path / "theirs", "mistral")
    assert not (tmp_path / "theirs").exists()
    found = mistral_layout.name_of("audio_tower.layers.31.self_attn.q_proj.bias")
    assert found == f"{ENCODER}layers.31.attention.wq.bias"
    with pytest.raises(CheckpointError, match="no place for the tensor language_model.model.layers.0.mlp.router"):
        mistral_layout.name_of("language_model.model.layers.0.mlp.router.weight")

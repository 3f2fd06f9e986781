"""A Voxtral checkpoint in Mistral's layout: `params.json`, `consolidated.safetensors` with their tensor names, and
`tekken.json`, which vLLM's own Voxtral class loads.

The inverse of transformers' `convert_voxtral_weights_to_hf.py`
(https://github.com/huggingface/transformers/blob/main/src/transformers/models/voxtral/convert_voxtral_weights_to_hf.py).
"""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import VoxtralConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import sinusoids

from evoxtral.errors import CheckpointError

_AUDIO = "mm_whisper_embeddings"
_ENCODER = f"{_AUDIO}.whisper_encoder.transformer"
# Beginning of a name in transformers -> in Mistral's layout. `{}` is the number of the layer.
_MODULES = {
    "language_model.lm_head": "output",
    "language_model.model.norm": "norm",
    "language_model.model.embed_tokens": f"{_AUDIO}.tok_embeddings",
    "language_model.model.layers.{}.input_layernorm": "layers.{}.attention_norm",
    "language_model.model.layers.{}.post_attention_layernorm": "layers.{}.ffn_norm",
    **{f"language_model.model.layers.{{}}.self_attn.{c}_proj": f"layers.{{}}.attention.w{c}" for c in "qkvo"},
    "language_model.model.layers.{}.mlp.gate_proj": "layers.{}.feed_forward.w1",
    "language_model.model.layers.{}.mlp.down_proj": "layers.{}.feed_forward.w2",
    "language_model.model.layers.{}.mlp.up_proj": "layers.{}.feed_forward.w3",
    "audio_tower.conv1": f"{_AUDIO}.whisper_encoder.conv_layers.0",
    "audio_tower.conv2": f"{_AUDIO}.whisper_encoder.conv_layers.1",
    "audio_tower.layer_norm": f"{_ENCODER}.norm",
    **{f"audio_tower.layers.{{}}.self_attn.{c}_proj": f"{_ENCODER}.layers.{{}}.attention.w{c}" for c in "qkv"},
    "audio_tower.layers.{}.self_attn.out_proj": f"{_ENCODER}.layers.{{}}.attention.wo",
    "audio_tower.layers.{}.self_attn_layer_norm": f"{_ENCODER}.layers.{{}}.attention_norm",
    "audio_tower.layers.{}.final_layer_norm": f"{_ENCODER}.layers.{{}}.ffn_norm",
    "audio_tower.layers.{}.fc1": f"{_ENCODER}.layers.{{}}.feed_forward.w1",
    "audio_tower.layers.{}.fc2": f"{_ENCODER}.layers.{{}}.feed_forward.w2",
    "multi_modal_projector.linear_1": f"{_AUDIO}.audio_language_projection.0",
    "multi_modal_projector.linear_2": f"{_AUDIO}.audio_language_projection.2",
}
_POSITIONS = "audio_tower.embed_positions.weight"  # computed by whoever loads the layout
_LAYER = re.compile(r"(?<=\.layers\.)\d+")


def write(source: Path, folder: Path) -> None:
    """Write a checkpoint of transformers' layout, without adapters, in Mistral's. Raises CheckpointError."""
    config = VoxtralConfig.from_pretrained(source)
    tensors = {}
    for file in sorted(source.glob("model*.safetensors")):
        with safe_open(file, "pt") as shard:
            for name in shard.keys():  # noqa: SIM118 - it is no dict
                tensor = shard.get_tensor(name)
                if name == _POSITIONS:
                    _check_positions(tensor, config)
                else:
                    tensors[name_of(name)] = _rotated(name, tensor, config).contiguous()
    save_file(tensors, folder / "consolidated.safetensors")
    (folder / "params.json").write_text(json.dumps(params(config, source), indent=2) + "\n", encoding="utf-8")
    if folder != source:
        shutil.copyfile(source / "tekken.json", folder / "tekken.json")


def name_of(name: str) -> str:
    """The name of a tensor in Mistral's layout. Raises CheckpointError for one that it has no place for."""
    module, _, kind = name.rpartition(".")
    number = _LAYER.search(module)
    known = _MODULES.get(_LAYER.sub("{}", module, count=1))
    if known is None:
        raise CheckpointError(f"Mistral's layout has no place for the tensor {name}: use the layout of transformers.")
    return f"{known.format(number.group() if number else '')}.{kind}"


def _rotated(name: str, tensor: torch.Tensor, config: VoxtralConfig) -> torch.Tensor:
    """Rows of the text model's queries and keys in Mistral's order: there the rotary embedding turns neighbours, in
    transformers the two halves of a head."""
    if not name.startswith("language_model.") or not name.endswith(("q_proj.weight", "k_proj.weight")):
        return tensor
    half = config.text_config.head_dim // 2
    return tensor.unflatten(0, (-1, 2, half)).transpose(1, 2).flatten(0, 2)


def _check_positions(tensor: torch.Tensor, config: VoxtralConfig) -> None:
    expected = sinusoids(config.audio_config.max_source_positions, config.audio_config.hidden_size)
    if not torch.allclose(tensor.float(), expected, atol=1e-2):
        raise CheckpointError("Mistral's layout has no place for trained positions: use the layout of transformers.")


def params(config: VoxtralConfig, source: Path) -> Mapping:
    """`params.json` of a model; source: its folder, for the feature extractor."""
    text, audio = config.text_config, config.audio_config
    features = WhisperFeatureExtractor.from_pretrained(source)
    return {
        "dim": text.hidden_size,
        "n_layers": text.num_hidden_layers,
        "head_dim": text.head_dim,
        "hidden_dim": text.intermediate_size,
        "n_heads": text.num_attention_heads,
        "n_kv_heads": text.num_key_value_heads,
        "use_biases": False,
        "causal": True,
        "rope_theta": text.rope_parameters["rope_theta"],
        "norm_eps": text.rms_norm_eps,
        "vocab_size": text.vocab_size,
        "max_seq_len": text.max_position_embeddings,
        "multimodal": {
            "whisper_model_args": {
                "encoder_args": {
                    "audio_encoding_args": {
                        "sampling_rate": features.sampling_rate,
                        "num_mel_bins": audio.num_mel_bins,
                        "hop_length": features.hop_length,
                        "window_size": features.n_fft,
                    },
                    "dim": audio.hidden_size,
                    "n_layers": audio.num_hidden_layers,
                    "head_dim": audio.hidden_size // audio.num_attention_heads,
                    "hidden_dim": audio.intermediate_size,
                    "n_heads": audio.num_attention_heads,
                    "vocab_size": audio.vocab_size,
                    "max_source_positions": audio.max_source_positions,
                },
                "downsample_args": {"downsample_factor": audio.intermediate_size // audio.hidden_size},
            }
        },
    }

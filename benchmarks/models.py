"""Models of random weights in any size, with everything around them as published: classes, processor, adapters."""

import base64
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import VoxtralConfig, VoxtralForConditionalGeneration

from evoxtral.audio import SAMPLE_RATE
from evoxtral.model.checkpoints import Checkpoint, published_config
from evoxtral.model.lora import CONFIG_FILE, WEIGHTS_FILE, LoraRecipe
from evoxtral.speech.synthesis import VOICES, speak
from training.tokenizer import N_SPECIAL, write_processor

WINDOW = 30  # s
SHARD = "2GB"  # of a written model: safetensors copies a whole file in memory


@dataclass(frozen=True)
class Shape:
    """Sizes of a model; the defaults are the published ones."""

    encoder_layers: int = 32
    encoder_width: int = 1280
    encoder_heads: int = 20
    text_layers: int = 30
    text_width: int = 3072
    text_mlp: int = 8192
    heads: int = 32
    key_value_heads: int = 8
    head_dim: int = 128
    vocabulary: int = 131072
    rank: int = 64

    def config(self) -> VoxtralConfig:
        """The published configuration in these sizes."""
        config = published_config()
        audio, text = config.audio_config, config.text_config
        audio.num_hidden_layers, audio.hidden_size = self.encoder_layers, self.encoder_width
        audio.num_attention_heads, audio.intermediate_size = self.encoder_heads, 4 * self.encoder_width
        text.num_hidden_layers, text.hidden_size = self.text_layers, self.text_width
        text.intermediate_size, text.vocab_size = self.text_mlp, self.vocabulary
        text.num_attention_heads, text.num_key_value_heads = self.heads, self.key_value_heads
        text.head_dim = self.head_dim
        config.hidden_size = self.text_width
        return config

    def parameters(self) -> dict[str, int]:
        """How many parameters the base has, and how many of them a decoding step reads."""
        with torch.device("meta"):
            model = VoxtralForConditionalGeneration(self.config())
        step = [model.model.language_model.layers, model.lm_head]
        return {
            "base": sum(p.numel() for p in model.parameters()),
            "step": sum(p.numel() for module in step for p in module.parameters()),
        }


SHAPES = {
    "3b": Shape(),
    "250m": Shape(12, 768, 12, 12, 1024, 2816, 16, 4, 64, 8192, rank=16),
    "tiny": Shape(2, 128, 2, 2, 128, 352, 4, 2, 32, 1024, rank=8),
}


def build(shape: Shape, folder: Path, adapters: int) -> Checkpoint:
    """A base in bfloat16, and adapters of the recipe's reach as PEFT saves them, written to `folder` unless there."""
    names = ("sft", "rl", *(f"lora{i}" for i in range(3, adapters + 1)))
    if not all((folder / name).is_dir() for name in ("base", *names)):
        _write(shape, folder, names)
    return Checkpoint("random", str(folder / "base"), {name: str(folder / name) for name in names})


def _write(shape: Shape, folder: Path, names: Sequence[str]) -> None:
    from peft import LoraConfig, get_peft_model

    with torch.device("meta"):
        model = VoxtralForConditionalGeneration(shape.config())
    model = model.to(torch.bfloat16).to_empty(device="cpu")
    randomise(model)
    model.save_pretrained(folder / "base", max_shard_size=SHARD)
    write_processor(folder / "base", tekken_merges(shape.vocabulary - N_SPECIAL - 256), WINDOW)
    recipe = LoraRecipe(r=shape.rank, alpha=2 * shape.rank)
    targets = list(recipe.targets)
    settings = LoraConfig(r=recipe.r, lora_alpha=recipe.alpha, target_modules=targets, task_type="CAUSAL_LM")
    peft = get_peft_model(model, settings)
    for i, name in enumerate(names):
        randomise(peft, only=".lora_", scale=0.3, seed=i)
        peft.save_pretrained(folder / name)


def as_transformers_4(adapter: Path) -> Path:
    """A copy of an adapter, beside it, in the names that PEFT wrote with transformers 4."""
    renamed = {
        "base_model.model.model.language_model.": "base_model.model.language_model.model.",
        "base_model.model.model.": "base_model.model.",
    }
    tensors = {}
    for key, tensor in load_file(adapter / WEIGHTS_FILE).items():
        now = next(name for name in renamed if key.startswith(name))
        tensors[renamed[now] + key.removeprefix(now)] = tensor
    copy = adapter.with_name(f"{adapter.name}-transformers-4")
    copy.mkdir(exist_ok=True)
    shutil.copyfile(adapter / CONFIG_FILE, copy / CONFIG_FILE)
    save_file(tensors, copy / WEIGHTS_FILE)
    return copy


def tekken_merges(count: int) -> list[bytes]:
    """The first merges of the vocabulary that mistral_common ships."""
    data = json.loads(files("mistral_common").joinpath("data/tekken_240911.json").read_text(encoding="utf-8"))
    return [base64.b64decode(entry["token_bytes"]) for entry in data["vocab"][256 : 256 + count]]


@torch.no_grad()
def randomise(model: torch.nn.Module, only: str = "", scale: float = 1.0, seed: int = 0) -> None:
    """Fan-in scaled noise, tiled: what is computed does not matter here, only that it varies and stays finite."""
    noise = torch.randn(1 << 20, generator=torch.Generator().manual_seed(seed))
    for i, (name, parameter) in enumerate(model.named_parameters()):
        if only not in name:
            continue
        if parameter.ndim == 1:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            continue
        width = 1.0 if "embed" in name else parameter[0].numel()
        tiles = -(-parameter.numel() // len(noise))
        values = noise.roll(i * 997).repeat(tiles)[: parameter.numel()].view(parameter.shape)
        parameter.copy_(values * scale * width**-0.5)


TEXT = "I never said that we would go there tonight, so please close the door behind you and do not tell anyone."


def some_speech(seconds: float, seed: int = 0) -> np.ndarray:
    """Speech of the embedded voice (T,), without a long silence, and the same in every run."""
    spoken = speak(TEXT, VOICES[seed % len(VOICES)], seed=seed).waveform.astype(np.float32)
    return np.resize(spoken, round(seconds * SAMPLE_RATE)).copy()

"""Voxtral's text model (a Llama) for decoding: static shapes, one cache, adapters mixed within a batch.

It computes what `LlamaForCausalLM` computes, from the same weights, which are moved over layer by layer so that they
are never in memory twice. Linear layers with the same input are joined into one product. It is our own code because a
step then does nothing on the host but launch kernels, and on CUDA its shapes never change: the whole step is captured
once and replayed as one graph.

Shapes: B rows of a batch, T positions, D width, H query heads, K key/value heads, L length of the cache.
"""

import importlib.util
import logging
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import rms_norm, silu
from transformers import LlamaConfig, VoxtralForConditionalGeneration
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from evoxtral.model import panels
from evoxtral.model.backends import activations
from evoxtral.model.linear import Mix, joined
from evoxtral.model.lora import Adapter

if TYPE_CHECKING:
    from evoxtral.model.kernels import Stream

log = logging.getLogger(__name__)

LANGUAGE_MODEL = "model.language_model"
Rotate = Callable[[torch.Tensor], torch.Tensor]
Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Block(nn.Module):
    """One transformer layer."""

    def __init__(
        self, layer: LlamaDecoderLayer, path: str, adapters: Sequence[Adapter], mix: Mix, device: torch.device
    ):
        super().__init__()

        attention, mlp = layer.self_attn, layer.mlp
        self.qkv = joined(attention, f"{path}.self_attn", ("q_proj", "k_proj", "v_proj"), adapters, mix, device)
        self.out = joined(attention, f"{path}.self_attn", ("o_proj",), adapters, mix, device)
        self.gate_up = joined(mlp, f"{path}.mlp", ("gate_proj", "up_proj"), adapters, mix, device)
        self.down = joined(mlp, f"{path}.mlp", ("down_proj",), adapters, mix, device)
        self.attention_norm = layer.input_layernorm.weight
        self.mlp_norm = layer.post_attention_layernorm.weight
        config = attention.config
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = config.head_dim
        self.eps = config.rms_norm_eps
        fits = self.qkv.quantized and panels.fit(config.hidden_size, config.hidden_size)
        self._functions = panels.functions() if fits else None

    def _normed(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        if self._functions:
            return self._functions.norm(x, weight, self.eps)
        return rms_norm(x, x.shape[-1:], weight, self.eps)

    def forward(self, x: torch.Tensor, rotate: Rotate, attend: Attend, last: bool = False) -> torch.Tensor:
        """x (B, T, D) -> (B, T, D), or (B, 1, D) if `last`: of the last position alone.

        rotate: applies rotary embeddings to heads (B, …, T, d).
        attend: (q (B, H, T or 1, d), k (B, K, T, d), v (B, K, T, d)) -> as q; it also fills the cache.
        """
        b, t, _ = x.shape
        heads = self.qkv(self._normed(x, self.attention_norm))
        heads = heads.view(b, t, -1, self.head_dim).transpose(1, 2)
        q, k = rotate(heads[:, : self.heads + self.kv_heads]).split([self.heads, self.kv_heads], dim=1)
        if last:
            x, q = x[:, -1:], q[:, :, -1:]
        y = attend(q, k, heads[:, self.heads + self.kv_heads :])
        x = x + self.out(y.transpose(1, 2).flatten(2))
        gate, up = self.gate_up(self._normed(x, self.mlp_norm)).chunk(2, dim=-1)
        return x + self.down(silu(gate).mul_(up))

    def step(
        self,
        kernels: ModuleType,
        stream: "Stream",
        following: torch.Tensor,
        rotate: tuple[torch.Tensor, torch.Tensor],
        position: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        attend: Callable[[torch.Tensor], torch.Tensor],
    ) -> "Stream":
        """The same as `forward`, for one position of every row, with the kernels of the module `kernels`.

        following: weight (D,) of the norm after this layer.  rotate: cosines and sines (L, d), the first half of the
        sines negated.  position (B,).  keys, values (B, K, L, d): the layer's cache.
        attend: queries (B, H, d) -> (B, H, d).
        """
        y = self.qkv.product(stream.weighted)
        q = kernels.rope_and_cache(self.qkv, y, stream.squares, self.eps, rotate, position, keys, values)
        y = self.out.product(attend(q).flatten(1))
        stream = kernels.residual_add(self.out, y, stream.x, self.mlp_norm)
        y = kernels.silu_mul(self.gate_up, self.gate_up.product(stream.weighted), stream.squares, self.eps)
        return kernels.residual_add(self.down, self.down.product(y), stream.x, following)


def _kernels(config: LlamaConfig) -> ModuleType | None:
    """The module `kernels`, if Triton is installed and its kernels support this model."""
    if importlib.util.find_spec("triton") is None:
        return None
    from evoxtral.model import kernels

    if not kernels.supports(config):
        return None
    kernels.prepare()
    return kernels


class TextModel(nn.Module):
    """The text model and its output layer."""

    def __init__(
        self,
        model: VoxtralForConditionalGeneration,
        adapters: Sequence[Adapter],
        mix: Mix,
        device: torch.device,
    ):
        """Moves the layers out of `model`, one by one, to `device`. `model` cannot generate text afterwards."""
        super().__init__()
        language_model = model.model.language_model
        self.config, self.mix = language_model.config, mix
        self.embed = language_model.embed_tokens
        self.rotary = language_model.rotary_emb
        dtype = activations(language_model.norm.weight.dtype, device)
        self.norm = language_model.norm.to(dtype).weight
        self.blocks = nn.ModuleList()
        for i, layer in enumerate(language_model.layers):
            block = Block(layer, f"{LANGUAGE_MODEL}.layers.{i}", adapters, mix, device)
            self.blocks.append(block.to(device, dtype))
            language_model.layers[i] = nn.Identity()
        self.head = joined(model, "", ("lm_head",), adapters, mix, device)
        self.quantized = self.blocks[0].qkv.quantized is not None
        self.kernels = _kernels(self.config) if device.type == "cuda" else None
        self.to(device)

    def embedded(self, tokens: torch.Tensor) -> torch.Tensor:
        """Embeddings of token ids (…) -> (…, D)."""
        return self.embed(tokens).to(self.norm.dtype)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Next-token logits (B, vocabulary) of the last position of x (B, T, D)."""
        return self.head(rms_norm(x[:, -1], x.shape[-1:], self.norm, self.config.rms_norm_eps))

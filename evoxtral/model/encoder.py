"""Voxtral's audio encoder (that of Whisper) and its projector: from log_mel to audio_embeds, per variant.

It computes what `VoxtralModel.get_audio_features` computes, from the same weights, which are moved over layer by layer.
One difference: transformers keeps the position table in float32 beside 16-bit weights. It is our own code so that
queries, keys and values are one product, adapters are mixed within a batch, and peak memory on a CPU is little more
than one layer of one window.

Shapes: S windows, B variants x windows, T positions, D width, H heads.
"""

import sys
from collections.abc import Sequence
from functools import partial
from itertools import product

import torch
from torch import nn
from torch.nn.functional import gelu, scaled_dot_product_attention
from transformers import VoxtralForConditionalGeneration
from transformers.models.voxtral.modeling_voxtral import VoxtralEncoderLayer

from evoxtral.model import attention, backends, lora, threads
from evoxtral.model.attention import Attend
from evoxtral.model.linear import Mix, joined, wait_for_quantized
from evoxtral.model.lora import PROJECTOR, TOWER, Adapter
from evoxtral.model.memory import equal_parts, return_freed_memory

_CHUNK = 150  # positions in one part of the MLP and of the attention on a CPU, about: bounds peak memory
_MEASURED_HEADS = 4  # heads with which the attention is chosen
_FLOAT16 = torch.finfo(torch.float16).max - 1000  # transformers clamps the residual stream here, too


class Layer(nn.Module):
    """One transformer layer."""

    def __init__(
        self, layer: VoxtralEncoderLayer, path: str, adapters: Sequence[Adapter], mix: Mix, device: torch.device
    ):
        super().__init__()
        attention = layer.self_attn
        self.qkv = joined(attention, f"{path}.self_attn", ("q_proj", "k_proj", "v_proj"), adapters, mix, device)
        self.out = joined(attention, f"{path}.self_attn", ("out_proj",), adapters, mix, device)
        self.fc1 = joined(layer, path, ("fc1",), adapters, mix, device)
        self.fc2 = joined(layer, path, ("fc2",), adapters, mix, device)
        self.attention_norm, self.mlp_norm = layer.self_attn_layer_norm, layer.final_layer_norm
        self.activation = layer.activation_fn
        self.heads = attention.num_heads

    def forward(self, x: torch.Tensor, attend: Attend) -> torch.Tensor:
        """x (B, T, D) -> (B, T, D), in place.

        attend: (q, k, v (B, H, T, d)) -> (B, H, T, d).
        """
        heads = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1))
        y = attend(*heads.permute(2, 0, 3, 1, 4))
        del heads
        x += self.out(y.transpose(1, 2).flatten(2))
        del y
        mix, active = self.fc1.mix, self.fc1.mix.active

        def add_mlp(part: torch.Tensor) -> None:
            with mix.using(active):
                part += self.fc2(self.activation(self.fc1(self.mlp_norm(part))))

        apart = not (x.is_cuda or self.fc1.quantized)
        threads.each(add_mlp, equal_parts(x, sys.maxsize if x.is_cuda else _CHUNK, dim=1), apart)
        if x.dtype is torch.float16:
            x.clamp_(-_FLOAT16, _FLOAT16)
        return x


class Encoder(nn.Module):
    """The audio tower and the projector."""

    def __init__(
        self,
        model: VoxtralForConditionalGeneration,
        adapters: Sequence[Adapter],
        mix: Mix,
        device: torch.device,
        head: nn.Linear | None = None,
    ):
        """Moves the layers out of `model`, one by one, to `device`. `model` cannot encode audio afterwards.

        head: of CTC on the tower's states, which then also fill `heard`.
        """
        super().__init__()
        tower, projector = model.model.audio_tower, model.model.multi_modal_projector
        self.mix, config = mix, model.config
        dtype = backends.activations(tower.conv1.weight.dtype, device)
        self.layers = nn.ModuleList()
        for i, layer in enumerate(tower.layers):
            self.layers.append(Layer(layer, f"{TOWER}.layers.{i}", adapters, mix, device))
            tower.layers[i] = nn.Identity()
        self.conv1, self.conv2, self.norm = tower.conv1, tower.conv2, tower.layer_norm
        self.positions = tower.embed_positions.weight
        self.project1 = joined(projector, PROJECTOR, ("linear_1",), adapters, mix, device)
        self.project2 = joined(projector, PROJECTOR, ("linear_2",), adapters, mix, device)
        self.activation = projector.act
        # Several neighbouring encoder positions, concatenated, make one audio token.
        self.ins, self.outs = config.audio_config.intermediate_size, config.text_config.hidden_size
        self.tokens = self.positions.numel() // self.ins
        self.head = head
        self.heard: torch.Tensor | None = None
        """(variants x S, T, symbols) log-probabilities of the head, of what was encoded last; None without a head"""
        self.to(device, dtype)
        by_onednn = backends.onednn_supports(self.conv1.weight)
        self.attend = _faster_attention(self) if by_onednn else scaled_dot_product_attention

    def forward(self, log_mel: torch.Tensor, variants: tuple[str, ...]) -> torch.Tensor:
        """log_mel (S, bands, frames) -> audio_embeds (variants x S, audio tokens, D of the text model).

        On CUDA in one batch. On a CPU a batch saves no time and its activations would dominate peak memory: there each
        window is encoded by itself, once for every set of variants with the same tower weights.
        """
        if log_mel.is_cuda:
            audio_embeds, self.heard = self._batch(log_mel, variants)
            return audio_embeds
        audio_embeds = log_mel.new_empty(len(variants), len(log_mel), self.tokens, self.outs)
        owners, heard = self._owners(variants, TOWER), {}
        parts = [
            (i, [row for row, other in enumerate(owners) if other == owner])
            for i, owner in product(range(len(log_mel)), self.mix.ordered(owners))
        ]

        def encoded(part: tuple[int, list[int]]) -> tuple[torch.Tensor, torch.Tensor | None]:
            i, rows = part
            found = self._batch(log_mel[i : i + 1], tuple(variants[row] for row in rows))
            return_freed_memory()  # too fragmented for the next window to reuse
            return found

        quantized = self.layers[0].fc1.quantized is not None
        for (i, rows), (embeds, own) in zip(parts, threads.each(encoded, parts, not quantized), strict=True):
            audio_embeds[rows, i] = embeds
            if own is not None:
                heard |= {(row, i): own[:1] for row in rows}  # they share the tower's output
        self.heard = torch.cat([heard[key] for key in sorted(heard)]) if heard else None
        return audio_embeds.flatten(0, 1)

    def _batch(self, log_mel: torch.Tensor, variants: tuple[str, ...]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As `forward`, in one batch; with what `heard` is then.

        Variants whose adapters do not change the tower share the base's output, which is computed once. The same
        holds for the projector.
        """
        through_tower = self.mix.ordered(self._owners(variants, TOWER))
        with self.mix.using(through_tower):
            hidden = self._tower(log_mel.repeat(len(through_tower), 1, 1))
        heard = None
        if self.head is not None:
            heard = self.head(hidden).float().log_softmax(-1)
            heard = _repeat_blocks(heard, through_tower, self._owners(variants, TOWER))
        through_projector = self.mix.ordered(self._owners(variants, TOWER, PROJECTOR))
        hidden = _repeat_blocks(hidden, through_tower, self._owners(through_projector, TOWER))
        with self.mix.using(through_projector):
            audio_embeds = self.project2(self.activation(self.project1(hidden.view(-1, self.tokens, self.ins))))
        return _repeat_blocks(audio_embeds, through_projector, self._owners(variants, TOWER, PROJECTOR)), heard

    def _tower(self, log_mel: torch.Tensor) -> torch.Tensor:
        """log_mel (B, bands, frames) -> (B, T, D)."""
        x = gelu(self.conv2(gelu(self.conv1(log_mel)))).transpose(1, 2)
        x = x.contiguous() + self.positions  # the convolutions give transposed memory, slower in every layer
        for layer in self.layers:
            x = layer(x, self.attend)
        return self.norm(x)

    def _owners(self, variants: Sequence[str], *parts: str) -> list[str]:
        """For each variant, whose output of these parts it uses: its own if its adapter changes them, or the base's."""
        return [variant if self.mix.touches(variant, *parts) else lora.BASE for variant in variants]


def _repeat_blocks(x: torch.Tensor, have: Sequence[str], want: Sequence[str]) -> torch.Tensor:
    """x (have x S, …), one block per variant of `have` -> (want x S, …), the same blocks in the order of `want`."""
    if list(have) == list(want):
        return x
    return x.unflatten(0, (len(have), -1))[[have.index(variant) for variant in want]].flatten(0, 1)


def _chunked_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scores_in: torch.dtype = torch.float32
) -> torch.Tensor:
    """Attention on a CPU, q, k, v (B, H, T, d) -> (B, H, T, d).

    One head and one chunk of queries at a time, by oneDNN: with scores in float32 as exact as PyTorch's own.
    """
    b, h, t, d = q.shape
    out = q.new_empty(b, t, h, d).transpose(1, 2)

    def attend(i: tuple[int, int]) -> None:
        keys, values = k[i].to(scores_in).contiguous(), v[i].T.contiguous()
        for queries, written in zip(*(equal_parts(x, _CHUNK) for x in (q[i], out[i])), strict=True):
            scores = backends.onednn_linear(queries.to(scores_in) * d**-0.5, keys)
            written.copy_(backends.onednn_linear(scores.softmax(dim=-1).to(v.dtype), values))

    threads.each(attend, [*product(range(b), range(h))])
    return out


def _faster_attention(encoder: Encoder) -> Attend:
    """The attention to use on this CPU: that of `attention`, PyTorch's own, or `_chunked_attention`; the last with
    scores in the dtype of activations where weights are quantised: their error, 0.4 %, is a third of what 8 bits add to
    each product.

    Measured: PyTorch multiplies float32 with MKL, which is fast on an Intel Xeon and slow on an AMD EPYC.
    """
    wait_for_quantized(encoder)  # else what reads and lays out weights would be measured as well
    heads, width = encoder.layers[0].heads, encoder.positions.shape[1]
    few = min(heads, _MEASURED_HEADS)
    qkv = encoder.positions.new_ones(1, len(encoder.positions), 3, few, width // heads).permute(2, 0, 3, 1, 4)
    quantized = encoder.layers[0].fc1.quantized is not None
    chunked = partial(_chunked_attention, scores_in=qkv.dtype if quantized else torch.float32)

    def duration(attend: Attend) -> float:
        return backends.shortest_duration(lambda: attend(*qkv))

    return min((*attention.fitting(qkv[0]), chunked, scaled_dot_product_attention), key=duration)

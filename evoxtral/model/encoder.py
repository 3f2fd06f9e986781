"""Voxtral's audio encoder (that of Whisper) and its projector: from log-log_mel to what each variant hears.

It computes what `VoxtralModel.get_audio_features` computes, from the same weights, taken over layer by layer (but for
the positions' table: transformers has it in float32 beside weights of 16 bits). It is our own so that queries, keys
and values are one product, adapters are mixed within a batch, and a CPU has little more in memory than one layer of
one window.

Shapes: S windows, B encoders x windows, T positions, D width, H heads.
"""

import sys
from collections.abc import Callable, Sequence
from itertools import product

import torch
from torch import nn
from torch.nn.functional import gelu, scaled_dot_product_attention
from transformers import VoxtralForConditionalGeneration
from transformers.models.voxtral.modeling_voxtral import VoxtralEncoderLayer

from evoxtral.model import backends, lora
from evoxtral.model.linear import Mix, joined
from evoxtral.model.lora import PROJECTOR, TOWER, Adapter
from evoxtral.model.memory import equal_parts, return_freed_memory

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
_POSITIONS = 150  # that a CPU widens or attends from at a time, about: those of all would be the most memory of all
_FLOAT16 = torch.finfo(torch.float16).max - 1000  # where transformers holds the residual stream too


class Layer(nn.Module):
    """One transformer layer."""

    def __init__(
        self, layer: VoxtralEncoderLayer, path: str, adapters: Sequence[Adapter], mix: Mix, device: torch.device
    ):
        super().__init__()
        attention = layer.self_attn
        self.qkv = joined(attention, f"{path}.self_attn", ("q_proj", "k_proj", "v_proj"), adapters, mix, device)
        self.out = joined(attention, f"{path}.self_attn", ("out_proj",), adapters, mix, device)
        self.widen = joined(layer, path, ("fc1",), adapters, mix, device)
        self.narrow = joined(layer, path, ("fc2",), adapters, mix, device)
        self.attention_norm, self.mlp_norm = layer.self_attn_layer_norm, layer.final_layer_norm
        self.activation = layer.activation_fn
        self.heads = attention.num_heads

    def forward(self, x: torch.Tensor, attend: Attend) -> torch.Tensor:
        """x (B, T, D) -> (B, T, D), in its place.

        attend: (q, k, v (B, H, T, d)) -> (B, H, T, d).
        """
        heads = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1))
        y = attend(*heads.permute(2, 0, 3, 1, 4))
        del heads
        x += self.out(y.transpose(1, 2).flatten(2))
        del y
        for part in equal_parts(x, sys.maxsize if x.is_cuda else _POSITIONS, dim=1):
            part += self.narrow(self.activation(self.widen(self.mlp_norm(part))))
        if x.dtype is torch.float16:
            x.clamp_(-_FLOAT16, _FLOAT16)
        return x


class Encoder(nn.Module):
    """The audio tower and the projector."""

    def __init__(
        self, model: VoxtralForConditionalGeneration, adapters: Sequence[Adapter], mix: Mix, device: torch.device
    ):
        """Takes the layers out of `model`, which cannot hear afterwards, and to a device one by one."""
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
        # Some encoder positions, side by side, make an audio token.
        self.ins, self.outs = config.audio_config.intermediate_size, config.text_config.hidden_size
        self.tokens = self.positions.numel() // self.ins
        self.to(device, dtype)
        by_onednn = backends.onednn_supports(self.conv1.weight)
        self.attend = _faster_attention(self) if by_onednn else scaled_dot_product_attention

    def forward(self, log_mel: torch.Tensor, names: tuple[str, ...]) -> torch.Tensor:
        """Mels (S, bands, frames) -> what each variant hears, (names x S, audio tokens, D of the text model).

        One batch, but on a CPU one window and one encoder after the other: there a batch saves no time, and what
        stands between log_mel and features would be the most memory of all.
        """
        if log_mel.is_cuda:
            return self._heard(log_mel, names)
        features = log_mel.new_empty(len(names), len(log_mel), self.tokens, self.outs)
        owners = self._owners(names, TOWER)
        for (i, mel), owner in product(enumerate(log_mel), self.mix.ordered(owners)):
            rows = [row for row, other in enumerate(owners) if other == owner]
            features[rows, i] = self._heard(mel[None], tuple(names[row] for row in rows))
            return_freed_memory()  # it lies in pieces that the next one could not use
        return features.flatten(0, 1)

    def _heard(self, log_mel: torch.Tensor, names: tuple[str, ...]) -> torch.Tensor:
        """As `forward`, in one batch.

        A variant that leaves the tower alone hears what the base hears, computed once for all of them; so for
        the projector.
        """
        through_tower = self.mix.ordered(self._owners(names, TOWER))
        with self.mix.using(through_tower):
            hidden = self._encoded(log_mel.repeat(len(through_tower), 1, 1))
        through_projector = self.mix.ordered(self._owners(names, TOWER, PROJECTOR))
        hidden = _spread(hidden, through_tower, self._owners(through_projector, TOWER))
        with self.mix.using(through_projector):
            features = self.project2(self.activation(self.project1(hidden.view(-1, self.tokens, self.ins))))
        return _spread(features, through_projector, self._owners(names, TOWER, PROJECTOR))

    def _encoded(self, log_mel: torch.Tensor) -> torch.Tensor:
        """Mels (B, bands, frames) -> (B, T, D)."""
        x = gelu(self.conv2(gelu(self.conv1(log_mel)))).transpose(1, 2)
        x = x.contiguous() + self.positions  # convolutions give columns: all layers would add to them
        for layer in self.layers:
            x = layer(x, self.attend)
        return self.norm(x)

    def _owners(self, names: Sequence[str], *parts: str) -> list[str]:
        """For each variant the one whose output of these parts it shares: its own, or the base's."""
        return [name if self.mix.touches(name, *parts) else lora.BASE for name in names]


def _spread(x: torch.Tensor, have: Sequence[str], want: Sequence[str]) -> torch.Tensor:
    """x (have x S, …), one block per variant of `have`, to (want x S, …), in which blocks may recur."""
    if list(have) == list(want):
        return x
    return x.unflatten(0, (len(have), -1))[[have.index(name) for name in want]].flatten(0, 1)


def _attend_in_parts(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Attention on a CPU, q, k, v (B, H, T, d) -> (B, H, T, d).

    Head by head and some queries at a time through oneDNN, with scores in float32: as exact as PyTorch's own.
    """
    b, h, t, d = q.shape
    out = q.new_empty(b, t, h, d).transpose(1, 2)
    for i in product(range(b), range(h)):
        keys, values = k[i].float().contiguous(), v[i].T.contiguous()
        for queries, written in zip(*(equal_parts(x, _POSITIONS) for x in (q[i], out[i])), strict=True):
            scores = backends.onednn_linear(queries.float() * d**-0.5, keys)
            written.copy_(backends.onednn_linear(scores.softmax(dim=-1).to(v.dtype), values))
    return out


def _faster_attention(encoder: Encoder) -> Attend:
    """The attention to use on this CPU: `_attend_in_parts` or PyTorch's own.

    Measured: PyTorch multiplies float32 with MKL, which is quick on an Intel Xeon and slow on an AMD EPYC.
    """
    heads, width = encoder.layers[0].heads, encoder.positions.shape[1]
    qkv = encoder.positions.new_ones(1, 4 * _POSITIONS, 3, heads, width // heads).permute(2, 0, 3, 1, 4)

    def seconds(attend: Attend) -> float:
        return backends.least_seconds(lambda: attend(*qkv))

    return min((_attend_in_parts, scaled_dot_product_attention), key=seconds)

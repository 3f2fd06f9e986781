"""LoRA's products in training as one operation: what PEFT computes, y = W x + b + (alpha / r) B A dropout(x), without
the passes over memory between its steps, and without a copy of the dropped input kept for the gradients. Layers that
read the same input are one operation, too: it is rounded once, and their gradients for it are summed as they come."""

from collections.abc import Sequence
from functools import partial

import torch
from peft import PeftModel
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.nn import functional as F

from training import noise


class _Adapted(torch.autograd.Function):
    """x: (..., I). Then for each layer: weight, bias: fixed, (O, I) and (O,). a: (r, I). b: (O, r). mask: of the
    dropout, None without one. scales: one for each layer.

    Everything is multiplied in x's precision; gradients come in that of the parameters.
    """

    @staticmethod
    def forward(ctx, x: Tensor, scales: tuple[float, ...], *layers: Tensor | None):
        kept, found = [], []
        for scale, (weight, bias, a, b, mask) in zip(scales, _fives(layers), strict=True):
            inner = F.linear(x if mask is None else x * mask, a.to(x.dtype))
            y = F.linear(x, weight, bias)
            _flat(y).addmm_(_flat(inner), b.to(x.dtype).T, alpha=scale)
            kept += weight, a, b, inner, mask
            found.append(y)
        ctx.save_for_backward(x, *kept)
        ctx.scales = scales
        return tuple(found)

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        x, *kept = ctx.saved_tensors
        found, dx = [], None
        for scale, dy, (weight, a, b, inner, mask) in zip(ctx.scales, gradients, _fives(kept), strict=True):
            rows = _flat(dy)
            inward = rows @ b.to(dy.dtype)
            inward *= scale
            da = (inward.T @ _flat(x if mask is None else x * mask)).to(a.dtype)
            db = (rows.T @ _flat(inner)).to(b.dtype) * scale
            found += None, None, da, db, None
            if ctx.needs_input_grad[0]:
                part = (inward @ a.to(dy.dtype)).view_as(x)
                if mask is not None:
                    part *= mask
                dx = part if dx is None else dx.add_(part)
                _flat(dx).addmm_(rows, weight)
        return dx, None, *found


def _fives(of_layers: Sequence) -> list[Sequence]:
    return [of_layers[i : i + 5] for i in range(0, len(of_layers), 5)]


def _flat(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def autocast_dtype(x: Tensor) -> torch.dtype:
    """In which precision x is multiplied here."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def joint(layers: Sequence[nn.Module], x: Tensor, positions: int = 0) -> tuple[Tensor, ...]:
    """What each of these layers makes of one input (B, L, I).

    positions: of which x holds the last L; what is dropped there is what would be dropped of all. 0 for L.
    """
    if not all(_is_at_once(layer) for layer in layers):
        return tuple(layer(x) for layer in layers)
    dtype = autocast_dtype(x)
    x = x.to(dtype)
    parts, scales = [], []
    for layer in layers:
        base, dropout = layer.base_layer, layer.lora_dropout["default"]
        bias = None if base.bias is None else base.bias.to(dtype)
        drops = layer.training and isinstance(dropout, noise.Dropout)
        mask = dropout.mask(x, positions) if drops else None
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        parts += base.weight.to(dtype), bias, a, b, mask
        scales.append(layer.scaling["default"])
    with torch.autocast(x.device.type, enabled=False):
        return _Adapted.apply(x, tuple(scales), *parts)


def _is_at_once(layer: nn.Module) -> bool:
    return getattr(layer.forward, "func", None) is _forward


def _forward(module: Linear, x: Tensor) -> Tensor:
    return joint((module,), x)[0]


def multiply_at_once(tuned: PeftModel) -> None:
    """Puts this way in the place of PEFT's in a model with one adapter."""
    for module in tuned.modules():
        if isinstance(module, Linear):
            if not isinstance(module.lora_dropout["default"], nn.Identity | noise.Dropout):
                raise TypeError("dropout must be by clip: see noise.Dropout")
            module.forward = partial(_forward, module)

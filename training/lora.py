"""LoRA's products in training as one operation: what PEFT computes, y = W x + b + (alpha / r) B A dropout(x), without
the passes over memory between its steps, and without a copy of the dropped input kept for the gradients."""

from functools import partial

import torch
from peft import PeftModel
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.nn import functional as F

from training import noise
from training.model import autocast_dtype


class _Adapted(torch.autograd.Function):
    """x: (..., I). weight, bias: fixed, (O, I) and (O,). a: (r, I). b: (O, r). mask: of the dropout, None without one.

    Everything is multiplied in x's precision; gradients come in that of the parameters.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float, mask):
        dropped = x if mask is None else x * mask
        inner = F.linear(dropped, a.to(x.dtype))
        y = F.linear(x, weight, bias)
        _flat(y).addmm_(_flat(inner), b.to(x.dtype).T, alpha=scale)
        ctx.save_for_backward(x, weight, a, b, inner, mask)
        ctx.scale = scale
        return y

    @staticmethod
    def backward(ctx, dy: Tensor):
        x, weight, a, b, inner, mask = ctx.saved_tensors
        rows = _flat(dy)
        inward = rows @ b.to(dy.dtype)
        inward *= ctx.scale
        dropped = x if mask is None else x * mask
        da = (inward.T @ _flat(dropped)).to(a.dtype)
        db = (rows.T @ _flat(inner)).to(b.dtype) * ctx.scale
        dx = None
        if ctx.needs_input_grad[0]:
            dx = (inward @ a.to(dy.dtype)).view_as(x)
            if mask is not None:
                dx *= mask
            _flat(dx).addmm_(rows, weight)
        return dx, None, None, da, db, None, None


def _flat(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def _forward(module: Linear, x: Tensor) -> Tensor:
    dtype = autocast_dtype(x)
    base, dropout = module.base_layer, module.lora_dropout["default"]
    bias = None if base.bias is None else base.bias.to(dtype)
    x = x.to(dtype)
    mask = dropout.mask(x) if module.training and isinstance(dropout, noise.Dropout) else None
    with torch.autocast(x.device.type, enabled=False):
        a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
        return _Adapted.apply(x, base.weight.to(dtype), bias, a, b, module.scaling["default"], mask)


def multiply_at_once(tuned: PeftModel) -> None:
    """Puts this way in the place of PEFT's in a model with one adapter."""
    for module in tuned.modules():
        if isinstance(module, Linear):
            if not isinstance(module.lora_dropout["default"], nn.Identity | noise.Dropout):
                raise TypeError("dropout must be by clip: see noise.Dropout")
            module.forward = partial(_forward, module)

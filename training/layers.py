"""The layers of encoder and text model in training: what transformers computes, in fewer passes over memory.

Most of a step of a small model is not its products but what lies between them: the same input rounded for each layer
that reads it, normalisation and rotation in ten operations each, scores of attention written and read five times. The
last layer of the text model computes only the positions that are read behind it.

Shapes: B clips, L positions, D width, H heads of width W.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from training.lora import autocast_dtype, joint

SCORES = 1 << 19  # of attention that are computed at once on a CPU: what its cache holds
SHORT = 1 << 17  # scores of a head up to which they are kept for the gradients in float32, too


def run(way: Callable[..., Tensor], layer: nn.Module, *inputs) -> Tensor:
    """`way(layer, *inputs)`, computed a second time for the gradients where transformers would: see its
    `gradient_checkpointing_enable`."""
    if layer.gradient_checkpointing and layer.training:
        return checkpoint(way, layer, *inputs, use_reentrant=False)
    return way(layer, *inputs)


def encoder_layer(layer: nn.Module, x: Tensor) -> Tensor:
    """A VoxtralEncoderLayer on (B, L, D), all positions of which are heard."""
    own = layer.self_attn
    q, k, v = joint((own.q_proj, own.k_proj, own.v_proj), _layer_norm(layer.self_attn_layer_norm, x))
    seen = _attention(*(_by_head(part, own.head_dim) for part in (q, k, v)), own.scaling)
    x = x + own.out_proj(_merged(seen))
    inner = layer.activation_fn(layer.fc1(_layer_norm(layer.final_layer_norm, x)))
    return x + layer.fc2(inner)


def text_layer(layer: nn.Module, x: Tensor, turns: tuple[Tensor, Tensor], last: int) -> Tensor:
    """A LlamaDecoderLayer on (B, L, D): its last positions (B, last, D).

    turns: cosines and sines (L, W / 2) of each position's rotation.
    """
    own, mlp, length = layer.self_attn, layer.mlp, x.shape[1]
    heard = _rms_norm(layer.input_layernorm, x)
    if last == length:
        q, k, v = joint((own.q_proj, own.k_proj, own.v_proj), heard)
    else:
        x = x[:, -last:]
        (q,) = joint((own.q_proj,), heard[:, -last:], length)
        k, v = joint((own.k_proj, own.v_proj), heard)
    cosines, sines = turns
    q = _Rotated.apply(_by_head(q, own.head_dim), cosines[-last:], sines[-last:])
    k = _Rotated.apply(_by_head(k, own.head_dim), cosines, sines)
    seen = _merged(_attention(q, k, _by_head(v, own.head_dim), own.scaling, causal=True))
    x = x + joint((own.o_proj,), seen, length)[0]
    heard = _rms_norm(layer.post_attention_layernorm, x)
    gate, up = joint((mlp.gate_proj, mlp.up_proj), heard, length)
    return x + joint((mlp.down_proj,), mlp.act_fn(gate) * up, length)[0]


def turns(rotary: nn.Module, length: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines (length, W / 2), by a LlamaRotaryEmbedding: both halves of a head turn alike."""
    positions = torch.arange(length, device=like.device)[None]
    cosines, sines = rotary(like.float(), positions)
    half = cosines.shape[-1] // 2
    return cosines[0, :, :half], sines[0, :, :half]


def rms_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """A LlamaRMSNorm of (..., D) in float32."""
    return _RmsNorm.apply(x.float(), norm.weight, norm.variance_epsilon, torch.float32)


def _rms_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """The same in the precision of what reads it."""
    return _RmsNorm.apply(x.float(), norm.weight, norm.variance_epsilon, autocast_dtype(x))


def _layer_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """Of (B, L, D): rounded once where what reads it is rounded, not for each reader. Sums are in float32."""
    x = x.to(autocast_dtype(x))
    with torch.autocast(x.device.type, enabled=False):
        weight, bias = (norm.weight, norm.bias) if x.device.type == "cpu" else (norm.weight.to(x), norm.bias.to(x))
        return F.layer_norm(x, norm.normalized_shape, weight, bias, norm.eps)


def _by_head(x: Tensor, width: int) -> Tensor:
    """(B, L, H * W) -> (B, H, L, W), a view."""
    return x.unflatten(-1, (-1, width)).transpose(1, 2)


def _merged(x: Tensor) -> Tensor:
    """(B, H, L, W) -> (B, L, H * W)."""
    return x.transpose(1, 2).flatten(2)


class _RmsNorm(torch.autograd.Function):
    """weight * x / sqrt(mean(x²) + epsilon) of x (..., D) float32, rounded to dtype (arXiv:1910.07467)."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype):
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale = size.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight).to(dtype)

    @staticmethod
    def backward(ctx, dy: Tensor):
        x, weight, scale = ctx.saved_tensors
        dy = dy.float()
        unit = x * scale
        dw = (dy * unit).flatten(0, -2).sum(0).to(weight.dtype) if ctx.needs_input_grad[1] else None
        dx = dy * weight
        along = torch.linalg.vecdot(dx, unit)[..., None].div_(-x.shape[-1])
        return dx.addcmul_(unit, along).mul_(scale), dw, None, None


class _Rotated(torch.autograd.Function):
    """x (B, H, L, W) with each position turned: the halves of a head are the two coordinates, as in transformers."""

    @staticmethod
    def forward(ctx, x: Tensor, cosines: Tensor, sines: Tensor):
        ctx.save_for_backward(cosines, sines)
        first, second = x.chunk(2, dim=-1)
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        half = x.shape[-1] // 2
        y[..., :half] = (first * cosines).addcmul_(second, sines, value=-1)
        y[..., half:] = (second * cosines).addcmul_(first, sines)
        return y

    @staticmethod
    def backward(ctx, dy: Tensor):
        cosines, sines = ctx.saved_tensors
        return _Rotated.apply(dy, cosines, -sines), None, None


def _attention(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool = False) -> Tensor:
    """q (B, H, R, W); k, v (B, G, L, W), each for H / G heads: (B, H, R, W). causal: the queries are the last of L
    positions, and none looks behind itself."""
    queries, length = q.shape[2], k.shape[2]
    mask = None
    if causal:
        mask = torch.ones(queries, length, dtype=torch.bool, device=q.device).tril(length - queries)
    short = queries * length <= SHORT or q.dtype is torch.bfloat16  # PyTorch's own takes half as long again there
    if q.device.type == "cpu" and short:
        rows = (q * scale).reshape(len(q) * k.shape[1], -1, q.shape[3])
        mask = None if mask is None else mask.repeat(rows.shape[1] // queries, 1)
        return _Attention.apply(rows, k.flatten(0, 1), v.flatten(0, 1), mask).view(q.shape)
    if q.shape[1] != k.shape[1]:
        k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for part in (k, v))
    if causal and queries == length:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
    return F.scaled_dot_product_attention(q, k, v, mask, scale=scale)


class _Attention(torch.autograd.Function):
    """softmax(q kᵀ) v of q (N, R, W), k and v (N, L, W), mask (R, L): few of N at once, so that their scores stay in
    the cache; the softmax is in float32."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None):
        shares = q.new_empty(len(q), q.shape[1], k.shape[1])
        y = torch.empty_like(q)
        hidden = None if mask is None else ~mask
        for part in _Attention.parts(shares):
            scores = torch.bmm(q[part], k[part].mT).float()
            if hidden is not None:
                scores.masked_fill_(hidden, -torch.inf)
            shares[part] = torch.softmax(scores, dim=-1)
            torch.bmm(shares[part], v[part], out=y[part])
        ctx.save_for_backward(q, k, v, shares, y)
        return y

    @staticmethod
    def backward(ctx, dy: Tensor):
        q, k, v, shares, y = ctx.saved_tensors
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        dy = dy.contiguous()
        along = torch.linalg.vecdot(dy.float(), y.float())[..., None].to(dy.dtype)
        for part in _Attention.parts(shares):
            torch.bmm(shares[part].mT, dy[part], out=dv[part])
            scores = torch.bmm(dy[part], v[part].mT).sub_(along[part]).mul_(shares[part])
            torch.bmm(scores, k[part], out=dq[part])
            torch.bmm(scores.mT, q[part], out=dk[part])
        return dq, dk, dv, None

    @staticmethod
    def parts(shares: Tensor) -> list[slice]:
        size = max(1, SCORES // shares[0].numel())
        return [slice(start, start + size) for start in range(0, len(shares), size)]

"""Kernels of a decoding step on CUDA: all work between two matrix products of a layer, fused into one launch.

A step of a few rows computes so little that its time is the number of launches, a few microseconds each. PyTorch needs
two dozen per layer. Here a layer is its four products, its attention, and four launches:

    rope_and_cache  after the product of queries, keys and values: LoRA, rotary embeddings, keys and values to the cache
    silu_mul        after the product of gate and up: LoRA, and SiLU(gate) times up
    residual_add    after the output and the down product: LoRA, and the sum with the residual stream

RMSNorm (https://arxiv.org/abs/1910.07467) has no launch of its own. It is x / sqrt(mean(x^2) + eps) times a weight. The
root is one number per row, and a product is linear, so the division can follow the product: `residual_add` also returns
x times the weight of the next norm, and sums of squares; the kernel after the next product divides by the root.

Written in Triton, which is installed with PyTorch for CUDA. With TRITON_INTERPRET=1 it runs, slowly, on a CPU.
Shapes: R rows, variant-major; D width; H query heads, K key/value heads, d of a head; L length of the cache.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from transformers import LlamaConfig

try:
    from triton.runtime.cache import triton_key
except ImportError:  # before 3.5
    from triton.compiler.compiler import triton_key

from evoxtral.model.linear import MixedLinear

ROWS = tl.constexpr(16)  # of a tile: the smallest that tensor cores multiply
COLUMNS = tl.constexpr(64)  # of a tile


class Stream(NamedTuple):
    """The residual stream between two layers.

    x (R, D).  weighted (R, D): x times the weight of the next norm.  squares (R, tiles): sums of squares of x.
    """

    x: torch.Tensor
    weighted: torch.Tensor
    squares: torch.Tensor


def begin(x: torch.Tensor, weight: torch.Tensor) -> Stream:
    """The residual stream x (R, D) before the first layer; weight (D,) of that layer's norm."""
    squares = F.pad(x.float().square(), (0, -x.shape[1] % COLUMNS.value))
    tiles = squares.unflatten(1, (-1, COLUMNS.value)).sum(dim=-1)  # as in `residual_add`
    return Stream(x, x * weight, tiles)


def residual_add(linear: MixedLinear, y: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> Stream:
    """x (R, D) plus the output of the linear layer; weight (D,) of the next norm.

    y: the output of `linear.product`, here and below.
    """
    tiles = triton.cdiv(linear.outs, COLUMNS.value)
    out = Stream(torch.empty_like(x), torch.empty_like(x), x.new_empty(len(x), tiles, dtype=torch.float32))
    _residual_add[tiles, *_tiles_of_rows(linear, y)](y, x, weight, *out, **_lora(linear, y))
    return out


def silu_mul(linear: MixedLinear, y: torch.Tensor, squares: torch.Tensor, eps: float) -> torch.Tensor:
    """SiLU(gate) times up (R, outs / 2), with the norm applied. squares: of the stream that `y` was computed from."""
    out = y.new_empty(len(y), linear.outs // 2)
    grid = triton.cdiv(out.shape[1], COLUMNS.value), *_tiles_of_rows(linear, y)
    _silu_mul[grid](y, out, **_norm(linear, squares, eps), **_lora(linear, y))
    return out


def rope_and_cache(
    linear: MixedLinear,
    y: torch.Tensor,
    squares: torch.Tensor,
    eps: float,
    rotary: tuple[torch.Tensor, torch.Tensor],
    position: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
) -> torch.Tensor:
    """Queries (R, H, d), with the norm and rotary embeddings applied; keys and values are written to the cache.

    rotary, position, keys, values: see `Block.step`.
    """
    _, kv_heads, length, d = keys.shape
    heads = linear.outs // d - 2 * kv_heads
    q = y.new_empty(len(y), heads, d)
    _rope_and_cache[heads + 2 * kv_heads, *_tiles_of_rows(linear, y)](
        y, q, keys, values, *rotary, position, length, heads, kv_heads, d,
        **_norm(linear, squares, eps), **_lora(linear, y),
    )  # fmt: skip
    return q


def supports(config: LlamaConfig) -> bool:
    """Whether the kernels support this model: no biases, and a head size that is a power of two and at least 16."""
    biased = config.attention_bias or config.mlp_bias
    return not biased and config.head_dim >= 16 and config.head_dim & (config.head_dim - 1) == 0


def prepare() -> None:
    """Done once while a model loads, so that processes forked later (ZeroGPU forks one per visit) need not repeat it.

    Before its first launch Triton hashes its own library of half a gigabyte, which takes most of a second.
    """
    triton_key()


def _tiles_of_rows(linear: MixedLinear, y: torch.Tensor) -> tuple[int, int]:
    """The last two dimensions of a grid: tiles of rows per variant, and variants."""
    variants = len(linear.mix.active)
    return triton.cdiv(len(y) // variants, ROWS.value), variants


def _lora(linear: MixedLinear, y: torch.Tensor) -> dict:
    """Arguments of `_with_lora` and `_rows`."""
    return {
        "b": linear.lora_b if linear.rank else y,  # without LoRA: any pointer, which is not read
        "adapters": linear.adapter_indices(y.device), "rows": len(y) // len(linear.mix.active), "stride": y.shape[1],
        "outs": linear.outs, "RANK": linear.rank, "PADDED": max(16, triton.next_power_of_2(linear.rank)),
        "WIDTH": linear.width,
    }  # fmt: skip


def _norm(linear: MixedLinear, squares: torch.Tensor, eps: float) -> dict:
    """Arguments of `_scale`."""
    tiles = squares.shape[1]
    return {"squares": squares, "tiles": tiles, "ins": linear.ins, "eps": eps, "TILES": triton.next_power_of_2(tiles)}


@triton.jit(do_not_specialize=["rows"])
def _residual_add(
    y, x, weight, out, weighted, squares, b, adapters, rows, stride, outs,
    RANK: tl.constexpr, PADDED: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row, there = _rows(rows)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < outs
    here, mask = row[:, None] * outs + column[None, :], there[:, None] & inside[None, :]
    tile = _with_lora(y, b, adapters, row, there, column, inside, 0, stride, outs, RANK, PADDED, WIDTH)
    tile += tl.load(x + here, mask=mask, other=0.0).to(tl.float32)
    tile = tile.to(out.dtype.element_ty).to(tl.float32)  # the norm sees the rounded sum, as in PyTorch
    tl.store(out + here, tile, mask=mask)
    tl.store(weighted + here, tile * tl.load(weight + column, mask=inside, other=0.0)[None, :], mask=mask)
    tl.store(squares + row * tl.num_programs(0) + tl.program_id(0), tl.sum(tile * tile, axis=1), mask=there)


@triton.jit(do_not_specialize=["rows"])
def _silu_mul(
    y, out, squares, tiles, ins, eps, b, adapters, rows, stride, outs,
    TILES: tl.constexpr, RANK: tl.constexpr, PADDED: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row, there = _rows(rows)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inner = outs // 2
    inside = column < inner
    scale = _scale(squares, row, there, tiles, ins, eps, TILES)[:, None]
    gated = _with_lora(y, b, adapters, row, there, column, inside, 0, stride, outs, RANK, PADDED, WIDTH)
    up = _with_lora(y, b, adapters, row, there, inner + column, inside, 1, stride, outs, RANK, PADDED, WIDTH)
    gated, up = scale * gated, scale * up
    mask = there[:, None] & inside[None, :]
    tl.store(out + row[:, None] * inner + column[None, :], gated * tl.sigmoid(gated) * up, mask=mask)


@triton.jit(do_not_specialize=["rows"])
def _rope_and_cache(
    y, q, keys, values, cosines, sines, position, length, heads, kv_heads, HEAD: tl.constexpr,
    squares, tiles, ins, eps, b, adapters, rows, stride, outs,
    TILES: tl.constexpr, RANK: tl.constexpr, PADDED: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row, there = _rows(rows)
    head, at = tl.program_id(0), tl.load(position + row, mask=there, other=0)[:, None]
    part = (head >= heads).to(tl.int32) + (head >= heads + kv_heads).to(tl.int32)  # queries, keys, values
    c = tl.arange(0, HEAD)
    inside = c < HEAD  # all of them
    mask = there[:, None] & inside[None, :]
    scale = _scale(squares, row, there, tiles, ins, eps, TILES)[:, None]
    column = head * HEAD + c
    tile = _with_lora(y, b, adapters, row, there, column, inside, part, stride, outs, RANK, PADDED, WIDTH)
    if part < 2:
        column = head * HEAD + (c + HEAD // 2) % HEAD
        other = _with_lora(y, b, adapters, row, there, column, inside, part, stride, outs, RANK, PADDED, WIDTH)
        rotary = at * HEAD + c[None, :]
        tile = tile * tl.load(cosines + rotary).to(tl.float32) + other * tl.load(sines + rotary).to(tl.float32)
    tile *= scale
    if part == 0:
        tl.store(q + (row[:, None] * heads + head) * HEAD + c[None, :], tile, mask=mask)
    else:
        head -= heads + (part - 1) * kv_heads
        here = ((row[:, None].to(tl.int64) * kv_heads + head) * length + at) * HEAD + c[None, :]
        if part == 1:
            tl.store(keys + here, tile, mask=mask)
        else:
            tl.store(values + here, tile, mask=mask)


@triton.jit
def _rows(rows):
    """The rows of this program, and a mask of those that exist."""
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    return tl.program_id(2) * rows + row, row < rows


@triton.jit
def _scale(squares, row, there, tiles, ins, eps, TILES: tl.constexpr):
    """1 / sqrt(mean(x^2) + eps) of some rows."""
    tile = tl.arange(0, TILES)
    inside = there[:, None] & (tile < tiles)[None, :]
    parts = tl.load(squares + row[:, None] * tiles + tile[None, :], mask=inside, other=0.0)
    return tl.rsqrt(tl.sum(parts, axis=1) / ins + eps)


@triton.jit
def _with_lora(
    y, b, adapters, row, there, column, inside, part, stride, outs,
    RANK: tl.constexpr, PADDED: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """A tile of a product's output, float32, plus the LoRA of its variant. part: index of the layer in the product."""
    wide = y + row[:, None] * stride
    tile = tl.load(wide + column[None, :], mask=there[:, None] & inside[None, :], other=0.0).to(tl.float32)
    if RANK:
        adapter = tl.load(adapters + tl.program_id(2))
        if adapter >= 0:
            k = tl.arange(0, PADDED)
            low = outs + adapter * WIDTH + part * RANK + k[None, :]
            low = tl.load(wide + low, mask=there[:, None] & (k < RANK)[None, :], other=0.0)
            matrix = b + (adapter * RANK + k)[:, None] * outs + column[None, :]
            matrix = tl.load(matrix, mask=(k < RANK)[:, None] & inside[None, :], other=0.0)
            tile += tl.dot(low, matrix, input_precision="ieee")
    return tile

"""Weights in 8 and 4 bits for products on a CPU; activations are quantised as they come, with one scale a row.

Int8: w = scale[n] q, one scale for each output n. Int4: w = scale[n] m[n, g] (q - 8), with a whole number m in
-15 … 15 for each group g of inputs, so that m (q - 8) is a weight of Int8: many rows are multiplied by that, and a few
rows by PyTorch's product for 4 bits.

Which of PyTorch's products for 8 bits is fastest depends on the CPU and on the number of rows: it is measured once,
while loading. A scale a row needs no operator that knows about rows: each row is divided by its own largest absolute
value before, and multiplied by it after.

Shapes: N outputs, K inputs, G groups.
"""

import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from threading import BoundedSemaphore

import torch
from torch import nn

from evoxtral.model import backends

GROUP = 64  # inputs that share a multiplier in 4 bits
_MOST = 15  # the largest multiplier: 8 x 15 still fits 8 bits
_FEW = 16  # rows up to which the product for 4 bits is faster than expanding the weights
_LAID_OUT = 1024  # outputs whose 4 bits are laid out at once
_BLOCK = 64  # outputs that PyTorch's layout for 4 bits interleaves
_TINY = 1e-12  # in place of the size of a row of zeros

Product = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Int8:
    """q (N, K) int8 in -127 … 127; scale (N,) float32."""

    q: torch.Tensor
    scale: torch.Tensor

    @classmethod
    def of(cls, weight: torch.Tensor) -> "Int8":
        """weight (N, K) of any precision, rounded to the nearest."""
        scale = weight.abs().amax(dim=1).float().clamp_min(_TINY) / 127
        return cls((weight.float() / scale[:, None]).round_().to(torch.int8), scale)

    @classmethod
    def joined(cls, parts: Sequence["Int8"]) -> "Int8":
        if len(parts) == 1:
            return parts[0]
        return cls(torch.cat([part.q for part in parts]), torch.cat([part.scale for part in parts]))

    def dequantized(self) -> torch.Tensor:
        """(N, K) float32."""
        return self.q.float() * self.scale[:, None]

    def product(self, few: bool) -> Product:
        """x (…, K) -> (…, N).  few: whether most products have a few rows only, as in decoding."""
        return _PRODUCTS[fastest(few)](self)


@dataclass(frozen=True)
class Int4:
    """q (N, K / 2) uint8, an even input in the low half of a byte and the odd one after it in the high half;
    multipliers (N, G) int8, never zero; scale (N,) float32."""

    q: torch.Tensor
    multipliers: torch.Tensor
    scale: torch.Tensor

    @classmethod
    def of(cls, weight: torch.Tensor, group: int = GROUP) -> "Int4":
        """weight (N, K), K a multiple of `group`. Of the multipliers near a group's own size, the one with the least
        squared error is taken."""
        groups = weight.float().unflatten(1, (-1, group))
        high, low = groups.amax(dim=2), groups.amin(dim=2)
        own = torch.where(high > -low, high, low) / -8  # -8 is the only end that reaches the largest weight
        scale = own.abs().amax(dim=1).clamp_min(_TINY) / _MOST
        least = torch.full_like(own, torch.inf)
        best, q = torch.zeros_like(own), torch.zeros_like(groups)
        exact = own / scale[:, None]
        for shift in (0, -1, 1):  # in units of the multiplier, away from zero
            m = exact.sign() * (exact.abs().round() + shift).clamp(1, _MOST)
            step = (m * scale[:, None])[..., None]
            rounded = (groups / step).round_().clamp_(-8, 7)
            error = (rounded * step - groups).square_().sum(dim=2)
            better = error < least
            least, best = torch.where(better, error, least), torch.where(better, m, best)
            q = torch.where(better[..., None], rounded, q)
        best[best == 0] = 1
        q = q.add_(8).to(torch.uint8).flatten(1)
        return cls(q[:, ::2] | (q[:, 1::2] << 4), best.to(torch.int8), scale)

    @classmethod
    def joined(cls, parts: Sequence["Int4"]) -> "Int4":
        if len(parts) == 1:
            return parts[0]
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in ("q", "multipliers", "scale")))

    @property
    def group(self) -> int:
        return 2 * self.q.shape[1] // self.multipliers.shape[1]

    def codes(self) -> torch.Tensor:
        """q of every weight, (N, K) uint8 in 0 … 15."""
        return torch.stack([self.q & 15, self.q >> 4], dim=2).flatten(1)

    def dequantized(self) -> torch.Tensor:
        """(N, K) float32."""
        steps = self.multipliers * self.scale[:, None]
        return ((self.codes().float() - 8).unflatten(1, (-1, self.group)) * steps[..., None]).flatten(1)

    def product(self, few: bool) -> Product:
        """x (…, K) -> (…, N)."""
        return _Int4Product(self)


Quantized = Int8 | Int4


def fits_int4(outs: int, ins: int, group: int = GROUP) -> bool:
    """Whether a layer's shape is one that the products for 4 bits know."""
    return outs % _BLOCK == 0 and ins % group == 0


class StoredLinear(nn.Linear):
    """A linear layer whose weights are still in a file. Its own `weight` has no memory, only a shape.

    dtype: in which its adapters and what is left of it are kept.  few: see `Int8.product`.
    """

    def __init__(self, like: nn.Linear, read: Callable[[], Quantized], dtype: torch.dtype, few: bool):
        nn.Module.__init__(self)
        self.in_features, self.out_features = like.in_features, like.out_features
        self.weight, self.bias = like.weight, like.bias
        self.read, self.dtype, self.few = read, dtype, few


class QuantizedEmbedding(nn.Module):
    """Embeddings in 8 bits, one scale for each token."""

    def __init__(self, weight: Int8, dtype: torch.dtype):
        super().__init__()
        self.q, self.scale, self.dtype = weight.q, weight.scale, dtype

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """tokens (…) -> (…, D)."""
        return (self.q[tokens] * self.scale[tokens][..., None]).to(self.dtype)


# ------------------------------------------------------------------------------------------------------- products


def _sizes(x: torch.Tensor) -> torch.Tensor:
    """The largest absolute value of each row of x (…, K): (…, 1) float32."""
    return x.abs().amax(dim=-1, keepdim=True).float().clamp_min_(_TINY)


def _relative(x: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """x (…, K) in units of its rows' sizes (…, 1), a float32 copy. In steps, as mixed dtypes would be copied twice."""
    return x.to(torch.float32, copy=True).mul_(sizes.reciprocal())


def _fbgemm(weight: Int8) -> Product:
    """FBGEMM's scale is one for all of x: rows are brought to the same size first."""
    packed = _packed_by_fbgemm(weight.q, weight.scale)
    return partial(_by_fbgemm, packed=packed, reduce_range=_fbgemm_saturates())


def _packed_by_fbgemm(q: torch.Tensor, scale: torch.Tensor) -> torch.ScriptObject:
    with warnings.catch_warnings():  # PyTorch means to drop quantised tensors; oneDNN's product would stand in then
        warnings.filterwarnings("ignore", "torch.quantize_per_tensor")
        zeros = torch.zeros(len(q), dtype=torch.int64)
        quantized = torch._make_per_channel_quantized_tensor(q, scale.double(), zeros, 0)
    return torch.ops.quantized.linear_prepack(quantized, None)


def _by_fbgemm(x: torch.Tensor, packed: torch.ScriptObject, reduce_range: bool) -> torch.Tensor:
    sizes = _sizes(x)
    return torch.ops.quantized.linear_dynamic(_relative(x, sizes), packed, reduce_range).mul_(sizes).to(x.dtype)


@cache
def _fbgemm_saturates() -> bool:
    """Whether FBGEMM adds pairs of products in 16 bits, as it does where VNNI is missing: 2 x 255 x 127 is too much
    for them, and activations then have 7 bits."""
    ones = torch.full((64, 64), 127, dtype=torch.int8)
    packed = _packed_by_fbgemm(ones, torch.ones(64))
    y = torch.ops.quantized.linear_dynamic(torch.ones(1, 64), packed, False)
    return not torch.allclose(y, torch.full_like(y, 64.0 * 127), rtol=0.01)


def _onednn(weight: Int8) -> Product:
    # Activations must be unsigned: with signed ones oneDNN falls back to a reference that is a hundred times slower.
    packed = torch.ops.onednn.qlinear_prepack(weight.q.contiguous(), None)
    zeros = torch.zeros(len(weight.q), dtype=torch.int64)
    return partial(_by_onednn, packed=packed, scale=weight.scale, zeros=zeros)


def _by_onednn(x: torch.Tensor, packed: torch.Tensor, scale: torch.Tensor, zeros: torch.Tensor) -> torch.Tensor:
    sizes = _sizes(x).div_(127)
    q = _relative(x, sizes).round_().add_(128).to(torch.uint8).flatten(0, -2)
    y = torch.ops.onednn.qlinear_pointwise(
        q, 1.0, 128, packed, scale, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return y.view(*x.shape[:-1], -1).mul_(sizes).to(x.dtype)


def _plain(weight: Int8) -> Product:
    """Weights as they are in the file: nothing has to be laid out. As fast as the others for many rows."""
    return partial(_by_plain, transposed=weight.q.t(), scale=weight.scale)


def _by_plain(x: torch.Tensor, transposed: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    sizes = _sizes(x).div_(127)
    q = _relative(x, sizes).round_().to(torch.int8).flatten(0, -2)
    y = torch._int_mm(q, transposed).float()
    return y.view(*x.shape[:-1], -1).mul_(sizes).mul_(scale).to(x.dtype)


_PRODUCTS: dict[str, Callable[[Int8], Product]] = {"FBGEMM": _fbgemm, "oneDNN": _onednn, "plain": _plain}


def _candidates() -> Iterable[str]:
    if backends.fbgemm_is_here():
        yield "FBGEMM"
    if torch.backends.mkldnn.is_available():
        yield "oneDNN"
    yield "plain"


@cache
@torch.inference_mode()
def fastest(few: bool) -> str:
    """The fastest product in 8 bits on this CPU.

    few: for decoding, which multiplies 3 rows 128 times for every 12 chunks of 96 rows of a prompt; else for the
    encoder's 1500 rows. Takes half a second, once in a process.
    """
    generator = torch.Generator().manual_seed(0)
    ins, outs = (3072, 4096) if few else (1280, 1280)
    weight = Int8(torch.randint(-127, 128, (outs, ins), dtype=torch.int8, generator=generator), torch.ones(outs))
    mixture = {3: 128, 96: 12} if few else {1500: 1}

    def duration(name: str) -> float:
        product = _PRODUCTS[name](weight)
        rows = {count: torch.randn(count, ins, generator=generator) for count in mixture}
        return sum(n * backends.shortest_duration(partial(product, rows[count])) for count, n in mixture.items())

    return min(_candidates(), key=duration)


class _Int4Product:
    """Weights in PyTorch's layout for 4 bits: (N / 64, K, 32) bytes, of which the low half is output n and the high
    half output n + 32."""

    def __init__(self, weight: Int4):
        outs, self.group = len(weight.q), weight.group
        parts = (part.int() for part in weight.codes().split(_LAID_OUT))  # at once: PyTorch takes 4 bytes for each code
        self.packed = torch.cat([torch.ops.aten._convert_weight_to_int4pack_for_cpu(part, 1) for part in parts])
        steps = (weight.multipliers * weight.scale[:, None]).t().bfloat16()
        self.steps = torch.stack([steps, torch.zeros_like(steps)], dim=2)  # scale and zero of each group, (G, N, 2)
        self.multipliers = weight.multipliers.view(outs // _BLOCK, _BLOCK, -1).transpose(1, 2).contiguous()
        self.scale = weight.scale

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.numel() // x.shape[-1]
        if rows <= _FEW or not _layout_is_known():
            flat = x.reshape(rows, -1).bfloat16().contiguous()
            y = torch.ops.aten._weight_int4pack_mm_for_cpu(flat, self.packed, self.group, self.steps)
            return y.view(*x.shape[:-1], -1).to(x.dtype)
        return _by_plain(x, self.expanded(), self.scale)

    def expanded(self) -> torch.Tensor:
        """m (q - 8) of every weight, (K, N) int8."""
        blocks, groups = self.multipliers.shape[:2]
        bytes_ = self.packed.view(blocks, groups, self.group, _BLOCK // 2)
        out = torch.empty(groups, self.group, blocks, _BLOCK, dtype=torch.int8)
        into, m = out.permute(2, 0, 1, 3), self.multipliers[:, :, None]
        half = _BLOCK // 2
        torch.mul((bytes_ & 15).view(torch.int8).sub_(8), m[..., :half], out=into[..., :half])
        torch.mul((bytes_ >> 4).view(torch.int8).sub_(8), m[..., half:], out=into[..., half:])
        return out.view(groups * self.group, blocks * _BLOCK)


@cache
def _layout_is_known() -> bool:
    """Whether PyTorch lays 4 bits out on this CPU as `_Int4Product.expanded` reads them; with AVX2 it does not."""
    weight = Int4.of(torch.randn(2 * _BLOCK, 64, generator=torch.Generator().manual_seed(0)), 32)
    expanded = _Int4Product(weight).expanded().t().float() * weight.scale[:, None]
    return torch.allclose(expanded, weight.dequantized(), rtol=1e-5, atol=1e-7)


# --------------------------------------------------------------------------------------------------------- loading

_PENDING = 4  # layers that are read and laid out at the same time, at most: bounds peak memory


class Loader:
    """Reads layers and lays them out, several at a time: both take a core seconds for each gigabyte."""

    def __init__(self):
        self._pool = ThreadPoolExecutor(os.process_cpu_count() if hasattr(os, "process_cpu_count") else os.cpu_count())
        self._room = BoundedSemaphore(_PENDING)

    def product(self, layers: Sequence[StoredLinear]) -> "Future[Product]":
        """The product of layers with the same input, one below the other."""
        self._room.acquire()
        future = self._pool.submit(_product, [layer.read for layer in layers], layers[0].few)
        future.add_done_callback(lambda _: self._room.release())
        return future


@torch.inference_mode()
def _product(reads: Sequence[Callable[[], Quantized]], few: bool) -> Product:
    parts = [read() for read in reads]
    return type(parts[0]).joined(parts).product(few)


LOADER = Loader()

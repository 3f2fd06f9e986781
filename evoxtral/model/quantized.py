"""Weights in 8 and 4 bits for products on a CPU; activations are quantised as they come, with one scale a row.

Int8: w = scale[n] q, one scale for each output n. Int4: w = scale[n] (q a / 16 + b - 128) with whole numbers a and b
for each group of 32 inputs, so that such a weight is almost one of Int8. Both are stored in panels, see `panels`, as
its functions read them; PyTorch's own products for 8 bits want the plain matrix.

Which product for 8 bits is fastest depends on the CPU and on the number of rows: it is measured once, while loading. A
scale a row needs no operator that knows about rows: each row is divided by its own largest absolute value before, and
multiplied by it after.

Shapes: N outputs, K inputs, G groups.
"""

import math
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from threading import BoundedSemaphore

import torch
from torch import nn

from evoxtral.model import backends, panels
from evoxtral.model.memory import together

GROUP = panels.GROUP
_SHARES = (1.0, 0.92, 0.84)  # of a group's range that its 16 steps may span: what lies beyond is cut
_LAID_OUT = panels.PANEL  # outputs that are quantised or laid out at once: they stay in a cache
_TINY = 1e-12  # in place of the size of a row of zeros
_PATIENCE = 1.25  # how much longer panels may take than another product, whose weights are packed at every start

Product = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Int8:
    """q (N, K) int8 in -127 … 127, or the same plus 128 in panels (N / 64, K / 4, 64, 4) uint8; scale (N,) float32."""

    q: torch.Tensor
    scale: torch.Tensor

    @classmethod
    def of(cls, weight: torch.Tensor) -> "Int8":
        """weight (N, K) of any precision, rounded to the nearest."""
        scale = weight.abs().amax(dim=1).float().clamp_min(_TINY) / 127
        return cls((weight.float() / scale[:, None]).round_().to(torch.int8), scale)

    @classmethod
    def joined(cls, parts: Sequence["Int8"]) -> "Int8":
        """Copies, one below the other."""
        if not all(panels.fit(len(part.scale), part.ins) for part in parts):
            parts = [part.plain() for part in parts]
        return cls(together([part.q for part in parts]), torch.cat([part.scale for part in parts]))

    @property
    def ins(self) -> int:
        return self.q.numel() // len(self.scale)

    def plain(self) -> "Int8":
        """With q as a matrix."""
        if self.q.ndim == 2:
            return self
        return Int8((panels.to_bytes(self.q) ^ 128).view(torch.int8), self.scale)

    def in_panels(self) -> "Int8":
        """With q in panels, for a shape that fits them."""
        if self.q.ndim == 4:
            return self
        return Int8(panels.of_bytes(self.q.view(torch.uint8) ^ 128), self.scale)

    def dequantized(self) -> torch.Tensor:
        """(N, K) float32."""
        return self.plain().q.float() * self.scale[:, None]

    def product(self, few: bool) -> Product:
        """x (…, K) -> (…, N).  few: whether most products have a few rows only, as in decoding."""
        return _PRODUCTS[fastest(few, panels.fit(len(self.scale), self.ins))](self)


@dataclass(frozen=True)
class Int4:
    """q (N / 64, K / 8, 64, 4) uint8, two codes in each, and a, b (N / 64, G, 64) uint8, in panels; scale (N,)."""

    q: torch.Tensor
    a: torch.Tensor
    b: torch.Tensor
    scale: torch.Tensor

    @classmethod
    def of(cls, weight: torch.Tensor) -> "Int4":
        """weight (N, K) of any precision, of a shape that fits panels."""
        parts = [_codes(part.float()) for part in weight.split(_LAID_OUT)]
        q, a, b, scale = (torch.cat(column) for column in zip(*parts, strict=True))
        return cls(panels.of_codes(q), panels.of_groups(a), panels.of_groups(b), scale)

    @classmethod
    def joined(cls, parts: Sequence["Int4"]) -> "Int4":
        """Copies, one below the other."""
        return cls(*(together([getattr(part, name) for part in parts]) for name in ("q", "a", "b", "scale")))

    def steps(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The size of a step, and what the code 0 is, of each group (N, G) float32."""
        a, b = panels.to_groups(self.a).float(), panels.to_groups(self.b).float()
        return a / 16 * self.scale[:, None], (b - 128) * self.scale[:, None]

    def codes(self) -> torch.Tensor:
        """q of every weight, (N, K) uint8 in 0 … 15."""
        return panels.to_codes(self.q)

    def dequantized(self) -> torch.Tensor:
        """(N, K) float32."""
        step, zero = self.steps()
        return (self.codes().unflatten(1, (-1, GROUP)) * step[..., None] + zero[..., None]).flatten(1)

    def product(self, few: bool) -> Product:
        """x (…, K) -> (…, N)."""
        ours = panels.functions()
        if ours:
            return partial(ours.product, weight=self.q, scale=self.scale, a=self.a, b=self.b)
        return _by_pytorch_in_4_bits(self)


def _codes(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """q (N, K), a, b (N, G) and scale (N,) of a weight (N, K) float32, with the least squared error of some trials.

    A group's steps span its range or a little less of it, and are then fitted to the codes that this gives.
    """
    scale = weight.abs().amax(dim=1).clamp_min_(_TINY) / 126  # the last step may end a little beyond the largest weight
    w = weight.unflatten(1, (-1, GROUP)) / scale[:, None, None]
    low, high = w.amin(dim=2), w.amax(dim=2)
    mean, half = w.mean(dim=2), (high - low) / 2
    least, q = torch.full_like(low, torch.inf), torch.zeros_like(w)
    a, b = torch.ones_like(low), torch.full_like(low, 128)

    def tried(step: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
        """The codes of these steps; kept where they are better than what there is."""
        nonlocal least, q, a, b
        own_b = (zero + 128).round_().clamp_(1, 250)
        own_a = torch.minimum((16 * step).round_(), (255 - own_b).mul_(16 / 15).floor_()).clamp_(1, 255)  # fits 8 bits
        steps, zeros = (own_a / 16)[..., None], (own_b - 128)[..., None]
        codes = ((w - zeros) / steps).round_().clamp_(0, 15)
        error = (codes * steps + zeros).sub_(w).square_().sum(dim=2)
        better = error < least
        least, a, b = (torch.where(better, new, old) for new, old in ((error, least), (own_a, a), (own_b, b)))
        q = torch.where(better[..., None], codes, q)
        return codes

    for share in _SHARES:
        codes = tried(2 * share * half / 15, low + (1 - share) * half)
        centred = codes - (own := codes.mean(dim=2))[..., None]
        step = (centred * w).sum(dim=2) / centred.square().sum(dim=2).clamp_min_(_TINY)  # of the line through w
        tried(step, mean - step * own)
    return q.to(torch.uint8).flatten(1), a.to(torch.uint8), b.to(torch.uint8), scale


Quantized = Int8 | Int4


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
    packed = _packed_by_fbgemm(weight.plain().q, weight.scale)
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
    packed = torch.ops.onednn.qlinear_prepack(weight.plain().q.contiguous(), None)
    zeros = torch.zeros(len(weight.scale), dtype=torch.int64)
    return partial(_by_onednn, packed=packed, scale=weight.scale, zeros=zeros)


def _by_onednn(x: torch.Tensor, packed: torch.Tensor, scale: torch.Tensor, zeros: torch.Tensor) -> torch.Tensor:
    sizes = _sizes(x).div_(127)
    q = _relative(x, sizes).round_().add_(128).to(torch.uint8).flatten(0, -2)
    y = torch.ops.onednn.qlinear_pointwise(
        q, 1.0, 128, packed, scale, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return y.view(*x.shape[:-1], -1).mul_(sizes).to(x.dtype)


def _plain(weight: Int8) -> Product:
    return partial(_by_plain, transposed=weight.plain().q.t(), scale=weight.scale)


def _by_plain(x: torch.Tensor, transposed: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    sizes = _sizes(x).div_(127)
    q = _relative(x, sizes).round_().to(torch.int8).flatten(0, -2)
    y = torch._int_mm(q, transposed).float()
    return y.view(*x.shape[:-1], -1).mul_(sizes).mul_(scale).to(x.dtype)


def in_panels(weight: Int8) -> Product:
    """Weights as they are in the file: nothing has to be laid out."""
    return partial(panels.functions().product, weight=weight.in_panels().q, scale=weight.scale)


_PRODUCTS: dict[str, Callable[[Int8], Product]] = {
    "panels": in_panels,
    "FBGEMM": _fbgemm,
    "oneDNN": _onednn,
    "plain": _plain,
}


def _candidates(fits_panels: bool = True) -> Iterable[str]:
    if fits_panels and panels.functions():
        yield "panels"
    if backends.fbgemm_is_here():
        yield "FBGEMM"
    if torch.backends.mkldnn.is_available():
        yield "oneDNN"
    yield "plain"


@cache
@torch.inference_mode()
def fastest(few: bool, fits_panels: bool = True) -> str:
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

    durations = {name: duration(name) for name in _candidates(fits_panels)}
    best = min(durations, key=durations.__getitem__)
    return "panels" if durations.get("panels", math.inf) <= _PATIENCE * durations[best] else best


def _by_pytorch_in_4_bits(weight: Int4) -> Product:
    """PyTorch's product of 4 bits, where `panels` has none: w = (q - 8) scale + zero for each group, in bfloat16."""
    parts = (part.int() for part in weight.codes().split(_LAID_OUT))  # PyTorch takes 4 bytes for each code
    packed = torch.cat([torch.ops.aten._convert_weight_to_int4pack_for_cpu(part, 1) for part in parts])
    step, zero = weight.steps()
    both = torch.stack([step.t(), (zero + 8 * step).t()], dim=2).bfloat16()

    def product(x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(0, -2).bfloat16().contiguous()
        y = torch.ops.aten._weight_int4pack_mm_for_cpu(flat, packed, GROUP, both)
        return y.view(*x.shape[:-1], -1).to(x.dtype)

    return product


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

"""Linear layers for batches whose rows belong to different variants: one product for the base, plus each row's LoRA.

The base weight W is stored once and read once per batch. The rows of a batch are variant-major, a block of rows
for each variant, so that the adapters of a batch apply as a few batched products (or embedding bags). The same holds in
the audio tower and the projector, where the leading dimension is windows.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from itertools import groupby

import torch
from torch import nn

from evoxtral.model import backends, panels
from evoxtral.model.lora import BASE, Adapter
from evoxtral.model.panels import Jobs
from evoxtral.model.quantized import LOADER, StoredLinear

_BAGS = 1536  # up to this rows x r, a CPU in bfloat16 multiplies by B as embedding bags


class _Batch(threading.local):
    """What a thread multiplies now."""

    active: tuple[str, ...] = (BASE,)
    sizes: tuple[int, ...] | None = None


class Mix:
    """Which variants the rows of the current batch belong to; shared by all layers of one model.

    variants: BASE, then the adapters in the order given.  active: those of this thread's batch, a block of rows each.
    sizes: rows of each block, None where all are equal.
    """

    def __init__(self, adapters: Sequence[Adapter]):
        self._touched = {adapter.name: frozenset(adapter.weights) for adapter in adapters}
        self.variants = (BASE, *self._touched)
        self._batch = _Batch()

    @property
    def active(self) -> tuple[str, ...]:
        return self._batch.active

    @property
    def sizes(self) -> tuple[int, ...] | None:
        return self._batch.sizes

    @contextmanager
    def using(self, variants: Sequence[str], sizes: Sequence[int] | None = None) -> Iterator[None]:
        """Within this context, a batch has one block of rows per variant, in `self.variants` order.

        sizes: rows of each, of one position; more rows may follow, which have no adapter. None for equal blocks.
        """
        batch = self._batch
        before = batch.active, batch.sizes
        batch.active, batch.sizes = tuple(variants), None if sizes is None else tuple(sizes)
        try:
            yield
        finally:
            batch.active, batch.sizes = before

    def ordered(self, variants: Iterable[str]) -> tuple[str, ...]:
        """The given variants without repeats, in the order of `self.variants`."""
        asked = set(variants)
        return tuple(variant for variant in self.variants if variant in asked)

    def touches(self, variant: str, *parts: str) -> bool:
        """Whether a variant differs from the base in any of these module paths (TOWER, PROJECTOR)."""
        return any(path.startswith(f"{part}.") for path in self._touched.get(variant, ()) for part in parts)


class MixedLinear(nn.Module):
    """Linear layers with the same input, as one product, with the LoRA of each row's own adapter.

    weight (outs + N x layers x r, in): the weights of the layers one below the other, then the A of all N adapters. A
    few more rows in one product are cheaper than a small product of their own, which would take a third as long.
    lora_b (N, r, outs): the B of all adapters, the layers side by side. With embedding bags each layer has its own
    instead. r is the largest rank, rounded up to a multiple of 8. Smaller adapters are padded with zeros; an adapter
    that does not change these layers is all zeros.
    Quantised layers (StoredLinear) are a product of their own, and their adapters are `Beside` it.
    """

    def __init__(self, layers: Mapping[str, nn.Linear], adapters: Sequence[Adapter], mix: Mix, device: torch.device):
        """Moves the matrices of these layers out of `adapters`, to `device`.

        layers: module path -> linear layer.
        """
        super().__init__()
        linears = list(layers.values())
        self._sizes = [linear.out_features for linear in linears]
        quantized = [linear for linear in linears if isinstance(linear, StoredLinear)]
        weights = [] if quantized else [linear.weight.to(device) for linear in linears]
        like = torch.empty(0, linears[0].in_features, dtype=quantized[0].dtype) if quantized else weights[0]
        dtype = backends.activations(like.dtype, device)
        self.mix = mix
        self.changed_by = frozenset(a.name for a in adapters if any(path in a.weights for path in layers))
        self.ins, self.outs = linears[0].in_features, sum(self._sizes)
        self.rank = self.width = 0  # outputs of an adapter's A: for one layer, and for all layers
        self._index_of = {adapter.name: n for n, adapter in enumerate(adapters)}
        self._plans: dict[tuple[tuple[str, ...], bool], list[tuple[int, int, tuple[torch.Tensor, ...]]]] = {}
        self._active_indices: dict[tuple[str, ...], torch.Tensor] = {}
        bags = dtype is torch.bfloat16 and device.type == "cpu" and backends.fbgemm_is_here()
        self._bags_up_to = _BAGS if bags else 0
        self._matrices: list[torch.Tensor] = []
        self.beside: Beside | None = None
        if self.changed_by and quantized:
            self.beside = Beside(layers, [a for a in adapters if a.name in self.changed_by], like.dtype)
        elif self.changed_by:
            lora_a, lora_b = _stacked(layers, adapters, like, dtype)
            self.rank, self.width = lora_b.shape[1], len(lora_a) // len(adapters)
            weights.append(lora_a)
            if self._bags_up_to:  # an embedding bag would copy a tensor that is not contiguous, at every call
                self._matrices = [part.contiguous() for part in lora_b.split(self._sizes, dim=-1)]
            else:
                self.register_buffer("lora_b", lora_b, persistent=False)
        self.weight = _join(weights) if weights else None
        self.bias = None
        if any(linear.bias is not None for linear in linears):  # zero for layers without one, and for the adapters' A
            rows = len(self.weight) if self.weight is not None else self.outs
            bias = torch.zeros(rows, dtype=dtype, device=device)
            for linear, part in zip(linears, bias[: self.outs].split(self._sizes), strict=True):
                if linear.bias is not None:
                    part.copy_(linear.bias.detach())
            self.bias = nn.Parameter(bias, requires_grad=False)
        self._prepacked: Callable[[torch.Tensor], torch.Tensor] | None = None
        self.quantized = LOADER.product(quantized) if quantized else None

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """x (rows, …, in) times the weights and the A of all adapters -> (rows, …, outs + N x layers x r)."""
        return self._prepacked(x) if self._prepacked else nn.functional.linear(x, self.weight, self.bias)

    def _quantized(self, x: torch.Tensor) -> torch.Tensor:
        """As `forward`, of quantised layers."""
        y = self.quantized.result()(x)
        if self.bias is not None:
            y += self.bias
        if self.beside:
            active, sizes, count = self.mix.active, self.mix.sizes, y.numel() // self.outs
            sizes = sizes or (count // len(active),) * len(active)
            self.beside.add(x.reshape(count, -1), y.view(count, -1), active, sizes)
        return y

    def adapter_indices(self, device: torch.device) -> torch.Tensor:
        """Index of the adapter of each block of the current batch, (blocks,); -1 for none."""
        active = self.mix.active
        if active not in self._active_indices:
            indices = [self._index_of[name] if name in self.changed_by else -1 for name in active]
            self._active_indices[active] = torch.tensor(indices, dtype=torch.int32, device=device)
        return self._active_indices[active]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (rows, …, in), variant-major -> (rows, …, outs), a view."""
        if self.quantized:
            return self._quantized(x)
        y = self.product(x)
        if not self.changed_by:
            return y
        active, sizes, wide = self.mix.active, self.mix.sizes, y.shape[-1]
        together = sizes is None or len(set(sizes)) == 1
        if (active, together) not in self._plans:
            self._plans[active, together] = self._plan(active, together)
        rows = y.numel() // (wide * len(active))  # of each block, times positions
        # `as_strided` makes each view in one call (of the outputs, and of x A for the block's own adapter). Slicing
        # would take several, and while a short prompt is processed a GPU waits for the host.
        for block, index, matrices in self._plans[active, together]:
            if sizes is not None:
                rows = sizes[block]
            first = block * rows if together else sum(sizes[:block])
            column = first * wide
            own = column + self.outs + index * self.width
            for b in matrices:
                count, rank, outs = b.shape
                changed = y.as_strided((count, rows, outs), (rows * wide, wide, 1), column)
                low = y.as_strided((count, rows, rank), (rows * wide + self.width, wide, 1), own)
                column, own = column + outs, own + rank
                if rows * rank <= self._bags_up_to:
                    changed.add_(_bags(low, b))
                else:
                    changed.baddbmm_(low, b)
        return y.narrow(-1, 0, self.outs)

    def prepack(self) -> "MixedLinear":
        """On a CPU, convert the weight to the blocked layout of oneDNN or FBGEMM, permanently.

        With plain weights PyTorch multiplies a few rows far below memory bandwidth: three rows take five times as long
        as prepacked in float32, and twice as long in bfloat16 (docs/speed.md).
        """
        packed = None if self.weight is None else _packed(self.weight, self.bias)
        if packed:
            self._prepacked = packed
            self.weight = self.bias = None
        return self

    def _plan(self, active: tuple[str, ...], together: bool) -> list[tuple[int, int, tuple[torch.Tensor, ...]]]:
        """For each run of blocks with consecutive adapters, or for each block if not `together`: the first block, the
        index of its adapter, and for each layer the B of the whole run, (blocks, r, outs).
        """
        matrices = self._matrices or self.lora_b.split(self._sizes, dim=-1)
        pairs = [(block, self._index_of[name]) for block, name in enumerate(active) if name in self.changed_by]
        plan = []
        for _, run in groupby(pairs, lambda pair: pair[1] - pair[0] if together else pair):
            run = list(run)
            (block, index), (last, _) = run[0], run[-1]
            plan.append((block, index, tuple(b[index : index + last - block + 1] for b in matrices)))
        return plan


class Beside:
    """The adapters of quantised layers with the same input, as they are saved: of each layer A (r, in), B (outs, r).

    Few rows are multiplied by functions of our own, see `panels`, which read all of them once; many by PyTorch.
    """

    def __init__(self, layers: Mapping[str, nn.Linear], adapters: Sequence[Adapter], dtype: torch.dtype):
        """Moves the matrices of these layers out of `adapters`, each of which changes one of them at least.

        dtype: of the matrices.
        """
        self._outs = [linear.out_features for linear in layers.values()]
        ranks = [a.weights[path][0].shape[0] for a in adapters for path in layers if path in a.weights]
        self._rank = -(-max(ranks) // panels.GROUP) * panels.GROUP
        self._pairs: dict[str, list[tuple[int, torch.Tensor, torch.Tensor]]] = {}  # adapter -> number of a layer, A, B
        for adapter in adapters:
            found = [(i, *adapter.weights.pop(path)) for i, path in enumerate(layers) if path in adapter.weights]
            self._pairs[adapter.name] = [(i, *self._padded(a.to(dtype), b.to(dtype))) for i, a, b in found]
        fits = all(panels.fit(linear.out_features, linear.in_features) for linear in layers.values())
        pairs = backends.activations(dtype, torch.device("cpu")), dtype
        self._functions = panels.functions() if fits and pairs in panels.BESIDE.items() else None
        self._jobs: dict[tuple[tuple[str, ...], tuple[int, ...]], tuple[Jobs, Jobs]] = {}

    def _padded(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        missing = self._rank - len(a)
        pad = nn.functional.pad
        return (pad(a, (0, 0, 0, missing)), pad(b, (0, missing))) if missing else (a.contiguous(), b.contiguous())

    def add(self, x: torch.Tensor, y: torch.Tensor, active: tuple[str, ...], sizes: tuple[int, ...]) -> None:
        """Add to y (rows, all outs) what x (rows, in) gives.  active, sizes: see `Mix`."""
        if self._functions and max(sizes) * self._rank <= _BAGS:
            if (active, sizes) not in self._jobs:
                self._jobs = {(active, sizes): self._jobs_of(active, sizes, x.shape[1])}
            lows, highs = self._jobs[active, sizes]
            if lows.jobs:
                self._functions.adapt(x.contiguous(), y, lows, highs, self._rank, len(self._outs) * self._rank)
            return
        first = 0
        for name, rows in zip(active, sizes, strict=True):
            for i, a, b in self._pairs.get(name, ()):
                low = nn.functional.linear(x[first : first + rows], a.to(x.dtype))
                changed = y[first : first + rows].split(self._outs, dim=1)[i]
                changed[None].baddbmm_(low[None], b.to(x.dtype).T.contiguous()[None])
            first += rows

    def _jobs_of(self, active: tuple[str, ...], sizes: tuple[int, ...], ins: int) -> tuple[Jobs, Jobs]:
        """The products by A and those by B, of the blocks of a batch."""
        lows, highs, first, wide = [], [], 0, len(self._outs) * self._rank
        for name, rows in zip(active, sizes, strict=True):
            for i, a, b in self._pairs.get(name, ()):
                own = first * wide + i * self._rank
                lows.append((first * ins, rows, a, own))
                highs.append((own, rows, b, first * sum(self._outs) + sum(self._outs[:i])))
            first += rows
        return Jobs(lows), Jobs(highs)


def _packed(weight: torch.Tensor, bias: torch.Tensor | None) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """The product of a weight (outs, in) on a CPU, in the layout of FBGEMM or oneDNN; None where neither has it."""
    if backends.fbgemm_supports(weight.dtype, weight.device):
        packed = torch.ops.quantized.linear_prepack_fp16(weight.float(), bias)
        return partial(torch.ops.quantized.linear_dynamic_fp16, W_prepack=packed)
    if backends.onednn_supports(weight):
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach())
        return partial(backends.onednn_linear, weight=packed, bias=bias)
    return None


def _stacked(
    layers: Mapping[str, nn.Linear],
    adapters: Sequence[Adapter],
    weight: torch.Tensor,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The matrices of all adapters for layers with the same input, as MixedLinear stores them: A (N x layers x r, in)
    in the dtype of the weights, and B (N, r, outs) in the dtype of the activations.

    They are removed from the adapters, or else they would be in memory twice until all layers are built.
    """
    rank = max(a.weights[path][0].shape[0] for a in adapters for path in layers if path in a.weights)
    rank = -(-rank // 8) * 8  # keeps rows of a product aligned to 16 bytes, which attention on a GPU needs
    outs = [linear.out_features for linear in layers.values()]
    whole = all(path in a.weights and a.weights[path][0].shape[0] == rank for a in adapters for path in layers)
    new = weight.new_empty if whole else weight.new_zeros  # zeros take a quarter of the loading time
    lora_a = new(len(adapters), len(layers) * rank, weight.shape[1])
    lora_b = new(len(adapters), rank, sum(outs), dtype=dtype)
    for n, adapter in enumerate(adapters):
        for i, path in enumerate(layers):
            if path in adapter.weights:
                a, b = adapter.weights.pop(path)
                row, column = i * rank, sum(outs[:i])
                lora_a[n, row : row + a.shape[0]] = a
                lora_b[n, : b.shape[1], column : column + b.shape[0]] = b.T
    return lora_a.flatten(0, 1), lora_b


def _bags(low: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """low (n, rows, r) @ b (n, r, outs) -> (n, rows, outs), each row a weighted sum of rows of b, by FBGEMM.

    In bfloat16 PyTorch would call oneDNN, which takes twice as long for the few rows of a step, and keeps 0.6 to 2 MB
    for every shape. Above _BAGS oneDNN is so much faster that the memory is worth it.
    """
    n, rows, rank = low.shape
    weights = low.reshape(-1, rank)
    bags = nn.functional.embedding_bag(_rows_of(n, rows, rank), b.flatten(0, 1), mode="sum", per_sample_weights=weights)
    return bags.view(n, rows, -1)


@lru_cache(512)
def _rows_of(n: int, rows: int, rank: int) -> torch.Tensor:
    """For each row, the indices of the rows of the flattened B that it sums: (n x rows, r)."""
    return torch.arange(n * rank, dtype=torch.int32).view(n, 1, rank).expand(n, rows, rank).reshape(-1, rank)


def _join(parts: Sequence[torch.Tensor]) -> nn.Parameter:
    joined = parts[0] if len(parts) == 1 else torch.cat(list(parts))  # a single part is not copied
    return nn.Parameter(joined.detach(), requires_grad=False)


def joined(
    owner: nn.Module, path: str, names: Sequence[str], adapters: Sequence[Adapter], mix: Mix, device: torch.device
) -> MixedLinear:
    """Linear layers of the module `owner`, whose path is `path`, as one prepacked MixedLinear; `owner` loses them."""
    paths = {name: f"{path}.{name}" if path else name for name in names}
    mixed = MixedLinear({paths[name]: owner.get_submodule(name) for name in names}, adapters, mix, device)
    for name in names:
        delattr(owner, name)  # free the originals before prepacking makes a copy
    return mixed.prepack()


def wait_for_quantized(module: nn.Module) -> None:
    """Until all quantised layers of a module are read and laid out. Raises what went wrong with one."""
    for layer in module.modules():
        if isinstance(layer, MixedLinear) and layer.quantized:
            layer.quantized.result()

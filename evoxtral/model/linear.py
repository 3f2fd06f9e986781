"""Linear layers whose rows belong to different variants: one product for the base, and each row's own LoRA beside it.

The base weight W is held once and read once for a whole batch; the rows of the batch are variant-major, (V, rows of one
variant, …), so that all adapters of a batch apply as a few batched products (or bags), whatever the number of variants.
That holds in the audio tower and the projector as well, where the leading dimension is windows.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from itertools import groupby

import torch
from torch import nn

from evoxtral.model import backends
from evoxtral.model.lora import BASE, Adapter

_BAGS = 1536  # rows x r, up to which a CPU multiplies by B as bags in bfloat16


class Mix:
    """Which variants the rows of the current batch belong to; shared by all layers of one model.

    variants: BASE, then the adapters in the order given. Not thread-safe: whoever runs the model holds a lock
    while `using` is open.
    """

    def __init__(self, adapters: Sequence[Adapter]):
        self._touched = {adapter.name: frozenset(adapter.weights) for adapter in adapters}
        self.variants = (BASE, *self._touched)
        self.active: tuple[str, ...] = (BASE,)

    @contextmanager
    def using(self, variants: Sequence[str]) -> Iterator[None]:
        """While open, a batch has one block of rows per variant, equal in size, in `self.variants` order."""
        before, self.active = self.active, tuple(variants)
        try:
            yield
        finally:
            self.active = before

    def ordered(self, variants: Iterable[str]) -> tuple[str, ...]:
        """The distinct ones of some variants, in the order of `self.variants`."""
        asked = set(variants)
        return tuple(variant for variant in self.variants if variant in asked)

    def touches(self, variant: str, *parts: str) -> bool:
        """Whether a variant differs from the base in any of these module paths (TOWER, PROJECTOR)."""
        return any(path.startswith(f"{part}.") for path in self._touched.get(variant, ()) for part in parts)


class MixedLinear(nn.Module):
    """Linear layers that read the same input, as one product, with the LoRA of each row's own adapter.

    weight (outs + N x layers x r, in) is the layers' weights one after the other, and below them the A of all N
    adapters: a few rows more of the one product that is read for, instead of a small one of their own, which
    would take a third as long. lora_b (N, r, outs) holds the B of all adapters, those of the layers side by side;
    where they are taken as bags, each layer has its own.
    r is the largest rank, or the next multiple of 8: what is missing to it is zeros, as is all of an adapter that
    leaves these layers alone.
    """

    def __init__(self, layers: Mapping[str, nn.Linear], adapters: Sequence[Adapter], mix: Mix, device: torch.device):
        """Takes the layers' matrices out of the adapters, to where the model runs.

        layers: module path -> linear layer.
        """
        super().__init__()
        linears = list(layers.values())
        self._sizes = [linear.out_features for linear in linears]
        weights = [linear.weight.to(device) for linear in linears]
        dtype = backends.activations(weights[0].dtype, device)
        self.mix = mix
        self.changed_by = frozenset(a.name for a in adapters if any(path in a.weights for path in layers))
        self.ins, self.outs = weights[0].shape[1], sum(self._sizes)
        self.rank = self.width = 0  # of an adapter's A for one layer, and of all it makes of a row
        self._slots = {adapter.name: n for n, adapter in enumerate(adapters)}
        self._plans: dict[tuple[str, ...], list[tuple[int, int, tuple[torch.Tensor, ...]]]] = {}
        self._active_slots: dict[tuple[str, ...], torch.Tensor] = {}
        bags = dtype is torch.bfloat16 and device.type == "cpu" and backends.fbgemm_is_here()
        self._bags_up_to = _BAGS if bags else 0
        self._matrices: list[torch.Tensor] = []
        if self.changed_by:
            lora_a, lora_b = _stacked(layers, adapters, weights[0], dtype)
            self.rank, self.width = lora_b.shape[1], len(lora_a) // len(adapters)
            weights.append(lora_a)
            if self._bags_up_to:  # an embedding bag would copy what is not by itself, at every call
                self._matrices = [part.contiguous() for part in lora_b.split(self._sizes, dim=-1)]
            else:
                self.register_buffer("lora_b", lora_b, persistent=False)
        self.weight = _join(weights)
        self.bias = None
        if any(linear.bias is not None for linear in linears):  # zeros for the others, and behind an adapter's A
            bias = torch.zeros(len(self.weight), dtype=dtype, device=device)
            for linear, part in zip(linears, bias[: self.outs].split(self._sizes), strict=True):
                if linear.bias is not None:
                    part.copy_(linear.bias.detach())
            self.bias = nn.Parameter(bias, requires_grad=False)
        self._prepacked: Callable[[torch.Tensor], torch.Tensor] | None = None

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """x (rows, …, in) by the weights, and after them by the A of all adapters: (rows, …, outs + N x layers x r)."""
        return self._prepacked(x) if self._prepacked else nn.functional.linear(x, self.weight, self.bias)

    def slots(self, device: torch.device) -> torch.Tensor:
        """Which adapter changes each block of the current batch, (blocks,); -1 for none."""
        active = self.mix.active
        if active not in self._active_slots:
            slots = [self._slots[name] if name in self.changed_by else -1 for name in active]
            self._active_slots[active] = torch.tensor(slots, dtype=torch.int32, device=device)
        return self._active_slots[active]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (rows, …, in), variant-major. Gives (rows, …, outs), a view."""
        y = self.product(x)
        if not self.changed_by:
            return y
        active, wide = self.mix.active, y.shape[-1]
        if active not in self._plans:
            self._plans[active] = self._plan(active)
        rows = y.numel() // (wide * len(active))  # of each block, positions counted
        # Views by their strides, of what is changed and of its own adapter's part of each block: slices of slices are
        # a call each, and while a short prompt is read it is the host that a GPU waits for.
        for block, slot, matrices in self._plans[active]:
            first = block * rows * wide
            column, own = first, first + self.outs + slot * self.width
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
        """On a CPU lay out the weight in the blocks that oneDNN or FBGEMM reads, for good.

        PyTorch multiplies plain weights by a few rows at a fraction of the memory's speed: three rows in float32
        take five times as long as packed, in bfloat16 twice (docs/speed.md).
        """
        if backends.fbgemm_supports(self.weight.dtype, self.weight.device):
            packed = torch.ops.quantized.linear_prepack_fp16(self.weight.float(), self.bias)
            self._prepacked = partial(torch.ops.quantized.linear_dynamic_fp16, W_prepack=packed)
            self.weight = self.bias = None
        elif backends.onednn_supports(self.weight):
            packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach())
            self._prepacked = partial(backends.onednn_linear, weight=packed, bias=self.bias)
            self.weight = None
        return self

    def _plan(self, active: tuple[str, ...]) -> list[tuple[int, int, tuple[torch.Tensor, ...]]]:
        """For each run of blocks with neighbouring adapters: its first block, that one's adapter, and the B of all of
        them, (blocks, r, outs) for each layer."""
        matrices = self._matrices or self.lora_b.split(self._sizes, dim=-1)
        pairs = [(block, self._slots[name]) for block, name in enumerate(active) if name in self.changed_by]
        plan = []
        for _, run in groupby(pairs, lambda pair: pair[1] - pair[0]):
            run = list(run)
            (block, slot), (last, _) = run[0], run[-1]
            plan.append((block, slot, tuple(b[slot : slot + last - block + 1] for b in matrices)))
        return plan


def _stacked(
    layers: Mapping[str, nn.Linear],
    adapters: Sequence[Adapter],
    weight: torch.Tensor,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The matrices of all adapters for layers that read the same input, as MixedLinear holds them: A
    (N x layers x r, in) like the layers' weight, and B in the dtype of what it is multiplied with.

    They are taken out of the adapters, which would otherwise be in memory twice until all layers are made.
    """
    rank = max(a.weights[path][0].shape[0] for a in adapters for path in layers if path in a.weights)
    rank = -(-rank // 8) * 8  # so that rows of a product begin where a GPU's attention can read 16 bytes at a time
    outs = [linear.out_features for linear in layers.values()]
    lora_a = weight.new_zeros(len(adapters), len(layers) * rank, weight.shape[1])
    lora_b = weight.new_zeros(len(adapters), rank, sum(outs), dtype=dtype)
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

    In bfloat16 PyTorch would hand the product to oneDNN, which takes twice as long for a step's few rows, and keeps
    0.6 to 2 MB for every shape, a step's and a prompt's. Above _BAGS oneDNN is so much quicker that it is worth them.
    """
    n, rows, rank = low.shape
    weights = low.reshape(-1, rank)
    bags = nn.functional.embedding_bag(_rows_of(n, rows, rank), b.flatten(0, 1), mode="sum", per_sample_weights=weights)
    return bags.view(n, rows, -1)


@lru_cache(64)
def _rows_of(n: int, rows: int, rank: int) -> torch.Tensor:
    """Which rows of B, flattened, each row sums: (n x rows, r)."""
    return torch.arange(n * rank, dtype=torch.int32).view(n, 1, rank).expand(n, rows, rank).reshape(-1, rank)


def _join(parts: Sequence[torch.Tensor]) -> nn.Parameter:
    joined = parts[0] if len(parts) == 1 else torch.cat(list(parts))  # one part stays where it is
    return nn.Parameter(joined.detach(), requires_grad=False)


def joined(
    owner: nn.Module, path: str, names: Sequence[str], adapters: Sequence[Adapter], mix: Mix, device: torch.device
) -> MixedLinear:
    """Linear layers of one module, at the path `path`, as a settled mixed one; they are taken out of the module."""
    paths = {name: f"{path}.{name}" if path else name for name in names}
    mixed = MixedLinear({paths[name]: owner.get_submodule(name) for name in names}, adapters, mix, device)
    for name in names:
        delattr(owner, name)  # what was joined is freed before it is laid out anew
    return mixed.prepack()

"""LoRA adapters on one base: read and checked from their files, applied to mixed batches, or merged.

Low-rank adaptation (https://arxiv.org/abs/2106.09685): y = W x + (alpha / r) B A x. Here the base weight W is
held once and read once for a whole batch; the rows of the batch are variant-major, (V, rows of one variant,
…), so that all adapters of a batch apply as a few batched products (or bags), whatever the number of variants. That
holds in the audio tower and the projector as well, where the leading dimension is windows.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import groupby
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from evoxtral.errors import CheckpointError, reading

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
TOWER, PROJECTOR = "model.audio_tower", "model.multi_modal_projector"
BASE = "base"  # the variant without an adapter

# Transformers 4 nested the text model differently; adapters saved with it keep its names.
_RENAMED_IN_TRANSFORMERS_5 = (
    (re.compile(r"^language_model\.model\."), "model.language_model."),
    (re.compile(r"^language_model\.lm_head"), "lm_head"),
    (re.compile(r"^(audio_tower|multi_modal_projector)\."), r"model.\1."),
)
_KEY = re.compile(r"^(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<side>[AB])(?:\.\w+)?\.weight$")
# Settings that change what an adapter computes, which nothing here implements: refused, never ignored.
_MUST_BE_UNSET = (
    "use_dora", "use_qalora", "lora_bias", "modules_to_save", "trainable_token_indices",
    "layers_to_transform", "layers_pattern", "exclude_modules", "target_parameters", "rank_pattern",
    "alpha_pattern", "layer_replication", "megatron_config", "fan_in_fan_out", "alora_invocation_tokens",
)  # fmt: skip
_NEEDED = {"r": int, "lora_alpha": (int, float), "target_modules": (str, list)}
# Other initialisations (PiSSA, OLoRA, CorDA, LoftQ) rewrite W itself, and the adapter fits that W alone.
_INITS_THAT_KEEP_THE_BASE = (True, False, "gaussian", "eva", "orthogonal")
_NAMED = 3  # how many keys an error names
_BAGS = 1536  # rows x r, up to which a CPU multiplies by B as bags in bfloat16


@dataclass(frozen=True)
class LoraRecipe:
    """The published adapters' shape. Targets match by suffix, so q/k/v reach the audio tower too."""

    r: int = 64
    alpha: int = 128
    dropout: float = 0.05
    targets: tuple[str, ...] = (
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
        "multi_modal_projector.linear_1", "multi_modal_projector.linear_2",
    )  # fmt: skip

    def parameters(self, model: nn.Module) -> int:
        """How many parameters these adapters would have on a model (which may be on the meta device)."""
        return sum(self.r * (m.in_features + m.out_features) for _, m in targeted(model, self.targets))


@dataclass(frozen=True)
class Adapter:
    """One adapter whose every tensor fits a slot of its base.

    weights: module path -> (A (r, in), B (out, r)), the scale alpha / r already in B.
    """

    name: str
    weights: dict[str, tuple[torch.Tensor, torch.Tensor]] = field(repr=False)

    @property
    def parameters(self) -> int:
        return sum(a.numel() + b.numel() for a, b in self.weights.values())


def targeted(model: nn.Module, targets: str | Iterable[str]) -> Iterator[tuple[str, nn.Linear]]:
    """Linear layers that `target_modules` selects, as PEFT does: by suffixes, or one regular expression."""
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear) and _selects(targets, path):
            yield path, module


def _selects(targets: str | Iterable[str], path: str) -> bool:
    if targets == "all-linear":
        return path != "lm_head"
    if isinstance(targets, str):
        return any(re.fullmatch(targets, name) for name in (path, _transformers_4_path(path)))
    return any(path == target or path.endswith("." + target) for target in targets)


def _transformers_4_path(path: str) -> str:
    path = path.replace("model.language_model.", "language_model.model.", 1)
    return re.sub(r"^model\.(audio_tower|multi_modal_projector)\.", r"\1.", path)


def _transformers_5_path(path: str) -> str:
    for pattern, replacement in _RENAMED_IN_TRANSFORMERS_5:
        path = pattern.sub(replacement, path)
    return path


# ------------------------------------------------------------------------------------------------------- read


def read(folder: str | Path, model: nn.Module, name: str, dtype: torch.dtype | None = None) -> Adapter:
    """Read an adapter that PEFT saved, and check that all of it fits `model`.

    folder: holds adapter_config.json and adapter_model.safetensors. Names of transformers 4 and 5 are both
    understood.  dtype: None for that of the file. Raises CheckpointError, and the first names, when a file is
    missing or damaged, a setting is not supported, a tensor has no place, a slot stays empty, a rank or a shape is
    wrong, or a number is not finite.
    """
    config = _read_config(Path(folder), name)
    sides = _sides(_read_tensors(Path(folder), name), name)
    with reading(Path(folder) / CONFIG_FILE, re.error):
        slots = dict(targeted(model, config["target_modules"]))
    strangers = sorted(path for path in sides if path not in slots)
    if strangers:
        raise CheckpointError(
            f"Adapter {name!r} was made for another base ({_base_of(config)}): "
            f"{len(strangers)} of its layers have no place in this one ({first_of(strangers)})."
        )
    for path, pair in sides.items():
        _check_shapes(name, path, pair, slots[path], config)
    empty = sorted(f"{path}.lora_{s}" for path in slots for s in "AB" if s not in sides.get(path, {}))
    if empty:
        raise CheckpointError(
            f"Adapter {name!r} is incomplete, or was made for another base ({_base_of(config)}): "
            f"{len(empty)} of its {2 * len(slots)} tensors are missing here ({first_of(empty)}); "
            "download or save it again, or use it with its own base."
        )
    rank = config["r"]
    scale = config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)
    weights = {}
    for path in slots:
        pair = sides.pop(path)  # copied: as long as one view of a file's memory is held, all of it is
        weights[path] = pair["A"].to(dtype, copy=True), (pair["B"] * scale).to(dtype)
        for side, matrix in zip("AB", weights[path], strict=True):
            if not matrix.isfinite().all():
                raise CheckpointError(
                    f"Adapter {name!r} holds numbers that are not finite ({path}.lora_{side}): its training went "
                    "wrong; use an earlier state of it."
                )
    return Adapter(name, weights)


def read_json(file: Path) -> dict:
    """The object that a JSON file holds. Raises CheckpointError."""
    with reading(file):
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise TypeError("no JSON object")
        return content


def _read_config(folder: Path, name: str) -> dict:
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise CheckpointError(f"{folder} is no adapter: it has no {CONFIG_FILE}.")
    config = read_json(file)
    if config.get("peft_type", "LORA") != "LORA":
        raise CheckpointError(f"Adapter {name!r} is of type {config['peft_type']}; only LoRA adapters can be used.")
    unsupported = [key for key in _MUST_BE_UNSET if config.get(key)]
    if config.get("bias", "none") != "none":
        unsupported.append("bias")
    if config.get("init_lora_weights", True) not in _INITS_THAT_KEEP_THE_BASE:
        unsupported.append("init_lora_weights")
    if unsupported:
        raise CheckpointError(
            f"Adapter {name!r} uses {', '.join(unsupported)}, which cannot be applied to mixed batches; "
            "train it as plain LoRA, or merge it into its base."
        )
    unusable = [key for key, kind in _NEEDED.items() if not config.get(key) or not isinstance(config[key], kind)]
    if unusable:
        raise CheckpointError(f"Adapter {name!r} has no usable {', '.join(unusable)} in {file}; save it again.")
    return config


def _read_tensors(folder: Path, name: str) -> dict[str, torch.Tensor]:
    file = folder / WEIGHTS_FILE
    if not file.is_file():
        raise CheckpointError(f"Adapter {name!r} has no weights: {file} is missing.")
    with reading(file, SafetensorError):
        return load_file(file)


def _sides(tensors: Mapping[str, torch.Tensor], name: str) -> dict[str, dict[str, torch.Tensor]]:
    """Module path, in the names of transformers 5 -> {"A": …, "B": …}."""
    sides: dict[str, dict[str, torch.Tensor]] = {}
    unknown = []
    for key, tensor in tensors.items():
        match = _KEY.match(key)
        slot = sides.setdefault(_transformers_5_path(match["module"]), {}) if match else {}
        if match and match["side"] not in slot:
            slot[match["side"]] = tensor
        else:
            unknown.append(key)  # or the second for its place: the same layer under both of its names
    if unknown:
        raise CheckpointError(
            f"Adapter {name!r} holds {len(unknown)} tensors that are not LoRA matrices, or there twice "
            f"({first_of(sorted(unknown))})."
        )
    return sides


def _check_shapes(name: str, path: str, pair: Mapping[str, torch.Tensor], module: nn.Linear, config: Mapping) -> None:
    rank = config["r"]
    for side, fits in {"A": (rank, module.in_features), "B": (module.out_features, rank)}.items():
        shape = tuple(pair[side].shape) if side in pair else fits
        if (shape[:1] if side == "A" else shape[-1:]) != (rank,):
            raise CheckpointError(
                f"Adapter {name!r} says rank {rank}, but its {path}.lora_{side} is {shape}; "
                "its two files do not belong together."
            )
        if shape != fits:
            raise CheckpointError(
                f"Adapter {name!r} was made for another base ({_base_of(config)}): "
                f"its {path}.lora_{side} is {shape} there and {fits} here."
            )


def _base_of(config: Mapping) -> str:
    return config.get("base_model_name_or_path") or "not named"


def first_of(names: Sequence[str]) -> str:
    """The first few names, for an error."""
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")


# ------------------------------------------------------------------------------------------------------ apply


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
        dtype = activations(weights[0].dtype, device)
        self.mix = mix
        self.changed_by = frozenset(a.name for a in adapters if any(path in a.weights for path in layers))
        self.ins, self.outs = weights[0].shape[1], sum(self._sizes)
        self.rank = self.width = 0  # of an adapter's A for one layer, and of all it makes of a row
        self._slots = {adapter.name: n for n, adapter in enumerate(adapters)}
        self._plans: dict[tuple[str, ...], list[tuple[int, int, tuple[torch.Tensor, ...]]]] = {}
        self._active_slots: dict[tuple[str, ...], torch.Tensor] = {}
        self._bags_up_to = _BAGS if dtype is torch.bfloat16 and device.type == "cpu" and _fbgemm_is_here() else 0
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
        self._settled: Callable[[torch.Tensor], torch.Tensor] | None = None

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """x (rows, …, in) by the weights, and after them by the A of all adapters: (rows, …, outs + N x layers x r)."""
        return self._settled(x) if self._settled else nn.functional.linear(x, self.weight, self.bias)

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

    def settle(self) -> "MixedLinear":
        """On a CPU lay out the weight in the blocks that oneDNN or FBGEMM reads, for good.

        PyTorch multiplies plain weights by a few rows at a fraction of the memory's speed: three rows in float32
        take five times as long as packed, in bfloat16 twice (docs/speed.md).
        """
        if fbgemm_takes(self.weight.dtype, self.weight.device):
            packed = torch.ops.quantized.linear_prepack_fp16(self.weight.float(), self.bias)
            self._settled = partial(torch.ops.quantized.linear_dynamic_fp16, W_prepack=packed)
            self.weight = self.bias = None
        elif onednn_takes(self.weight):
            packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach())
            self._settled = partial(onednn_linear, weight=packed, bias=self.bias)
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


def activations(weights: torch.dtype, device: torch.device) -> torch.dtype:
    """The precision of what weights of this one are multiplied with, and of what comes out."""
    return torch.float32 if fbgemm_takes(weights, device) else weights


def fbgemm_takes(weights: torch.dtype, device: torch.device) -> bool:
    """Whether FBGEMM multiplies weights like these here: float16 in memory, float32 in the product.

    So a CPU without instructions for 16 bits reads half as much. Weights published in bfloat16 lose nothing: from
    7.6e-6 on float16 has all their digits, and below it is 3e-8 off at most.
    """
    return weights is torch.float16 and device.type == "cpu" and _fbgemm_is_here()


def _fbgemm_is_here() -> bool:
    return torch.backends.quantized.engine in ("fbgemm", "x86")


def onednn_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x (…, in), weight (outs, in), plain or packed -> (…, outs)."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def onednn_takes(x: torch.Tensor) -> bool:
    """Whether oneDNN multiplies tensors like this one here."""
    if x.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return x.dtype is torch.float32 or (x.dtype is torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def joined(
    owner: nn.Module, path: str, names: Sequence[str], adapters: Sequence[Adapter], mix: Mix, device: torch.device
) -> MixedLinear:
    """Linear layers of one module, at the path `path`, as a settled mixed one; they are taken out of the module."""
    paths = {name: f"{path}.{name}" if path else name for name in names}
    mixed = MixedLinear({paths[name]: owner.get_submodule(name) for name in names}, adapters, mix, device)
    for name in names:
        delattr(owner, name)  # what was joined is freed before it is laid out anew
    return mixed.settle()


def merge(model: nn.Module, adapter: Adapter) -> None:
    """Fold an adapter into its base's weights, in place: W + (alpha / r) B A, computed in float32."""
    with torch.no_grad():
        for path, (a, b) in adapter.weights.items():
            weight = model.get_submodule(path).weight
            delta = b.to(weight.device, torch.float32) @ a.to(weight.device, torch.float32)
            weight.copy_(weight.float() + delta)

"""LoRA adapters as PEFT saves them: read, checked against a base, or merged into it.

Low-rank adaptation (https://arxiv.org/abs/2106.09685): y = W x + (alpha / r) B A x. `linear` applies it.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from evoxtral.errors import CheckpointError, reading
from evoxtral.model.memory import blank

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
    "target_parameters", "layer_replication", "megatron_config", "fan_in_fan_out", "alora_invocation_tokens",
)  # fmt: skip
_NEEDED = {"r": int, "lora_alpha": (int, float), "target_modules": (str, list)}
_PATTERNS = {"rank_pattern": int, "alpha_pattern": (int, float)}  # name or pattern of layers -> their own value
# Other initialisations (PiSSA, OLoRA, CorDA, LoftQ) rewrite W itself, and the adapter fits that W alone.
_INITS_THAT_KEEP_THE_BASE = (True, False, "gaussian", "eva", "orthogonal")
_NAMED = 3  # how many keys an error names


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

    weights: module path -> (A (r, in), B (out, r)), the scale alpha / r already in B; r may differ between them.
    """

    name: str
    weights: dict[str, tuple[torch.Tensor, torch.Tensor]] = field(repr=False)

    @property
    def parameters(self) -> int:
        return sum(a.numel() + b.numel() for a, b in self.weights.values())


def targeted(model: nn.Module, targets: str | Iterable[str]) -> Iterator[tuple[str, nn.Linear]]:
    """Linear layers that `target_modules` selects, as PEFT does: by suffixes, or one regular expression."""
    return _selected(model, {"target_modules": targets})


def _selected(model: nn.Module, config: Mapping) -> Iterator[tuple[str, nn.Linear]]:
    """Linear layers that a PEFT configuration selects by target_modules, less exclude_modules, and of layers_pattern
    those of layers_to_transform alone."""
    for path, module in model.named_modules():
        if not isinstance(module, nn.Linear) or not _names(config["target_modules"], path):
            continue
        excluded = config.get("exclude_modules")
        if not (excluded and _names(excluded, path)) and _is_of_its_layers(config, path):
            yield path, module


def _names(targets: str | Iterable[str], path: str) -> bool:
    """Whether a regular expression, or one of several suffixes, names a module in either transformers' names."""
    if targets == "all-linear":
        return path != "lm_head"
    both = path, _transformers_4_path(path)
    if isinstance(targets, str):
        return any(re.fullmatch(targets, name) for name in both)
    return any(name == target or name.endswith("." + target) for target in targets for name in both)


def _is_of_its_layers(config: Mapping, path: str) -> bool:
    """As PEFT reads layers_to_transform: the first number in a path says which layer it is of."""
    targets, layers = config["target_modules"], config.get("layers_to_transform")
    if layers is None or layers == [] or isinstance(targets, str) or path in targets:
        return True
    patterns = config.get("layers_pattern") or r"[^.]*"
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        if found := re.match(rf"(?:^|.*?\.){pattern}\.(?P<layer>\d+)\.", path):
            return int(found["layer"]) in ([layers] if isinstance(layers, int) else layers)
    return False


def _own(config: Mapping, pattern: str, default: str, path: str) -> float:
    """A layer's own rank or alpha, of the first entry of a pattern that names it; else the adapter's."""
    for key, value in (config.get(pattern) or {}).items():
        if any(re.match(rf"(.*\.)?({key})$", name) for name in (path, _transformers_4_path(path))):
            return value
    return config[default]


def _transformers_4_path(path: str) -> str:
    path = path.replace("model.language_model.", "language_model.model.", 1)
    return re.sub(r"^model\.(audio_tower|multi_modal_projector)\.", r"\1.", path)


def transformers_5_path(path: str) -> str:
    """The path of a module or a tensor as transformers 5 has it, from either's."""
    for pattern, replacement in _RENAMED_IN_TRANSFORMERS_5:
        path = pattern.sub(replacement, path)
    return path


def read(
    folder: str | Path, model: nn.Module, name: str, dtype: torch.dtype = torch.float32, stays: bool = False
) -> Adapter:
    """Read an adapter that PEFT saved, and check that all of it fits `model`.

    folder: holds adapter_config.json and adapter_model.safetensors. Names of transformers 4 and 5 are both
    understood.  dtype: of the matrices; the scale is applied in float32 before.  stays: they will be used as they are,
    and lie in one block of huge pages; else each has memory of its own, which is freed when it is moved.  Weights of
    the base beside them, which PEFT saves where lm_head is adapted, must be those of `model`; on the meta device only
    their shapes are compared.  Raises CheckpointError, and the first names, when a file is missing or damaged, a
    setting is not supported, a tensor has no place, a slot stays empty, a rank or a shape is wrong, or a number is not
    finite.
    """
    config = _read_config(Path(folder), name)
    sides, others = _sides(_read_tensors(Path(folder), name), name)
    _check_untouched(name, others, model)
    with reading(Path(folder) / CONFIG_FILE, re.error):
        slots = dict(_selected(model, config))
        ranks = {path: _own(config, "rank_pattern", "r", path) for path in slots}
        alphas = {path: _own(config, "alpha_pattern", "lora_alpha", path) for path in slots}
    strangers = sorted(path for path in sides if path not in slots)
    if strangers:
        raise CheckpointError(
            f"Adapter {name!r} was made for another base ({_base_of(config)}): "
            f"{len(strangers)} of its layers have no place in this one ({first_of(strangers)})."
        )
    for path, pair in sides.items():
        _check_shapes(name, path, pair, slots[path], ranks[path], _base_of(config))
    empty = sorted(f"{path}.lora_{s}" for path in slots for s in "AB" if s not in sides.get(path, {}))
    if empty:
        raise CheckpointError(
            f"Adapter {name!r} is incomplete, or was made for another base ({_base_of(config)}): "
            f"{len(empty)} of its {2 * len(slots)} tensors are missing here ({first_of(empty)}); "
            "download or save it again, or use it with its own base."
        )
    weights = {}
    block = blank(dtype.itemsize * sum(m.numel() for pair in sides.values() for m in pair.values())) if stays else None
    for path, rank in ranks.items():
        scale = alphas[path] / (math.sqrt(rank) if config.get("use_rslora") else rank)
        pair = sides.pop(path)
        matrices = []
        for side, matrix in (("A", pair["A"]), ("B", _times(pair["B"], scale, dtype))):
            # A copy: as long as one view of a file's memory is held, all of it is.
            size = dtype.itemsize * matrix.numel()
            own = torch.empty(size, dtype=torch.uint8) if block is None else block[:size]
            block = block if block is None else block[size:]
            matrices.append(own.view(dtype).view(matrix.shape).copy_(matrix))
            total = matrices[-1].sum(dtype=torch.float32 if dtype is torch.float16 else None)
            if not total.isfinite():  # many times as fast as to ask each number
                raise CheckpointError(
                    f"Adapter {name!r} holds numbers that are not finite ({path}.lora_{side}): its training went "
                    "wrong; use an earlier state of it."
                )
        weights[path] = tuple(matrices)
    return Adapter(name, weights)


def _times(matrix: torch.Tensor, scale: float, dtype: torch.dtype) -> torch.Tensor:
    """A matrix times a number, to be rounded once to `dtype`: PyTorch multiplies 16 bits by a number in float32."""
    return matrix * scale if matrix.dtype is dtype else matrix.float() * scale


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
    for key, kind in _PATTERNS.items():
        own = config.get(key) or {}
        if not isinstance(own, dict) or not all(isinstance(value, kind) and value > 0 for value in own.values()):
            unusable.append(key)
    if unusable:
        raise CheckpointError(f"Adapter {name!r} has no usable {', '.join(unusable)} in {file}; save it again.")
    return config


def _read_tensors(folder: Path, name: str) -> dict[str, torch.Tensor]:
    file = folder / WEIGHTS_FILE
    if not file.is_file():
        raise CheckpointError(f"Adapter {name!r} has no weights: {file} is missing.")
    with reading(file, SafetensorError):
        return load_file(file)


def _sides(
    tensors: Mapping[str, torch.Tensor], name: str
) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    """Module path, in the names of transformers 5 -> {"A": …, "B": …}; and what is no LoRA matrix, by its key."""
    sides: dict[str, dict[str, torch.Tensor]] = {}
    twice, others = [], {}
    for key, tensor in tensors.items():
        match = _KEY.match(key)
        if not match:
            others[key] = tensor
            continue
        slot = sides.setdefault(transformers_5_path(match["module"]), {})
        if match["side"] in slot:
            twice.append(key)  # the same layer under both of its names
        slot[match["side"]] = tensor
    if twice:
        raise CheckpointError(
            f"Adapter {name!r} holds {len(twice)} tensors that are there twice ({first_of(sorted(twice))})."
        )
    return sides, others


def _check_untouched(name: str, others: Mapping[str, torch.Tensor], model: nn.Module) -> None:
    """Whether what an adapter holds beside its matrices are weights of this base, none of them trained."""
    weights = dict(model.named_parameters())
    unknown, trained = [], []
    for key, tensor in others.items():
        path = transformers_5_path(key.removeprefix("base_model.model.").replace(".base_layer.", "."))
        if path not in weights:
            unknown.append(key)
        elif not _same(tensor, weights[path]):
            trained.append(key)
    if unknown:
        raise CheckpointError(
            f"Adapter {name!r} holds {len(unknown)} tensors that are not LoRA matrices ({first_of(sorted(unknown))})."
        )
    if trained:
        raise CheckpointError(
            f"Adapter {name!r} holds weights beside its LoRA matrices that are not those of this base "
            f"({first_of(sorted(trained))}), which cannot be applied to mixed batches; merge it into its own base."
        )


def _same(saved: torch.Tensor, weight: torch.Tensor) -> bool:
    """Equal, as far as the coarser of two dtypes tells; on the meta device the shapes."""
    if saved.shape != weight.shape or weight.is_meta:
        return saved.shape == weight.shape
    weight = weight.detach().to(saved.device)
    return torch.equal(saved, weight.to(saved.dtype)) or torch.equal(saved.to(weight.dtype), weight)


def _check_shapes(
    name: str, path: str, pair: Mapping[str, torch.Tensor], module: nn.Linear, rank: int, base: str
) -> None:
    for side, fits in {"A": (rank, module.in_features), "B": (module.out_features, rank)}.items():
        shape = tuple(pair[side].shape) if side in pair else fits
        if (shape[:1] if side == "A" else shape[-1:]) != (rank,):
            raise CheckpointError(
                f"Adapter {name!r} says rank {rank}, but its {path}.lora_{side} is {shape}; "
                "its two files do not belong together."
            )
        if shape != fits:
            raise CheckpointError(
                f"Adapter {name!r} was made for another base ({base}): "
                f"its {path}.lora_{side} is {shape} there and {fits} here."
            )


def _base_of(config: Mapping) -> str:
    return config.get("base_model_name_or_path") or "not named"


def first_of(names: Sequence[str]) -> str:
    """The first few names, for an error."""
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")


def merge(model: nn.Module, adapter: Adapter) -> None:
    """Fold an adapter into its base's weights, in place: W + (alpha / r) B A, computed in float32."""
    with torch.no_grad():
        for path, (a, b) in adapter.weights.items():
            weight = model.get_submodule(path).weight
            delta = b.to(weight.device, torch.float32) @ a.to(weight.device, torch.float32)
            weight.copy_(weight.float() + delta)

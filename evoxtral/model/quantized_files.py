"""Quantised weights in a file of their own, and a base whose linear layers are read from files one by one.

The file is safetensors. Its header says how many bits it has and from which weights it was made:

    {"evoxtral": {"version": 2, "weights": "int8", "kept": […], "in_8_bits": […], "source": {…}}}

where `source` has the SHA-256 of each file.

Int8: PATH.weight and PATH.weight_scale (N,).  Int4: PATH.weight_packed, PATH.weight_steps, PATH.weight_zeros (`a` and
`b`) and PATH.weight_scale; see `quantized`. Both are in panels where their shape fits them. All else is as in the
source. The output layer and the embeddings have 8 bits in both, as do the encoder and the projector: their products
have many rows, for which 4 bits gain nothing but memory.
"""

import hashlib
import json
import logging
import mmap
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import VoxtralForConditionalGeneration

from evoxtral.errors import CheckpointError, reading
from evoxtral.model import checkpoints, hub, lora, panels
from evoxtral.model.checkpoints import Checkpoint
from evoxtral.model.quantized import GROUP, Int4, Int8, Quantized, QuantizedEmbedding, StoredLinear, fastest

log = logging.getLogger(__name__)

WEIGHTS = ("int8", "int4")
VERSION = 2
TEXT = "model.language_model"
EMBEDDINGS = f"{TEXT}.embed_tokens"
# Left in 16 bits: what costs most when it is quantised (docs/speed.md), by the end of its path.
KEPT: Mapping[str, tuple[str, ...]] = {"int8": (), "int4": ()}
_ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
_MLP = ("gate_proj", "up_proj", "down_proj")
_PARTS = {  # their fields
    "weight": "q",
    "weight_packed": "q",
    "weight_steps": "a",
    "weight_zeros": "b",
    "weight_scale": "scale",
}
_NAMES = {torch.int8: "I8", torch.uint8: "U8", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}
_ROOM = 1000  # bytes in the header for each parameter, which may become four tensors


def file_of(folder: Path) -> Path | None:
    """The quantised weights of a base folder, None where it has none."""
    return next((file for name in WEIGHTS if (file := folder / f"model-{name}.safetensors").is_file()), None)


@dataclass(frozen=True)
class Header:
    """What a quantised file says about itself.  kept, in_8_bits: ends of paths left in 16 bits, and of int4 in 8.
    source: file -> SHA-256."""

    weights: str
    kept: tuple[str, ...]
    source: Mapping[str, str]
    in_8_bits: tuple[str, ...]

    @classmethod
    def of(
        cls, model: nn.Module, weights: str, source: Mapping[str, str], kept: Sequence[str] | None = None
    ) -> "Header":
        """What is quantised here today.  model: a skeleton.  kept: None for KEPT."""
        layers = model.config.text_config.num_hidden_layers
        own = in_8_bits(layers) if weights == "int4" else ()
        return cls(weights, tuple(KEPT[weights] if kept is None else kept), source, own)

    @classmethod
    def read(cls, file: Path) -> "Header":
        """Raises CheckpointError."""
        content = checkpoints.open_weights(file, mapped=True).metadata() or {}
        with reading(file):
            header = json.loads(content.get("evoxtral", "{}"))
            version = header.pop("version", None)
            if version != VERSION or header.get("weights") not in WEIGHTS:
                raise CheckpointError(
                    f"{file} is of version {version!r} of this format and {VERSION} is needed: write it again, to a "
                    "new folder, with `python -m evoxtral quantize`."
                )
            return cls(header["weights"], tuple(header["kept"]), header["source"], tuple(header["in_8_bits"]))

    def written(self) -> dict[str, str]:
        content = {"version": VERSION, "weights": self.weights, "kept": self.kept, "in_8_bits": self.in_8_bits}
        content["source"] = self.source
        return {"format": "pt", "evoxtral": json.dumps(content)}


def load(folder: Path, weights: str, dtype: torch.dtype, kept: Sequence[str] | None = None) -> nn.Module:
    """A base in evaluation mode whose linear layers are read from its files when they are joined, and quantised then
    unless they are so in the files: the whole is never in memory in 16 bits. Raises CheckpointError.

    weights: "int8" or "int4".  dtype: of everything else.  kept: ends of paths left in `dtype`, None for KEPT.
    """
    tensors = _Tensors(folder)
    model = skeleton(folder)
    quantized_in = tensors.kind if tensors.header else partial(_kind, header=Header.of(model, weights, {}, kept))
    paths = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Embedding)}
    kinds = {path: kind for path, module in paths.items() if (kind := quantized_in(path, module.weight.shape))}
    tensors.check(model, kinds)
    fit = {panels.fit(*paths[path].weight.shape) for path in kinds}
    for few, fits in product((True, False), fit):  # measured now: layers are laid out by several threads at once
        fastest(few, fits)
    rest = {}
    for name, parameter in model.named_parameters():
        path, _, last = name.rpartition(".")
        if path in kinds and last == "weight":
            continue
        rest[name] = nn.Parameter(tensors[name].to(dtype), requires_grad=parameter.requires_grad)
    model.load_state_dict(rest, strict=False, assign=True)
    for path, kind in kinds.items():
        parent, _, name = path.rpartition(".")
        read = partial(tensors.quantized, path, kind)
        if path == EMBEDDINGS:
            new = QuantizedEmbedding(tensors.quantized(path, Int8), dtype)
        else:
            new = StoredLinear(paths[path], read, dtype, few=path == "lm_head" or path.startswith(TEXT))
        setattr(model.get_submodule(parent), name, new)
    text = model.model.language_model
    text.rotary_emb = type(text.rotary_emb)(text.config)  # computed, not stored
    return model.eval()


def skeleton(folder: Path) -> VoxtralForConditionalGeneration:
    """A base without weights: every parameter on the meta device."""
    config = checkpoints.load_config(folder)
    with reading(folder / "config.json", RuntimeError), torch.device("meta"):
        return VoxtralForConditionalGeneration(config)


def in_8_bits(layers: int) -> tuple[str, ...]:
    """Ends of paths that int4 leaves in 8 bits, of a text model of so many layers: attention, which costs most in 4,
    and the first and the last of several layers, as other runtimes do."""
    whole = (0, layers - 1) if layers > 2 else ()
    ends = (f"layers.{layer}.mlp.{name}" for layer in whole for name in _MLP)
    return *_ATTENTION, *ends


def _ends(path: str, ends: Sequence[str]) -> bool:
    return any(path == end or path.endswith(f".{end}") for end in ends)


def _kind(path: str, shape: torch.Size, header: Header) -> type[Quantized] | None:
    """In what a layer is quantised; None for those that stay as they are."""
    if _ends(path, header.kept):
        return None
    if path == EMBEDDINGS or path == "lm_head":
        return Int8
    if "embed" in path:  # the encoder's positions, which are added
        return None
    if header.weights == "int8" or not path.startswith(TEXT) or _ends(path, header.in_8_bits):
        return Int8
    if not panels.fit(*shape):
        raise CheckpointError(f"{path} has a shape that 4 bits cannot have ({shape[0]} x {shape[1]}): use int8.")
    return Int4


class _Tensors:
    """The tensors of a base folder by their names in transformers 5, each read when it is asked for."""

    def __init__(self, folder: Path):
        file = file_of(folder)
        self.header = Header.read(file) if file else None
        self.folder, self.file = folder, file
        files = [
            checkpoints.open_weights(file, False) for file in ([file] if file else checkpoints.weight_files(folder))
        ]
        if file:
            with reading(file), file.open("rb") as content:
                self._begin = 8 + int.from_bytes(content.read(8), "little")
                self._index = json.loads(content.read(self._begin - 8))
        self._slices = {lora.transformers_5_path(name): (file, name) for file in files for name in file.keys()}  # noqa: SIM118

    def __getitem__(self, name: str) -> torch.Tensor:
        file, own = self._slices[name]
        with reading(self.folder, SafetensorError):
            return file.get_tensor(own)

    def kind(self, path: str, _: torch.Size) -> type[Quantized] | None:
        """In what a quantised file has a layer."""
        if f"{path}.weight_packed" in self._slices:
            return Int4
        return Int8 if f"{path}.weight_scale" in self._slices else None

    def quantized(self, path: str, kind: type[Quantized]) -> Quantized:
        """Of a quantised file, only what is looked up, or copied, comes into memory; of another, it is made here."""
        if not self.header:
            return laid_out(path, kind.of(self[f"{path}.weight"]))
        return kind(**{_PARTS[name]: self._mapped(f"{path}.{name}") for name in _names(kind)})

    def _mapped(self, name: str) -> torch.Tensor:
        """A mapping of its own, which goes with the tensor: of `safe_open` all pages stay until the file is closed."""
        own = self._index[name]
        begin, end = (self._begin + offset for offset in own["data_offsets"])
        start = begin - begin % mmap.ALLOCATIONGRANULARITY
        with reading(self.file), self.file.open("rb") as file:
            area = mmap.mmap(file.fileno(), end - start, access=mmap.ACCESS_COPY, offset=start)
        return torch.frombuffer(area, dtype=_DTYPES[own["dtype"]], offset=begin - start).view(own["shape"])

    def check(self, model: nn.Module, kinds: Mapping[str, type[Quantized]]) -> None:
        """Whether exactly the tensors that the model needs are there, in the right shapes."""
        needed = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        if self.header:
            for path, kind in kinds.items():
                needed |= _shapes(kind, path, *needed.pop(f"{path}.weight"))
        have = {name: tuple(file.get_slice(own).get_shape()) for name, (file, own) in self._slices.items()}
        wrong = sorted(name for name in {*needed, *have} if needed.get(name) != have.get(name))
        if wrong:
            raise CheckpointError(f"The weights in {self.folder} do not fit its config.json: {lora.first_of(wrong)}.")


def laid_out(path: str, weight: Quantized) -> Quantized:
    """As it is in a file: in panels where it can be, but for embeddings, which are looked up."""
    if isinstance(weight, Int8) and path != EMBEDDINGS and panels.fit(len(weight.scale), weight.ins):
        return weight.in_panels()
    return weight


def _names(kind: type[Quantized]) -> tuple[str, ...]:
    if kind is Int8:
        return "weight", "weight_scale"
    return "weight_packed", "weight_steps", "weight_zeros", "weight_scale"


def _shapes(kind: type[Quantized], path: str, outs: int, ins: int) -> dict[str, tuple[int, ...]]:
    groups = (outs // panels.PANEL, ins // GROUP, panels.PANEL)
    if kind is Int4:
        shapes = (outs // panels.PANEL, ins // 8, panels.PANEL, 4), groups, groups, (outs,)
    elif path != EMBEDDINGS and panels.fit(outs, ins):
        shapes = (outs // panels.PANEL, ins // 4, panels.PANEL, 4), (outs,)
    else:
        shapes = (outs, ins), (outs,)
    return {f"{path}.{name}": shape for name, shape in zip(_names(kind), shapes, strict=True)}


# ---------------------------------------------------------------------------------------------------------- write


def write(checkpoint: Checkpoint, weights: str, folder: Path, kept: Sequence[str] | None = None) -> bool:
    """Write a model folder, base/ and adapters, with the base's weights in 8 or 4 bits. Raises CheckpointError.

    Layer by layer: memory is needed for one. Gives False where `folder` holds these weights already, of the same
    source.
    """
    source = hub.fetch(checkpoint.base)
    if file_of(source):
        raise CheckpointError(f"{checkpoint.name} is quantised already: name the model that it was made from.")
    model = skeleton(source)
    header = Header.of(model, weights, hashes(source), kept)
    there = file_of(folder / lora.BASE)
    if there and Header.read(there) == header:
        return False
    if not folder.name or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise CheckpointError(f"{folder} holds something else: name a new folder.")
    with ExitStack() as stack:
        with checkpoints.writing(folder):
            out = stack.enter_context(checkpoints.atomic_folder(folder))
        base = out / lora.BASE
        with checkpoints.writing(folder):
            base.mkdir()
            for file in (*source.glob("*.json"), *source.glob("tekken.json")):
                if file.name != "model.safetensors.index.json":
                    shutil.copyfile(file, base / file.name)
        tensors = _Tensors(source)
        tensors.check(model, {})
        write_weights(model, tensors, header, base / f"model-{weights}.safetensors")
        for variant, reference in checkpoint.adapters.items():
            adapter = hub.fetch(reference)
            with checkpoints.writing(folder):
                (out / variant).mkdir()
                for name in (lora.CONFIG_FILE, lora.WEIGHTS_FILE):
                    shutil.copyfile(adapter / name, out / variant / name)
    return True


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of weights in a base folder."""
    found = {}
    for file in checkpoints.weight_files(folder):
        with reading(file), file.open("rb") as content:
            found[file.name] = hashlib.file_digest(content, "sha256").hexdigest()
    return found


class Source(Protocol):
    """Where weights come from: by their names, or quantised."""

    def __getitem__(self, name: str) -> torch.Tensor: ...

    def quantized(self, path: str, kind: type[Quantized]) -> Quantized: ...


def write_weights(model: nn.Module, tensors: Source, header: Header, file: Path) -> None:
    """Safetensors whose tensors are written one after the other: its own writer wants all of them in memory.

    model: a skeleton.
    """
    modules = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear | nn.Embedding)}
    kinds = {path: _kind(path, m.weight.shape, header) for path, m in modules.items()}
    index: dict[str, object] = {"__metadata__": header.written()}
    room = _ROOM * sum(1 for _ in model.parameters())
    offset = 0
    with checkpoints.writing(file), file.open("wb") as out, torch.inference_mode():
        out.write(b" " * (8 + room))
        for name, _ in model.named_parameters():
            path, _, last = name.rpartition(".")
            kind = kinds.get(path) if last == "weight" else None
            found = {name: tensors[name]} if kind is None else _named(path, tensors.quantized(path, kind))
            for own, tensor in found.items():
                raw = tensor.contiguous().flatten().view(torch.uint8).numpy()
                out.write(raw)
                ends = offset, offset + len(raw)
                index[own] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": ends}
                offset = ends[1]
        out.seek(0)
        out.write(room.to_bytes(8, "little") + json.dumps(index).encode())  # the spaces behind it are part of it


def _named(path: str, quantized: Quantized) -> dict[str, torch.Tensor]:
    return {f"{path}.{name}": getattr(quantized, _PARTS[name]) for name in _names(type(quantized))}

"""Which precision a base's weights have in memory: asked for, or chosen by free memory and a measurement."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from evoxtral.errors import CheckpointError
from evoxtral.model import backends, quantized, quantized_files
from evoxtral.model.linear import Mix, MixedLinear
from evoxtral.model.memory import free_bytes

log = logging.getLogger(__name__)

# Bytes of 16-bit weight files. Up to SMALL_MODEL, a CPU uses float32: fewer bits would gain little, and every machine
# gives the same text. Above it, a CPU uses its fastest dtype; from LARGE_MODEL on the fastest of 16 and 8 bits, or what
# fits.
SMALL_MODEL, LARGE_MODEL = 1e8, 2e9
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
_QUANTIZED = "{} runs on a CPU; on {} use bf16."
_NO_ROOM = (
    "{:.1f} GB of memory are free here and this model needs {:.1f} even in 4 bits: end other programs, take a machine "
    "with more memory or the model tiny, or try it all the same with --weights int4."
)
# Peak memory with three variants as a share of the 16-bit files, and bytes beside it (docs/speed.md). Read from those,
# embeddings are in memory, which are mapped from a quantised file: 0.04 more than was measured there.
_SHARE = {"16 bits": 1.2, "int8": 0.56, "int4": 0.46}
_BESIDE = 1e9


@dataclass(frozen=True)
class Precision:
    """weights: one of checkpoints.WEIGHTS but "auto".  dtype: of what is not quantised.  reason: why this one."""

    weights: str
    dtype: torch.dtype
    reason: str = "asked for"

    @property
    def quantized(self) -> bool:
        return self.weights in quantized_files.WEIGHTS


def choose(asked: str, folder: Path, device: torch.device) -> Precision:
    """The precision for a base's folder on a device. Raises CheckpointError for what cannot be."""
    written = quantized_files.file_of(folder)
    own = quantized_files.Header.read(written).weights if written else None
    if own and asked not in ("auto", own):
        raise CheckpointError(
            f"{folder} holds its weights in {own} alone: choose {own}, or the model it was made from."
        )
    if own or asked in quantized_files.WEIGHTS:
        weights = own or asked
        if device.type != "cpu":
            raise CheckpointError(_QUANTIZED.format(weights, device.type))
        return Precision(weights, beside_quantized(), "its file has them so" if own else "asked for")
    if asked in DTYPES:
        return Precision(asked, DTYPES[asked])
    if device.type != "cpu":
        return Precision("bf16", torch.bfloat16, "a GPU multiplies it fastest")
    size = sum(file.stat().st_size for file in folder.glob("model*.safetensors"))
    dtype = default_dtype(size)
    name = NAMES[dtype]
    if size < LARGE_MODEL:
        return Precision(name, dtype, "a small model" if size <= SMALL_MODEL else "the fastest here")
    return for_a_large_one(size, free_bytes(), dtype, product_duration, quantized_duration)


def for_a_large_one(
    size: float,
    free: float,
    dtype: torch.dtype,
    duration_of: Callable[[torch.dtype], float],
    duration_in_8_bits: Callable[[torch.dtype], float],
) -> Precision:
    """Of 16, 8 and 4 bits the fastest that fits, and the sentence that says why.

    size: bytes of its files in 16 bits.  free: bytes of memory.  dtype: the fastest of 16 bits.  duration_of,
    duration_in_8_bits: seconds of a product with weights in this dtype, and in 8 bits with what is beside them in it;
    asked for where both fit.  Raises CheckpointError where nothing fits.
    """
    needs = {kind: share * size + _BESIDE for kind, share in _SHARE.items()}
    room = f"{free / 1e9:.1f} GB of memory are free"
    if free < needs["int4"]:
        raise CheckpointError(_NO_ROOM.format(free / 1e9, needs["int4"] / 1e9))
    if free < needs["int8"]:
        return Precision("int4", dtype, f"{room}, and 8 bits need {needs['int8'] / 1e9:.1f}")
    if free < needs["16 bits"]:
        return Precision("int8", dtype, f"{room}, and 16 bits need {needs['16 bits'] / 1e9:.1f}")
    gain = duration_of(dtype) / duration_in_8_bits(dtype)
    if gain > 1:
        return Precision("int8", dtype, f"{gain:.1f} times as fast here as {NAMES[dtype]}")
    return Precision(NAMES[dtype], dtype, f"8 bits take {1 / gain:.1f} times as long here")


def fits(size: float) -> bool:
    """Whether a model whose files have `size` bytes in 16 bits runs in this CPU's free memory in 8 bits."""
    return free_bytes() >= _SHARE["int8"] * size + _BESIDE


def beside_quantized() -> torch.dtype:
    """The dtype of adapters and of what else is not quantised: the faster one of 16 bits."""
    return default_dtype(LARGE_MODEL)


def default_dtype(size: float) -> torch.dtype:
    """The dtype for weight files of `size` bytes on a CPU."""
    if size <= SMALL_MODEL:
        return torch.float32
    widened = torch.float16 if backends.fbgemm_supports(torch.float16, torch.device("cpu")) else torch.float32
    if size >= LARGE_MODEL and widened is torch.float32:
        return torch.bfloat16
    return min((widened, torch.bfloat16), key=product_duration)


def product_duration(dtype: torch.dtype) -> float:
    """Duration (s) of one linear layer for some rows, on a CPU.

    Measured, because a CPU's flags do not tell: of two CPUs with bfloat16 instructions, one can be five times faster
    with them and one slower. Takes 50 ms, or 700 ms where bfloat16 is slow.
    """
    device = torch.device("cpu")
    layer = MixedLinear({"": nn.Linear(1024, 1024, dtype=dtype)}, [], Mix([]), device).prepack()
    rows = torch.ones(512, 1024, dtype=backends.activations(dtype, device))
    return backends.shortest_duration(lambda: layer(rows))


@torch.inference_mode()
def quantized_duration(dtype: torch.dtype) -> float:
    """The same of one in 8 bits."""
    product = quantized.Int8.of(torch.ones(1024, 1024)).product(few=False)
    rows = torch.ones(512, 1024, dtype=backends.activations(dtype, torch.device("cpu")))
    return backends.shortest_duration(lambda: product(rows))

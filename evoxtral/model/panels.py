"""Products of weights in panels of 64 outputs, by functions that LLVM compiles while loading (llvmlite, a wheel): no
compiler is needed.

PyTorch's operators have no fast product of 4 bits and a few rows, and what they lay weights out in cannot be stored.
Here weights are unsigned bytes and activations signed ones, with one scale for each row:

    8 bits: w = scale[n] (u - 128)             u (N / 64, K / 4, 64, 4) uint8
    4 bits: w = scale[n] (q a / 16 + b - 128)  q (N / 64, K / 8, 64, 4) uint8, an input k in the low half of a byte and
            k + 4 in the high half; a, b (N / 64, K / 32, 64) uint8, one for each group of 32 inputs

Few rows are multiplied by the codes of 4 bits, whose sum over a group is then scaled; for many rows a panel is first
expanded to 8 bits. Panels are shared out among the threads of PyTorch's own OpenMP: threads of our own would compete
with those.

Shapes: M rows, N outputs, K inputs.
"""

import ctypes
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from evoxtral.model import llvm_code, panels_code
from evoxtral.model.llvm_code import PANEL, Instructions
from evoxtral.model.panels_code import ADAPTER_ARGUMENTS, ARGUMENTS, FEW, GROUP, JOB, NORM_ARGUMENTS

if TYPE_CHECKING:
    from llvmlite.binding import ExecutionEngine

log = logging.getLogger(__name__)

_PAD = 64  # bytes between rows of activations: with a power of two between them they would share sets of the cache
_ALONE = 1 << 16  # numbers up to which one thread quantises activations
_KINDS = dict(zip((torch.float32, torch.bfloat16), panels_code.KINDS, strict=True))
BESIDE = {torch.float32: torch.float16, torch.bfloat16: torch.bfloat16}  # activations -> adapters' weights
_FUNCTIONS = ("quantize", "product_8", "product_4", "low", "high", "norm")
_COUNTERS = 2  # behind the arguments: the next panel, and the next thread's scratch


def fit(outs: int, ins: int) -> bool:
    """Whether a layer of this shape can be in panels."""
    return outs % PANEL == 0 and ins % GROUP == 0


def of_bytes(u: torch.Tensor) -> torch.Tensor:
    """u (N, K) uint8 in panels (N / 64, K / 4, 64, 4)."""
    return u.view(len(u) // PANEL, PANEL, -1, 4).transpose(1, 2).contiguous()


def to_bytes(panels: torch.Tensor) -> torch.Tensor:
    """The opposite of `of_bytes`."""
    return panels.transpose(1, 2).reshape(len(panels) * PANEL, -1)


def of_codes(codes: torch.Tensor) -> torch.Tensor:
    """codes (N, K) uint8 in 0 … 15 in panels (N / 64, K / 8, 64, 4)."""
    low, high = codes.view(len(codes), -1, 2, 4).unbind(2)
    return of_bytes((low | (high << 4)).flatten(1))


def to_codes(panels: torch.Tensor) -> torch.Tensor:
    """The opposite of `of_codes`."""
    both = to_bytes(panels).unflatten(1, (-1, 4))
    return torch.stack([both & 15, both >> 4], dim=2).flatten(1)


def of_groups(values: torch.Tensor) -> torch.Tensor:
    """values (N, G) in panels (N / 64, G, 64)."""
    return values.view(len(values) // PANEL, PANEL, -1).transpose(1, 2).contiguous()


def to_groups(panels: torch.Tensor) -> torch.Tensor:
    """The opposite of `of_groups`."""
    return panels.transpose(1, 2).reshape(len(panels) * PANEL, -1)


def compiled(text: str, cpu: str, features: str) -> "ExecutionEngine":
    """The functions of a text in LLVM's language.  cpu, features: as LLVM names them.  Raises RuntimeError and
    ImportError."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    module = llvm.parse_assembly(text)
    machine = llvm.Target.from_default_triple().create_target_machine(cpu=cpu, features=features, opt=3)
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=2))
    builder.getModulePassManager().run(module, builder)
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    return engine


def openmp() -> Callable[[int, ctypes.Array, int, int], None]:
    """PyTorch's own OpenMP: calls the function at an address with an argument, in so many threads.  Raises OSError or
    StopIteration."""
    library = next((Path(torch.__file__).parent / "lib").glob("libgomp*"))
    parallel = ctypes.CDLL(str(library)).GOMP_parallel
    parallel.argtypes, parallel.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    return parallel


@dataclass(frozen=True)
class Jobs:
    """Products of some rows of x, each by a weight (outs, ins) of its own in 16 bits: the first number of x, how many
    rows, the weight, and the number of the output where they go. Keeps the weights."""

    jobs: Sequence[tuple[int, int, torch.Tensor, int]]

    @cached_property
    def table(self) -> ctypes.Array:
        table = (ctypes.c_int64 * (len(JOB) * len(self.jobs)))()
        for n, (first, rows, weight, into) in enumerate(self.jobs):
            table[n * len(JOB) : (n + 1) * len(JOB)] = first, rows, weight.data_ptr(), len(weight), into
        return table


class Functions:
    """The compiled functions, and the threads of PyTorch that run them."""

    def __init__(self, isa: Instructions, cpu: str, features: str):
        """cpu, features: as LLVM names them.  Raises OSError, RuntimeError, ImportError or StopIteration."""
        self.isa = isa
        try:
            self._engine = compiled(panels_code.module(isa, "i8"), cpu, features)
        except RuntimeError:  # before LLVM 22
            self._engine = compiled(panels_code.module(isa, "i32"), cpu, features)
        self._parallel = openmp()
        names = {(what, dtype): f"{what}_{kind}" for what in _FUNCTIONS for dtype, kind in _KINDS.items()}
        self._addresses = {key: self._engine.get_function_address(name) for key, name in names.items()}
        kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
        self._functions = {key: kind(address) for key, address in self._addresses.items()}

    def run(self, what: str, dtype: torch.dtype, arguments: ctypes.Array, threads: int) -> None:
        if threads == 1:
            self._functions[what, dtype](arguments)
        else:
            self._parallel(self._addresses[what, dtype], arguments, threads, 0)

    def product(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        scale: torch.Tensor,
        a: torch.Tensor | None = None,
        b: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """x (…, K) float32 or bfloat16 times weights as above -> (…, N) of the same dtype.  a, b: of 4 bits."""
        ins, outs = x.shape[-1], len(scale)
        x = x.contiguous()
        rows, stride, threads = x.numel() // ins, ins + _PAD, torch.get_num_threads()
        out = x.new_empty(*x.shape[:-1], outs)
        if not rows:
            return out
        bits = 8 if a is None else 4
        expanded = bits == 4 and rows > FEW
        limit = ctypes.c_float(127 if bits == 4 and not expanded else self.isa.most)
        q = torch.empty(rows * (stride + 4 * (2 + ins // GROUP)), dtype=torch.uint8)
        scratch = torch.empty(PANEL * ins * threads, dtype=torch.uint8) if expanded else q
        sizes = q.data_ptr() + rows * stride
        arguments = (ctypes.c_int64 * (len(ARGUMENTS) + _COUNTERS))()
        counters = ctypes.addressof(arguments) + 8 * len(ARGUMENTS)
        arguments[: len(ARGUMENTS)] = (
            x.data_ptr(), rows, ins, ctypes.addressof(limit), q.data_ptr(), stride, sizes, sizes + 4 * rows,
            sizes + 8 * rows, weight.data_ptr(), 0 if a is None else a.data_ptr(), 0 if b is None else b.data_ptr(),
            scale.data_ptr(), out.data_ptr(), outs, counters, scratch.data_ptr(), counters + 8,
        )  # fmt: skip
        self.run("quantize", x.dtype, arguments, 1 if x.numel() <= _ALONE else threads)
        arguments[len(ARGUMENTS)] = 0
        self.run(f"product_{bits}", x.dtype, arguments, threads)
        return out

    def norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """Root mean square norm of x (…, K) float32 or bfloat16 by a weight (K,) of the same dtype."""
        x, number = x.contiguous(), ctypes.c_float(eps)
        out, ins = torch.empty_like(x), x.shape[-1]
        arguments = (ctypes.c_int64 * (len(NORM_ARGUMENTS) + 1))()
        arguments[: len(NORM_ARGUMENTS)] = (
            x.data_ptr(), x.numel() // ins, ins, ctypes.addressof(number), weight.data_ptr(), out.data_ptr(),
            ctypes.addressof(arguments) + 8 * len(NORM_ARGUMENTS),
        )  # fmt: skip
        self.run("norm", x.dtype, arguments, 1 if x.numel() <= _ALONE else torch.get_num_threads())
        return out

    def adapt(self, x: torch.Tensor, y: torch.Tensor, lows: Jobs, highs: Jobs, rank: int, wide: int) -> None:
        """Add what adapters make of x (rows, K) to y (rows, N), both contiguous, float32 or bfloat16: x by the A of
        `lows`, to rows of `wide` numbers in float32, and these by the B of `highs`, of `rank` inputs."""
        low = torch.empty(len(x), wide)
        for what, inputs, ins, out, jobs in (("low", x, x.shape[-1], low, lows), ("high", low, rank, y, highs)):
            arguments = (ctypes.c_int64 * (len(ADAPTER_ARGUMENTS) + 1))()
            arguments[: len(ADAPTER_ARGUMENTS)] = (
                inputs.data_ptr(), inputs.shape[-1], ins, out.data_ptr(), out.shape[-1],
                ctypes.addressof(jobs.table), len(jobs.jobs), ctypes.addressof(arguments) + 8 * len(ADAPTER_ARGUMENTS),
            )  # fmt: skip
            self.run(what, x.dtype, arguments, torch.get_num_threads())


@cache
def functions() -> Functions | None:
    """Compiled once in a process, in a second; None where the CPU or a library lacks what they need."""
    level = torch.backends.cpu.get_cpu_capability()
    if level not in ("AVX2", "AVX512"):
        return None
    try:
        import llvmlite.binding as llvm

        found = llvm.get_host_cpu_features()
        if level == "AVX512" and found.get("avx512vnni"):
            return Functions(llvm_code.AVX512_VNNI, llvm.get_host_cpu_name(), found.flatten())
        if found.get("avxvnni"):
            return Functions(llvm_code.AVX_VNNI, "x86-64-v3", "+avxvnni")
        return Functions(llvm_code.AVX2, "x86-64-v3", "")
    except (ImportError, OSError, RuntimeError, StopIteration) as error:
        log.info("no compiled products: %s", error)
        return None

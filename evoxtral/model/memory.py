"""Memory on a CPU: weights in huge pages, when glibc returns freed memory to the system (with another C library nothing
is done), how much is free, and parts of equal size."""

import ctypes
import math
import mmap
import platform
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # options of mallopt(3), in bytes
KEPT = 32 << 20  # bytes of the largest block that stays in the heap when it is freed
_CONTROL_GROUPS = tuple(  # version 2, and 1: the limit, and what is used of it
    tuple(Path("/sys/fs/cgroup") / name for name in names)
    for names in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    )
)
_libc = ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


def blank(count: int) -> torch.Tensor:
    """Bytes (count,) uint8 for weights that stay, on Linux in huge pages: of pages of 4 KB a CPU remembers too
    few, and looks up each anew while weights are read."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(count, dtype=torch.uint8)
    area = mmap.mmap(-1, max(count, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without huge pages
        area.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(area, dtype=torch.uint8)[:count]


def together(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Copies of tensors of one dtype, one behind the other along the first dimension, in `blank` memory."""
    shape = (sum(len(part) for part in parts), *parts[0].shape[1:])
    out = blank(math.prod(shape) * parts[0].itemsize).view(parts[0].dtype).view(shape)
    return torch.cat(list(parts), out=out)


@contextmanager
def freed_memory_returned(kept: int = KEPT) -> Iterator[None]:
    """Within this context, glibc returns every freed weight to the system at once; after it, larger blocks than `kept`.

    By default it keeps freed memory in the arenas of the threads that read the weights, where other threads cannot use
    it: more than half the size of the base was left there after loading.
    """
    if _libc:
        _libc.mallopt(_MMAP_THRESHOLD, 1 << 17)
    try:
        yield
    finally:
        return_freed_memory()
        if _libc:
            # Activations stay in the heap and are reused: else they would be fresh pages at every product.
            _libc.mallopt(_MMAP_THRESHOLD, kept)
            _libc.mallopt(_TRIM_THRESHOLD, 2 * kept)


def return_freed_memory() -> None:
    """Return free heap memory to the system. Takes milliseconds: call it after much was freed."""
    if _libc:
        _libc.malloc_trim(0)


def equal_parts(x: torch.Tensor, about: int, dim: int = 0) -> tuple[torch.Tensor, ...]:
    """Views of x along `dim`, each of about `about` positions and all of one size, except perhaps the last.

    oneDNN keeps a kernel for every shape it multiplies, so equal parts save memory over full parts and a short rest.
    """
    return x.chunk(max(1, round(x.shape[dim] / about)), dim)


def free_bytes() -> float:
    """Memory that this process may still take: what the system has available, or its control group where that is less.

    Infinite where the system does not tell (macOS and Windows have no /proc).
    """
    found = [math.inf]
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file() and (line := re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text())):
        found.append(1024 * int(line[1]))
    for limit, used in _CONTROL_GROUPS:
        if limit.is_file() and used.is_file() and (bound := limit.read_text().strip()).isdecimal():
            found.append(max(0, int(bound) - int(used.read_text())))
    return min(found)

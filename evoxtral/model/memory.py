"""When glibc returns freed memory to the system. With another C library these functions do nothing."""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # options of mallopt(3), in bytes
_libc = ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


@contextmanager
def freed_memory_returned() -> Iterator[None]:
    """Within this context, glibc returns every freed weight to the system at once.

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
            # Activations stay in the heap and are reused: mapping fresh pages would slow the encoder down a lot.
            _libc.mallopt(_MMAP_THRESHOLD, 2 << 20)
            _libc.mallopt(_TRIM_THRESHOLD, 4 << 20)


def return_freed_memory() -> None:
    """Return free heap memory to the system. Takes milliseconds: call it after much was freed."""
    if _libc:
        _libc.malloc_trim(0)


def equal_parts(x: torch.Tensor, about: int, dim: int = 0) -> tuple[torch.Tensor, ...]:
    """Views of x along `dim`, each of about `about` positions and all of one size, except perhaps the last.

    oneDNN keeps a kernel for every shape it multiplies, so equal parts save memory over full parts and a short rest.
    """
    return x.chunk(max(1, round(x.shape[dim] / about)), dim)

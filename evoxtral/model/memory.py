"""What glibc gives back to the system, and when. Elsewhere nothing here does anything."""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # options of mallopt(3), in bytes
_libc = ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


@contextmanager
def freed_memory_returned() -> Iterator[None]:
    """While open, glibc returns every freed weight to the system. By itself it keeps them in the arenas of the threads
    that read them, where nothing else finds them: loading left more than half of a base's size behind.
    """
    if _libc:
        _libc.mallopt(_MMAP_THRESHOLD, 1 << 17)
    try:
        yield
    finally:
        return_freed_memory()
        if _libc:
            # What is computed with is kept and used again: fresh pages would cost the encoder much of its time.
            _libc.mallopt(_MMAP_THRESHOLD, 2 << 20)
            _libc.mallopt(_TRIM_THRESHOLD, 4 << 20)


def return_freed_memory() -> None:
    """Milliseconds; worth it where much was freed and something else is about to grow."""
    if _libc:
        _libc.malloc_trim(0)


def equal_parts(x: torch.Tensor, about: int, dim: int = 0) -> tuple[torch.Tensor, ...]:
    """Views of x, of about so many positions each, all but perhaps the last of one size.

    For every shape that it multiplies, oneDNN keeps a kernel: for a short rest at the end it would be one more.
    """
    return x.chunk(max(1, round(x.shape[dim] / about)), dim)

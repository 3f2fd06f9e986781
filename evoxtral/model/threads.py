"""Independent work on a CPU side by side, one thread each: windows, prompts, heads, parts of an MLP.

PyTorch divides every operation instead, and its threads wait for each other after each: short ones do not get faster,
and beside other work the longest wait counts (docs/speed.md).
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

MAX_TOGETHER = 4
"""that are worked on at once: each keeps its activations in memory"""

_Given, _Found = TypeVar("_Given"), TypeVar("_Found")
_changing = threading.Lock()


def together() -> int:
    """How many things this thread may have worked on at once."""
    return min(MAX_TOGETHER, torch.get_num_threads())


def each(work: Callable[[_Given], _Found], given: Sequence[_Given], apart: bool = True) -> list[_Found]:
    """The result of each, in order, side by side; this thread's threads are divided among them.

    apart: False for one after the other, in this thread.  Raises what `work` raises.
    """
    count = min(len(given), together()) if apart else 1
    if count < 2:
        return [work(one) for one in given]
    share, rest = divmod(torch.get_num_threads(), count)
    shares, inference = [share + (i < rest) for i in range(count)], torch.is_inference_mode_enabled()

    def worked(one: _Given) -> _Found:
        with torch.inference_mode(inference):
            return work(one)

    with ThreadPoolExecutor(count, initializer=lambda: _use(shares.pop())) as workers:
        return [*workers.map(worked, given)]


def _use(count: int) -> None:
    """Let this thread compute on so many threads. PyTorch makes that the default of all that start later, too, so
    another thread sets it back."""
    with _changing:
        default = torch.get_num_threads()  # of a thread that starts now, as this one did
        torch.set_num_threads(count)
        other = threading.Thread(target=torch.set_num_threads, args=(default,))
        other.start()
        other.join()

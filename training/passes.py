"""How a batch of clips goes through the memory that is free: how many at once, and whether layers are computed a second
time for their gradients instead of being kept. What is learned does not depend on it, beyond rounding.

The memory that a clip takes follows from the shapes: a pass through one layer of each kind tells what a layer keeps for
its gradients. The first step is then measured against the estimate.
"""

import json
import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch import distributed as dist

from evoxtral.model.memory import free_bytes
from training import loop, noise

log = logging.getLogger(__name__)

SHARE = 0.8  # of the free memory that a step may take
ENOUGH = 4000  # encoder positions in a pass beyond which a CPU gains nothing
GIB = 1 << 30
RECIPE = "recipe.json"  # of a run; what is chosen here is noted there
AS_RUN = "as_run"  # its key


@dataclass(frozen=True)
class Passes:
    """micro_batch: clips that go through at once. checkpointing: layers are computed again in the backward pass."""

    micro_batch: int
    checkpointing: bool = False


@dataclass(frozen=True)
class Need:
    """Bytes that training takes beside the weights. state: gradients and the optimiser's; the others are of one clip.

    rest: what is neither of a layer of the encoder nor of the text model. Of each kind of layer: how many there are,
    what one keeps for its gradients, and the size of what goes into it.
    """

    state: int
    rest: int
    layers: tuple[int, int]
    kept: tuple[int, int]
    inputs: tuple[int, int]

    def of_clip(self, checkpointing: bool) -> int:
        """At the peak of a backward pass: while one layer's gradients are computed."""
        each = self.inputs if checkpointing else self.kept
        return self.rest + sum(n * size for n, size in zip(self.layers, each, strict=True)) + max(self.kept)

    def of(self, passes: Passes) -> int:
        return self.state + passes.micro_batch * self.of_clip(passes.checkpointing)


def choose(need: Need, free: float, most: int) -> Passes:
    """As many clips at once as `free` bytes hold, `most` at most, in passes of equal size; layers are computed again
    only where not even one clip fits otherwise."""
    room = SHARE * free - need.state
    for checkpointing in (False, True):
        fits = min(most, room // need.of_clip(checkpointing))
        if fits >= 1:
            return Passes(math.ceil(most / math.ceil(most / fits)), checkpointing)
    return Passes(1, True)


def most(asked: int, batch: int, positions: int, device: torch.device) -> int:
    """How many clips at once are of use. asked: the recipe's, 0 for what is of use. positions: of the encoder."""
    useful = batch if device.type == "cuda" else max(1, ENOUGH // positions)
    return math.ceil(batch / math.ceil(batch / min(batch, asked or useful)))


def free(device: torch.device) -> float:
    """Bytes that this process may take, of what all of this machine share."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return free_bytes() / loop.neighbours()


class Kept:
    """Counts the bytes that are kept for gradients by what is computed within this context, without weights and masks,
    which are there once."""

    def __init__(self, model: nn.Module) -> None:
        left_out = [*model.parameters(), *noise.tables()]
        self._counted = {tensor.untyped_storage().data_ptr() for tensor in left_out}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._count, lambda tensor: tensor)
        self._alive: list[Tensor] = []  # a freed one's address would be another's
        self.bytes = 0

    def _count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._counted:
            self._counted.add(storage.data_ptr())
            self._alive.append(tensor)
            self.bytes += storage.nbytes()
        return tensor

    def __enter__(self) -> "Kept":
        self._hooks.__enter__()
        return self

    def __exit__(self, *exc) -> None:
        self._hooks.__exit__(*exc)
        self._alive.clear()


def needed(model, parameters: int, one_clip: Callable[[], object], positions: tuple[int, int]) -> Need:
    """What training takes, by passes of one clip through one and two layers of each kind.

    model: VoxtralForConditionalGeneration, adapters in it. parameters: that are trained. one_clip: a pass of one clip.
    positions: of the encoder and of the text model.
    """
    tower, text = model.model.audio_tower, model.model.language_model
    whole = tower.layers, text.layers

    def kept(*counts: int) -> int:
        tower.layers, text.layers = (layers[:n] for layers, n in zip(whole, counts, strict=True))
        with Kept(model) as found:
            one_clip()
        return found.bytes

    try:
        one, more = kept(1, 1), (kept(2, 1), kept(1, 2))
    finally:
        tower.layers, text.layers = whole
    layers = tuple(map(len, whole))
    each = tuple(max(0, found - one) if n > 1 else one // 2 for found, n in zip(more, layers, strict=True))
    widths = model.config.audio_config.hidden_size, model.config.text_config.hidden_size
    inputs = tuple(4 * n * width for n, width in zip(positions, widths, strict=True))
    return Need(3 * 4 * parameters, max(0, one - sum(each)), layers, each, inputs)


def decide(folder: Path, name: str, need: Need, device: torch.device, most: int) -> Passes:
    """Choose for the training of `name`, say it, and note it in the folder's RECIPE. What a run began with is kept if
    it fits, so that it ends with the same bits. Processes of one run choose together."""
    room = free(device)
    found = choose(need, room, most)
    begun = noted(folder).get(name)
    if begun and (before := Passes(**begun)).micro_batch <= most and need.of(before) <= room:
        found = before
    if loop.world()[1] > 1:
        agreed = torch.tensor([found.micro_batch, int(not found.checkpointing)], device=device)
        dist.all_reduce(agreed, dist.ReduceOp.MIN)
        found = Passes(int(agreed[0]), not agreed[1])
    say(name, found, f"{room / GIB:.1f} GiB are free, the estimate is {need.of(found) / GIB:.1f} GiB")
    loop.first_only(lambda: note(folder, name, found))
    return found


def say(name: str, found: Passes, why: str) -> None:
    again = "layers computed again in the backward pass" if found.checkpointing else "activations kept"
    log.info("%s: %d clips at once, %s: %s", name, found.micro_batch, again, why)


def noted(folder: Path) -> dict:
    """What the folder's RECIPE says of how each training ran."""
    path = folder / RECIPE
    return json.loads(path.read_text(encoding="utf-8")).get(AS_RUN, {}) if path.is_file() else {}


def note(folder: Path, name: str, found: Passes) -> None:
    path = folder / RECIPE
    if path.is_file():
        content = json.loads(path.read_text(encoding="utf-8"))
        content[AS_RUN] = content.get(AS_RUN, {}) | {name: asdict(found)}
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(content, indent=2), encoding="utf-8")
        partial.replace(path)


class Peak:
    """The most memory that this process took since the mark, beside what it had then; None where nobody tells."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._before = torch.cuda.memory_allocated(device)
        else:
            self._before = _resident("VmRSS") if _forget_peak() else None

    def bytes(self) -> int | None:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) - self._before
        return None if self._before is None else max(0, _resident("VmHWM") - self._before)


def _forget_peak() -> bool:
    """Linux: let the peak of this process begin anew. See proc_pid_clear_refs(5)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _resident(entry: str) -> int:
    return int(Path("/proc/self/status").read_text().split(f"{entry}:")[1].split()[0]) * 1024


class Watched:
    """The steps of a task, of which the first is measured. From the second on fewer clips go through at once where the
    first took more memory than was estimated and more than was free."""

    def __init__(self, name: str, task, need: Need) -> None:
        """task: has `passes`, `losses` and `micro_batches`, see `sft.Finetuning`."""
        self._name, self._task, self._need = name, task, need
        self._peak: Peak | None = None
        self._room: float | None = None  # that was free before the first step

    def losses(self, step: int) -> Iterable[dict[str, Tensor]]:
        if self._room is None:
            self._room, self._peak = free(self._task.device), Peak(self._task.device)
        elif self._peak:
            self._check(self._peak.bytes())
            self._peak = None
        return self._task.losses(step)

    def micro_batches(self, step: int) -> int:
        return self._task.micro_batches(step)

    def _check(self, took: int | None) -> None:
        passes, estimate = self._task.passes, self._need.of(self._task.passes)
        if took is None:
            return
        log.info("%s: the first step took %.1f GiB, estimated %.1f", self._name, took / GIB, estimate / GIB)
        if took > SHARE * self._room and took > estimate and passes.micro_batch > 1 and loop.world()[1] == 1:
            fewer = max(1, int(passes.micro_batch * SHARE * self._room / took))
            self._task.passes = Passes(fewer, passes.checkpointing)
            say(self._name, self._task.passes, "that is more than was free")

"""One training loop for every stage: schedule, clipping, progress, log, checkpoints, resume.

A step depends on nothing but its number: batches and random numbers are drawn from the seed and the step, so a run that
was killed and resumed ends like one that was not.
"""

import contextlib
import datetime
import json
import logging
import math
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch import distributed as dist

from evoxtral.errors import EvoxtralError

log = logging.getLogger(__name__)

SAVE_EVERY = 180.0  # s between two saves of a state: what an interruption can cost
PATIENCE = datetime.timedelta(days=7)  # that launched processes wait while the first one makes clips
MISTAKE = "mistake.txt"  # messages of a worker for the user
PRECISION = "EVOXTRAL_TRAINING_PRECISION"  # in the environment, which the processes of `parallel` share


@dataclass(frozen=True)
class Schedule:
    """The rate rises over `warmup` steps, stays for the `hold` share of all steps, and falls along a cosine to `floor`.

    learning_rate: the peak. floor: share of it at the last step.
    """

    learning_rate: float
    warmup: int
    steps: int
    hold: float = 0.0
    floor: float = 0.02

    def factor(self, step: int) -> float:
        """What the peak rates are multiplied by at this step."""
        falling = max(0.0, step / self.steps - self.hold) / (1 - self.hold)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, falling)))
        return min(1.0, (step + 1) / max(1, self.warmup)) * (self.floor + (1 - self.floor) * cosine)


def cores() -> int:
    """Number of cores that this process may use (Linux), or else of all cores."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parallel(work: Callable[..., None], *args, processes: int | None = None, **more) -> None:
    """Run `work(*args, **more)` in the processes that a launcher started, or else in several that share each step: by
    default one per core, or one for a CUDA device.

    On a CPU with few cores this beats threads: no operator waits for another thread at its end. The work itself must be
    importable and picklable. One process: it runs right here.
    """
    processes = processes or (1 if torch.cuda.is_available() else cores())
    if processes == 1 or launched():
        work(*args, **more)
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            torch.multiprocessing.spawn(_join, (processes, Path(folder), partial(work, **more), args), processes)
        except torch.multiprocessing.ProcessRaisedException:
            if (mistake := Path(folder, MISTAKE)).exists():
                raise EvoxtralError(mistake.read_text(encoding="utf-8")) from None
            raise


def launched() -> bool:
    """Whether `accelerate launch` or `torchrun` started this process as one of several, perhaps on several machines."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def join_launched() -> None:
    """Meet the other processes of a launcher, if there are any."""
    if launched():
        from accelerate import PartialState

        PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)


def leave_launched() -> None:
    """The end of what `join_launched` began."""
    if launched() and dist.is_initialized():
        dist.destroy_process_group()


def device() -> torch.device:
    """Where this process trains: its own CUDA device if there are any."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) if launched() else 0)


@contextlib.contextmanager
def first_then_others() -> Iterator[None]:
    """The first of launched processes runs the block, then the others do: what it wrote is there for them."""
    waits = dist.is_initialized() and world()[0] > 0
    if waits:
        dist.barrier()
    yield
    if dist.is_initialized() and not waits:
        dist.barrier()


def first_only(work: Callable[[], None]) -> None:
    """Run `work` in the first process; the others wait for its end."""
    if world()[0] == 0:
        work()
    if dist.is_initialized():
        dist.barrier()


def end_with_parent() -> None:
    """End a worker when its parent was killed: otherwise it would write files beside the resumed run."""

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _join(rank: int, processes: int, folder: Path, work: Callable[..., None], args: tuple) -> None:
    end_with_parent()
    torch.set_num_threads(max(1, cores() // processes))
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    told["OMP_NUM_THREADS"] = torch.get_num_threads()
    os.environ |= {name: str(value) for name, value in told.items()}  # `accelerate` learns of it as from a launcher
    logging.basicConfig(level=logging.INFO if rank == 0 else logging.WARNING, format="%(message)s")
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=processes)
    try:
        work(*args)
    except (EvoxtralError, OSError) as error:  # only its traceback would reach the parent
        Path(folder, MISTAKE).write_text(str(error), encoding="utf-8")
        raise
    dist.destroy_process_group()


def matmul_dtype(device: torch.device | str = "cpu") -> torch.dtype:
    """In which precision training multiplies: bf16 on CUDA, and on CPUs that multiply it faster than float32."""
    return torch.bfloat16 if torch.device(device).type == "cuda" or cpu_precision() == "bf16" else torch.float32


def cpu_precision() -> str:
    """bf16 or float32: as PRECISION says, or else by measurement.

    A run measures once and keeps to it: on a busy machine a second measurement may differ, and with it the end of a run
    that was interrupted.
    """
    return os.environ.get(PRECISION) or ("bf16" if _bf16_is_faster() else "float32")


@cache
def _bf16_is_faster() -> bool:
    """By measurement, on a product of the scale model's size. A CPU's flags do not tell: of two that have avx512_bf16,
    one took twice as long in bf16 as in float32, the other a fifth (benchmarks/precision.py).
    """
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = torch.ones(2048, 256, dtype=dtype), torch.ones(512, 256, dtype=dtype)
        times = []
        for _ in range(7):
            begun = time.perf_counter()
            F.linear(a, b)
            times.append(time.perf_counter() - begun)
        seconds[dtype] = sorted(times)[len(times) // 2]
    return seconds[torch.bfloat16] < 0.75 * seconds[torch.float32]  # casting costs something too


def autocast(device: torch.device | str = "cpu") -> torch.autocast:
    """Products in `matmul_dtype`, the rest in float32 where it matters."""
    dtype = matmul_dtype(device)
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=dtype is torch.bfloat16)


def fit(
    modules: Sequence[nn.Module],
    optimizers: Sequence[torch.optim.Optimizer],
    losses: Callable[[int], Iterable[dict[str, Tensor]]],
    schedule: Schedule,
    folder: Path,
    name: str,
    seed: int = 0,
    clip: float = 1.0,
    evaluate: Callable[[int], dict[str, float]] | None = None,
    evaluate_every: int = 0,
    clips: int = 0,
    micro_batches: Callable[[int], int] = lambda step: 1,
) -> None:
    """Train the parameters that `optimizers` hold.

    losses: step -> micro-batches of named, weighted losses; the sum of all is minimised.
    modules: their trainable parameters are saved to and resumed from `folder/NAME.state.pt`.
    clip: gradient norm. evaluate: called every `evaluate_every` steps. clips: of a step, for the log; 0 where
    steps do not all use every parameter.
    micro_batches: step -> how many of them `losses` gives this process.
    The log goes to `folder/NAME.log.jsonl`, a line every 20 steps.
    """
    from tqdm import tqdm

    state, history = folder / f"{name}.state.pt", folder / f"{name}.log.jsonl"
    peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    parameters = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    first = _resume(state, modules, optimizers) if state.exists() else 0
    rank, processes = world()
    shared = _Shared(modules, uniform=clips > 0)
    first_process = rank == 0
    if first_process:
        whole_chunks(history, 1)  # without the half of a line that a kill left
    saved, sums, norms, since, counted = time.monotonic(), {}, 0.0, time.monotonic(), first
    with tqdm(
        total=schedule.steps, initial=first, desc=name, unit="step", smoothing=0.05, disable=not first_process
    ) as bar:
        for step in range(first, schedule.steps):
            torch.manual_seed((seed * 1_000_003 + step) * processes + rank)  # a task may seed each micro-batch
            factor = schedule.factor(step)
            _set_rates(optimizers, peaks, factor)
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            for parts in shared.each(losses(step), micro_batches(step)):
                sum(parts.values()).backward()
                for key, value in parts.items():
                    sums[key] = sums.get(key, 0.0) + value.item()
            norm = nn.utils.clip_grad_norm_(parameters, clip)
            norms += norm.item()
            if torch.isfinite(norm):  # one bad batch must not cost the run
                for optimizer in optimizers:
                    optimizer.step()
            bar.update()
            if (step + 1) % 20 == 0 and first_process:
                steps = step + 1 - counted  # fewer than 20 after an interruption
                means = {key: round(value / steps, 4) for key, value in sums.items()}
                pace = (time.monotonic() - since) / steps
                row = {"step": step + 1, **means, "norm": round(norms / steps, 4)}
                row |= {"rate": schedule.learning_rate * factor, "seconds": round(pace, 3)}
                append(history, row | ({"clips_per_second": round(clips / pace, 3)} if clips else {}))
                bar.set_postfix(means, refresh=False)
                sums, norms, since, counted = {}, 0.0, time.monotonic(), step + 1
            if first_process and evaluate and evaluate_every and (step + 1) % evaluate_every == 0:
                row = {"step": step + 1, **evaluate(step + 1)}
                log.info("%s %s", name, row)
                append(history, row)
            if first_process and time.monotonic() - saved > SAVE_EVERY:
                _save(state, modules, optimizers, step + 1)
                saved = time.monotonic()
    if first_process:
        _save(state, modules, optimizers, schedule.steps)


def _set_rates(optimizers: Sequence[torch.optim.Optimizer], peaks: list[list[float]], factor: float) -> None:
    for optimizer, rates in zip(optimizers, peaks, strict=True):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor


def append(history: Path, row: dict) -> None:
    """Add a line to a log. What is written here is all that trackers are told: see `tracking`."""
    with history.open("a") as file:
        file.write(json.dumps(row) + "\n")


def whole_chunks(path: Path, size: int) -> list[dict]:
    """Rows of a JSONL file that grows by chunks of `size` rows; what an interruption left behind the last whole one is
    cut from the file. A last chunk of fewer rows counts as an interrupted one, and is made again.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    complete = sum(line.endswith("\n") for line in lines)
    lines = lines[: complete // size * size]
    path.write_text("".join(lines), encoding="utf-8")
    return [json.loads(line) for line in lines]


def neighbours() -> int:
    """How many processes of a data-parallel run this machine has."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or world()[1])


def world() -> tuple[int, int]:
    """(rank, processes) of a data-parallel run; (0, 1) of an ordinary one."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


class _Through(nn.Module):
    """A module whose forward pass is whatever it is given: DDP has to see each pass begin."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        return compute()


class _Shared:
    """Gradients over processes, by DDP of `accelerate`."""

    def __init__(self, modules: Sequence[nn.Module], uniform: bool) -> None:
        """uniform: every step uses every parameter, and DDP need not look for those that it does not."""
        self._wrapped = None
        if world()[1] > 1:
            from accelerate import Accelerator
            from accelerate.utils import DistributedDataParallelKwargs

            settings = DistributedDataParallelKwargs(find_unused_parameters=not uniform, broadcast_buffers=False)
            shared = Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[settings])
            self._wrapped = shared.prepare_model(_Through(nn.ModuleList(modules)))

    def each(self, losses: Iterable[dict[str, Tensor]], count: int) -> Iterator[dict[str, Tensor]]:
        """The losses of a step, each computed where DDP sees it; gradients are exchanged after the last only."""
        if self._wrapped is None:
            yield from losses
            return
        found = iter(losses)
        for k in range(count):
            with self._wrapped.no_sync() if k < count - 1 else contextlib.nullcontext():
                yield self._wrapped(lambda: next(found))


def _trainable(modules: Sequence[nn.Module]) -> list[dict[str, Tensor]]:
    return [{n: p.data for n, p in module.named_parameters() if p.requires_grad} for module in modules]


def _save(path: Path, modules, optimizers, step: int) -> None:
    content = {
        "step": step,
        "modules": _trainable(modules),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
    }
    torch.save(content, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").rename(path)  # a kill while saving leaves the older state whole


def _resume(path: Path, modules, optimizers) -> int:
    content = torch.load(path)
    for tensors, saved in zip(_trainable(modules), content["modules"], strict=True):
        for name, tensor in tensors.items():
            tensor.copy_(saved[name])
    for optimizer, saved in zip(optimizers, content["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    log.info("resuming %s at step %d", path.stem, content["step"])
    return content["step"]

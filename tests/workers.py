"""What tests run in processes of their own. Importing this module is cheap: every such process does it."""

import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path

import torch
from torch import distributed as dist
from torch import nn

from evoxtral.errors import RecipeError
from training import loop

MISTAKE = "This cannot be trained."


def train_toy(folder: Path) -> None:
    """Two steps of a linear layer, each process with its own loss; parameters go to RANK.json. Then an error."""
    rank, _ = loop.world()
    layer = nn.Linear(3, 1)
    with torch.no_grad():
        layer.weight.fill_(0.5)
        layer.bias.fill_(0.0)

    def losses(step: int):
        yield {"loss": ((rank + 1) * layer(torch.ones(1, 3) * (step + 1))).sum()}

    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    loop.fit([layer], [optimizer], losses, loop.Schedule(0.1, warmup=0, steps=2, hold=0.5), folder, "toy", clip=1e9)
    (folder / f"{rank}.json").write_text(json.dumps(layer.weight[0].tolist() + layer.bias.tolist()))
    dist.barrier()  # the first process to fail ends the others
    raise RecipeError(MISTAKE)


def note_pid_and_sleep(folder: Path) -> None:
    (folder / f"{os.getpid()}.pid").touch()
    signal.pause()


def two_sleeping_workers(folder: Path) -> None:
    """Started in a script's background, where an interrupt is ignored: only the parent's end tells the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    loop.parallel(note_pid_and_sleep, folder, processes=2)


def pipeline(arguments: list[str], output: Path) -> None:
    """`training/run.py` in this process, on one core and in float32, whatever this machine would choose."""
    from training import run

    # What it starts, it starts as a process does that a person has started, not as it was started itself.
    multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)
    os.environ[loop.PRECISION] = "float32"
    loop.cores = lambda: 1
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.exit(run.main(arguments))


def launched(arguments: list[str], output: Path, rank: int, processes: int, port: int) -> None:
    """`training/run.py` as one of the processes that `accelerate launch` or `torchrun` starts; it saves every step."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    loop.SAVE_EVERY = -1.0
    pipeline(arguments, output)

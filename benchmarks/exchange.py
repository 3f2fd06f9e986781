"""What the exchange of gradients costs two processes of a CPU: by `accelerate`'s DDP as training does it, and as it did
once, in one message of gloo's.

    OMP_NUM_THREADS=1 python benchmarks/exchange.py     the adapter of the 250m shape, seconds

The layers of the adapter alone are there, on one position: what is measured is the exchange and little else. A step of
SFT at that shape is in benchmarks/train.json under `sft 250m`; figures from here under `exchange 250m`.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch import distributed as dist
from transformers import VoxtralForConditionalGeneration

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.models import SHAPES  # noqa: E402
from benchmarks.train import TRAINING, keep_beside  # noqa: E402
from evoxtral.model.lora import LoraRecipe, targeted  # noqa: E402
from training import loop  # noqa: E402


class Adapters(nn.Module):
    """A and B of each layer that a recipe adapts, and nothing around them."""

    def __init__(self, sizes: list[tuple[int, int]], rank: int) -> None:
        super().__init__()
        pairs = ((nn.Linear(n, rank, bias=False), nn.Linear(rank, m, bias=False)) for n, m in sizes)
        self.layers = nn.ModuleList(nn.Sequential(*pair) for pair in pairs)

    def losses(self) -> dict[str, Tensor]:
        """Each parameter gets a gradient."""
        return {"loss": sum(layer(torch.ones(1, layer[0].in_features)).sum() for layer in self.layers)}


def sizes_of(shape: str) -> list[tuple[int, int]]:
    with torch.device("meta"):
        model = VoxtralForConditionalGeneration(SHAPES[shape].config())
    return [(layer.in_features, layer.out_features) for _, layer in targeted(model, LoraRecipe().targets)]


def average(parameters: list[nn.Parameter]) -> None:
    """The mean of the gradients over the processes, in one message."""
    flat = torch.cat([p.grad.reshape(-1) for p in parameters])
    dist.all_reduce(flat)
    parts = (flat / loop.world()[1]).split([p.numel() for p in parameters])
    for parameter, mean in zip(parameters, parts, strict=True):
        parameter.grad = mean.view_as(parameter)


def turns(sizes: list[tuple[int, int]], repeats: int, out: str) -> None:
    """In each of two processes: a pass alone, with one message, and by DDP, in turns."""
    torch.manual_seed(0)
    model = Adapters(sizes, LoraRecipe().r)
    parameters = list(model.parameters())
    shared = loop._Shared([model], uniform=True)
    seconds: dict[str, list[float]] = {"alone": [], "one message": [], "DDP": []}
    for _ in range(repeats + 1):
        for way, took in seconds.items():
            model.zero_grad(set_to_none=True)
            dist.barrier()
            begun = time.process_time()
            if way == "DDP":
                for parts in shared.each(_once(model), 1):
                    parts["loss"].backward()
            else:
                model.losses()["loss"].backward()
                if way == "one message":
                    average(parameters)
            took.append(time.process_time() - begun)
    if loop.world()[0] == 0:
        found = {way: statistics.median(took[1:]) for way, took in seconds.items()}
        found = {"parameters": sum(p.numel() for p in parameters), "processor_s": found, "repeats": repeats}
        Path(out).write_text(json.dumps(found), encoding="utf-8")


def _once(model: Adapters) -> Iterator[dict[str, Tensor]]:
    """A step's micro-batches, of which there is one; computed when DDP asks for it."""
    yield model.losses()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="250m")
    parser.add_argument("--repeats", type=int, default=7, help="turns that count (7)")
    parser.add_argument("--results", type=Path, default=TRAINING, help="default: benchmarks/train.json")
    args = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        loop.parallel(turns, sizes_of(args.shape), args.repeats, str(out), processes=2)
        found = json.loads(out.read_text(encoding="utf-8"))
    print(json.dumps(found, indent=1))
    keep_beside(f"exchange {args.shape}", found, args.results)


if __name__ == "__main__":
    main()

"""The published model's shapes on a CPU with weights in 8 and 4 bits, against an older checkout in 16 bits.

    python benchmarks/laptop.py parts --baseline ../older-checkout   # 2 layers of each kind, in turns; 8 GB, minutes
    python benchmarks/laptop.py whole --weights int8                 # all layers: load, one clip, peak memory; 7 GB
    python benchmarks/laptop.py whole --baseline ../older-checkout   # the same in 16 bits by the older one; 14 GB

Weights are random. `parts` measures a step of three rows, a prompt and an encoder's window of three variants in models
of 2 layers, and counts what one layer takes as often as the published model has layers; the output layer once. `whole`
writes a quantised file of the published size, loads it in a fresh process and transcribes 5 s by all three variants.
Results go to benchmarks/laptop.json, by processor and part.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.models import SHAPES, Shape, build, randomise
from benchmarks.precision import processor
from evoxtral.model import lora, stored
from evoxtral.model.quantized import Quantized

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).with_suffix(".json")
LAYERS = 2
STEPS = 6
TOKENS = 128  # of a clip

# Also run by older checkouts: only what all of them have, by either's names.
WORKER = """
import json, resource, sys, time
from contextlib import suppress
import numpy as np, torch
torch.set_num_threads(int(sys.argv[4]))
try:
    from evoxtral.inference.engine import Engine
    from evoxtral.inference.sampling import Decoding
    from evoxtral.model.checkpoints import Checkpoint
except ImportError:
    from evoxtral.engine import Engine
    from evoxtral.decode import Decoding
    from evoxtral.checkpoints import Checkpoint
folder, weights, names = sys.argv[1], sys.argv[2], tuple(sys.argv[3].split(","))
adapters = {name: f"{folder}/{name}" for name in ("sft", "rl")}
chosen = {} if weights == "today" else {"weights": weights}
begun, used = time.perf_counter(), time.process_time()
engine = Engine(Checkpoint("random", f"{folder}/base", adapters, **chosen), device="cpu")
load = time.perf_counter() - begun, time.process_time() - used
engine.prompt.eos_id = -1
t = np.arange(5 * 16000) / 16000
clip = (0.05 * np.random.default_rng(0).normal(size=len(t)) * (1 + np.sin(8 * np.pi * t))).astype(np.float32)
mel = engine.prompt.log_mel([clip], engine.device).to(engine.activations)

def run(what):
    begun = time.perf_counter()
    with torch.inference_mode():
        if what == "encoder":
            engine._encoder(mel, names)
        elif what == "output":
            engine._text.logits(torch.ones(len(names), 1, engine._text.norm.numel(), dtype=engine.activations))
        else:
            decoding = Decoding(max_tokens=int(what), stop_loops=False)
            engine.batch([clip], names, decoding=decoding)
    return time.perf_counter() - begun

print(json.dumps({"load": load, "dtype": str(engine.dtype)}), flush=True)
for line in sys.stdin:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": run(line.strip()), "peak_before": peak,
                      "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}), flush=True)
"""


class Worker:
    """An engine in a process of its own, of this checkout or an older one."""

    def __init__(self, checkout: Path, folder: Path, weights: str, names: tuple[str, ...], threads: int):
        environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, "-W", "ignore", "-c", WORKER, str(folder), weights, ",".join(names), str(threads)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, cwd=checkout, env=environment, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
        )
        self.loaded = json.loads(self.process.stdout.readline())

    def run(self, what: str) -> dict:
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()


class Noise:
    """Random weights of a skeleton by their names, made when they are asked for."""

    def __init__(self, model: torch.nn.Module):
        self._shapes = {name: parameter.shape for name, parameter in model.named_parameters()}

    def __getitem__(self, name: str) -> torch.Tensor:
        one = torch.nn.Module()
        one.register_parameter("weight", torch.nn.Parameter(torch.empty(self._shapes[name], dtype=torch.bfloat16)))
        randomise(one, scale=30.0 if "embed" in name else 1.0)
        return one.weight.detach()

    def quantized(self, path: str, kind: type[Quantized]) -> Quantized:
        return kind.of(self[f"{path}.weight"])


def parts(full: Shape, folder: Path, baseline: Path, weights: list[str], repeats: int, threads: int) -> dict:
    """way -> what the published model would take (s), from models of LAYERS layers in turns."""
    build(replace(full, encoder_layers=LAYERS, text_layers=LAYERS), folder, 2)
    names = ("base", "sft", "rl")
    ways = {"today": (baseline, "today"), **{w: (ROOT, w) for w in weights}}
    workers = {way: Worker(checkout, folder, w, names, threads) for way, (checkout, w) in ways.items()}
    asked = ("encoder", "output", "1", str(1 + STEPS))
    times: dict[str, dict[str, list[float]]] = {way: {what: [] for what in asked} for way in workers}
    for turn in range(1 + repeats):  # the first warms up
        for what in asked:
            for way, worker in workers.items():
                seconds = worker.run(what)["seconds"]
                if turn:
                    times[way][what].append(seconds)
    found = {}
    for way, worker in workers.items():
        worker.end()
        encoder, output, one, more = (statistics.median(times[way][what]) for what in asked)
        step = (more - one) / STEPS
        row = {
            "encoder_s": encoder * full.encoder_layers / LAYERS,
            "prompts_s": (one - encoder - output) * full.text_layers / LAYERS,
            "step_s": (step - output) * full.text_layers / LAYERS + output,
            "output_s": output,
            "dtype": worker.loaded["dtype"],
        }
        row["clip_s"] = row["encoder_s"] + row["prompts_s"] + TOKENS * row["step_s"]
        found[way] = row
        print(way, {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()})
    return found


def write_whole(shape: Shape, folder: Path, weights: str) -> None:
    """A quantised model of random weights and its adapters, never in memory as a whole."""
    small = replace(shape, encoder_layers=1, text_layers=1)
    build(small, folder / "small", 1)
    config = shape.config()
    base = folder / "base"
    base.mkdir(parents=True)
    for file in (folder / "small" / "base").glob("*.json"):
        if not file.name.startswith(("config", "model")):
            (base / file.name).write_bytes(file.read_bytes())
    config.save_pretrained(base)
    model = stored.skeleton(base)
    noise = Noise(model)
    header = stored.Header(weights, stored.KEPT[weights], {})
    stored.write_weights(model, noise, header, base / f"model-{weights}.safetensors")
    recipe = lora.LoraRecipe(r=shape.rank, alpha=2 * shape.rank)
    settings = json.loads((folder / "small" / "sft" / lora.CONFIG_FILE).read_text())
    for name in ("sft", "rl"):
        (folder / name).mkdir()
        (folder / name / lora.CONFIG_FILE).write_text(json.dumps(settings))
        tensors = {}
        for path, module in lora.targeted(model, recipe.targets):
            key = f"base_model.model.{path}"
            tensors[f"{key}.lora_A.weight"] = torch.randn(recipe.r, module.in_features).bfloat16() * 0.01
            tensors[f"{key}.lora_B.weight"] = torch.randn(module.out_features, recipe.r).bfloat16() * 0.01
        from safetensors.torch import save_file

        save_file(tensors, folder / name / lora.WEIGHTS_FILE, {"format": "pt"})


def whole(full: Shape, folder: Path, weights: str, threads: int, checkout: Path = ROOT) -> dict:
    """Load, one clip by three variants and by one, and the most memory."""
    if weights == "today":
        build(full, folder, 2)
    elif not folder.is_dir():
        write_whole(full, folder, weights)
    size = sum(file.stat().st_size for file in (folder / "base").glob("*.safetensors"))
    found = {"file_bytes": size, "threads": threads}
    for names in (("base", "sft", "rl"), ("rl",)):
        worker = Worker(checkout, folder, weights, names, threads)
        clip = worker.run(str(TOKENS))
        worker.end()
        row = {"load_s": worker.loaded["load"][0], "load_processor_s": worker.loaded["load"][1]}
        row |= {"clip_s": clip["seconds"], "peak_loaded_bytes": clip["peak_before"], "peak_bytes": clip["peak"]}
        found[f"{len(names)} variants"] = row
        print(len(names), "variants", row, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("parts", "whole"))
    parser.add_argument("--baseline", type=Path, help="an older checkout; in `whole` it alone is measured")
    parser.add_argument("--weights", nargs="+", default=["int8", "int4"], choices=stored.WEIGHTS)
    parser.add_argument("--shape", choices=SHAPES, default="3b", help="tiny: seconds, does it run?")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="keep the models there, and use those that are there")
    args = parser.parse_args()
    content = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    own, shape = content.setdefault(f"{processor()}, {args.shape}", {}), SHAPES[args.shape]
    with nullcontext(args.folder) if args.folder else tempfile.TemporaryDirectory() as folder:
        if args.part == "parts":
            ways = parts(shape, Path(folder), args.baseline.resolve(), args.weights, args.repeats, args.threads)
            own["parts"] = {"threads": args.threads, "repeats": args.repeats, **ways}
        elif args.baseline:
            folder = Path(folder) / "today"
            own["whole today"] = whole(shape, folder, "today", args.threads, args.baseline.resolve())
        else:
            for weights in args.weights:
                own[f"whole {weights}"] = whole(shape, Path(folder) / weights, weights, args.threads)
    RESULTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""The published model's shapes on a CPU with weights in 8 and 4 bits, against an older checkout in 16 bits.

    python benchmarks/laptop.py parts --baseline ../older-checkout   # 2 layers of each kind, in turns; 3 GB, minutes
    python benchmarks/laptop.py whole --weights int8                 # all layers: load, one clip, peak memory; 7 GB
    python benchmarks/laptop.py whole --baseline ../older-checkout   # the same in 16 bits by the older one; 14 GB
    python benchmarks/laptop.py parts --baseline ../older-checkout --avx2   # as on a CPU with AVX2 alone

Weights are random. `parts` measures a step of three rows, a prompt and an encoder's window of three variants in models
of 2 layers and an eighth of the vocabulary, in processor seconds a thread, and counts what one layer takes as often as
the published model has layers. `whole`
writes a quantised file of the published size, loads it in a fresh process and transcribes 5 s by all three variants,
then again with RL shown before the others, and in another process by RL alone. Results go to benchmarks/laptop.json, by
processor and part; `docs` writes docs/speed.md's tables and the README's row from them.
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

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import instructions

LIMITED = instructions.limit(sys.argv)

import torch  # noqa: E402

from benchmarks.models import SHAPES, Shape, build, randomise  # noqa: E402
from benchmarks.precision import processor  # noqa: E402
from evoxtral.model import lora, quantized_files  # noqa: E402
from evoxtral.model.quantized import Quantized  # noqa: E402
from training.doc_tables import write_block  # noqa: E402

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).with_suffix(".json")
LAYERS = 2
PART_OF_VOCABULARY = 8
STEPS = 6
TOKENS = 128  # of a clip
WAYS = {"today": "16 bits, e94a239", "int8": "int8", "int4": "int4"}
WHOLE = (  # title, where it is in a result, unit and its size
    ("three variants", ("3 variants", "clip_s"), "s", 1),
    ("RL alone", ("1 variants", "clip_s"), "s", 1),
    ("RL first: its text", ("rl first", "first_s"), "s", 1),
    ("RL first: all texts", ("rl first", "all_s"), "s", 1),
    ("load, file in the page cache", ("3 variants", "load_s"), "s", 1),
    ("peak memory", ("3 variants", "peak_bytes"), "GB", 1e9),
)
PARTS = {
    "encoder, three variants": "encoder_s",
    "prompts, three variants": "prompts_s",
    "step of three rows": "step_s",
    "clip of 5 s, 128 tokens": "clip_s",
}

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
if sys.argv[5] == "few layers":  # of a model that is large with all of them
    with suppress(ImportError):
        from evoxtral.model.memory import freed_memory_returned
        with freed_memory_returned():
            pass
t = np.arange(5 * 16000) / 16000
clip = (0.05 * np.random.default_rng(0).normal(size=len(t)) * (1 + np.sin(8 * np.pi * t))).astype(np.float32)
mel = engine.prompt.log_mel([clip], engine.device).to(engine.activations)

def run(what):
    begun, used = time.perf_counter(), time.process_time()
    with torch.inference_mode():
        if what == "encoder":
            engine._encoder(mel, names)
        elif what == "output":
            engine._text.logits(torch.ones(len(names), 1, engine._text.norm.numel(), dtype=engine.activations))
        else:
            decoding = Decoding(max_tokens=int(what), stop_loops=False)
            engine.batch([clip], names, decoding=decoding)
    return {"seconds": time.perf_counter() - begun, "processor_s": time.process_time() - used}

def shown_first(tokens):
    begun, used, first = time.perf_counter(), time.process_time(), None
    decoding = Decoding(max_tokens=tokens, stop_loops=False)
    for step in engine.stream((16000, clip), names, decoding=decoding, first=names[-1]):
        if step[names[-1]].done and first is None:
            first = {"first_s": time.perf_counter() - begun, "first_processor_s": time.process_time() - used}
    return first | {"all_s": time.perf_counter() - begun, "all_processor_s": time.process_time() - used}

print(json.dumps({"load": load, "dtype": str(engine.dtype)}), flush=True)
for line in sys.stdin:
    if line.startswith("first "):
        print(json.dumps(shown_first(int(line.split()[1]))), flush=True)
        continue
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({**run(line.strip()), "peak_before": peak,
                      "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}), flush=True)
"""


class Worker:
    """An engine in a process of its own, of this checkout or an older one."""

    def __init__(
        self,
        checkout: Path,
        folder: Path,
        weights: str,
        names: tuple[str, ...],
        threads: int,
        layers: str = "all layers",
    ):
        environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": str(threads)}
        arguments = [str(folder), weights, ",".join(names), str(threads), layers]
        command = [sys.executable, "-W", "ignore", "-c", WORKER, *arguments]
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
        return quantized_files.laid_out(path, kind.of(self[f"{path}.weight"]))


def parts(full: Shape, folder: Path, baseline: Path, weights: list[str], repeats: int, threads: int) -> dict:
    """way -> what the published model would take (s), from models of LAYERS layers in turns."""
    small = replace(full, encoder_layers=LAYERS, text_layers=LAYERS, vocabulary=full.vocabulary // PART_OF_VOCABULARY)
    build(small, folder, 2)
    names = ("base", "sft", "rl")
    ways = {"today": (baseline, "today"), **{w: (ROOT, w) for w in weights}}
    workers = {way: Worker(checkout, folder, w, names, threads, "few layers") for way, (checkout, w) in ways.items()}
    asked = ("encoder", "output", "1", str(1 + STEPS))
    times: dict[str, dict[str, list[float]]] = {way: {what: [] for what in asked} for way in workers}
    for turn in range(1 + repeats):  # the first warms up
        for what in asked:
            for way, worker in workers.items():
                seconds = worker.run(what)["processor_s"] / threads
                if turn:
                    times[way][what].append(seconds)
    found = {}
    for way, worker in workers.items():
        worker.end()
        encoder, output, one, more = (statistics.median(times[way][what]) for what in asked)
        step = (more - one) / STEPS - output
        whole_output = output * PART_OF_VOCABULARY
        row = {
            "encoder_s": encoder * full.encoder_layers / LAYERS,
            "prompts_s": (one - encoder - output) * full.text_layers / LAYERS,
            "step_s": step * full.text_layers / LAYERS + whole_output,
            "output_s": whole_output,
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
    model = quantized_files.skeleton(base)
    noise = Noise(model)
    header = quantized_files.Header.of(model, weights, {})
    quantized_files.write_weights(model, noise, header, base / f"model-{weights}.safetensors")
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
        if weights != "today" and len(names) > 1:
            found["rl first"] = worker.run(f"first {TOKENS}")
            print("RL before the others", found["rl first"], flush=True)
        worker.end()
        row = {"load_s": worker.loaded["load"][0], "load_processor_s": worker.loaded["load"][1]}
        row |= {"clip_s": clip["seconds"], "clip_processor_s": clip["processor_s"]}
        row |= {"peak_loaded_bytes": clip["peak_before"], "peak_bytes": clip["peak"]}
        found[f"{len(names)} variants"] = row
        print(len(names), "variants", row, flush=True)
    return found


def table(content: dict) -> str:
    """Markdown of every processor's results."""
    lines = []
    for name, own in content.items():
        wholes = {key.removeprefix("whole "): one for key, one in own.items() if key.startswith("whole ")}
        if wholes:
            lines += ["", f"{name}, {next(iter(wholes.values()))['threads']} threads:", "", *_whole_table(wholes)]
        if "parts" in own:
            lines += [
                "",
                f"{name}, in turns, {own['parts']['threads']} thread, processor seconds:",
                "",
                *_parts_table(own["parts"]),
            ]
    return "\n".join(lines[1:]) + "\n"


def _whole_table(wholes: dict) -> list[str]:
    ways = [way for way in WAYS if way in wholes]
    lines = [f"| | {' | '.join(WAYS[way] for way in ways)} |", "|---" * (len(ways) + 1) + "|"]
    for title, keys, unit, scale in WHOLE:
        found = {way: _at(wholes[way], keys) for way in ways}
        if all(value is None for value in found.values()):
            continue
        base = found.get("today")
        cells = [
            "–"
            if v is None
            else f"{v / scale:.1f} {unit}" + (f" ({base / v:.1f} ×)" if base and way != "today" else "")
            for way, v in found.items()
        ]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return lines


def _parts_table(parts: dict) -> list[str]:
    ways = [way for way in WAYS if way in parts]
    lines = [f"| | {' | '.join(WAYS[way] for way in ways)} |", "|---" * (len(ways) + 1) + "|"]
    for title, key in PARTS.items():
        cells = [
            f"{parts[way][key]:.2f}" + (f" ({parts['today'][key] / parts[way][key]:.1f} ×)" if way != "today" else "")
            for way in ways
        ]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return lines


def _at(found: dict, keys: tuple[str, ...]) -> float | None:
    for key in keys:
        found = found.get(key, {})
    return found or None


def readme(content: dict) -> str:
    """What the README says of a laptop."""
    name, own = next((name, own) for name, own in content.items() if "whole int8" in own)
    found = own["whole int8"]
    alone, three = (found[f"{count} variants"]["clip_s"] for count in (1, 3))
    peak = found["3 variants"]["peak_bytes"] / 1e9
    return (
        f"in 8 bits, with {peak:.1f} GB of memory: a clip of 5 s with {TOKENS} tokens "
        f"took {alone:.0f} s by RL alone and {three:.0f} s by all three on two cores of an {name.split(',')[0]}"
    )


def write_docs(content: dict) -> None:
    write_block(ROOT / "docs" / "speed.md", "<!-- laptop:start -->\n", "<!-- laptop:end -->", table(content))
    write_block(ROOT / "README.md", "<!-- laptop:start -->", "<!-- laptop:end -->", readme(content))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("parts", "whole", "docs"))
    parser.add_argument("--baseline", type=Path, help="an older checkout; in `whole` it alone is measured")
    parser.add_argument("--weights", nargs="+", default=["int8", "int4"], choices=quantized_files.WEIGHTS)
    parser.add_argument("--shape", choices=SHAPES, default="3b", help="tiny: seconds, does it run?")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="keep the models there, and use those that are there")
    parser.add_argument("--avx2", action="store_true", help="as on a CPU that has no more than AVX2")
    args = parser.parse_args()
    content = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    if args.part == "docs":
        return write_docs(content)
    own, shape = content.setdefault(f"{processor()}{LIMITED}, {args.shape}", {}), SHAPES[args.shape]
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

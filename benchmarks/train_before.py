"""SFT of the scale model here against an older checkout of this repository: processor seconds of the same steps, in
turns, one process each.

    git worktree add --detach ../before e94a239
    OMP_NUM_THREADS=1 python benchmarks/train_before.py ../before

A step is that of the tiny recipe: 16 clips of the embedded voice, 8 at once, whole windows, dropout as published.
Results go to benchmarks/train.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STEPS = "--steps-of"  # how a process is told that it computes them


def steps_of(data: Path, cropped: float) -> None:
    """Compute a step for every line of standard input; says how long it took and its loss."""
    import torch

    try:
        from evoxtral.inference.prompt import Prompt
        from evoxtral.model import checkpoints
        from evoxtral.model.lora import LoraRecipe
    except ImportError:  # as e94a239 has them
        from evoxtral import checkpoints
        from evoxtral.lora import LoraRecipe
        from evoxtral.prompt import Prompt
    from training import sft
    from training.dataset import Clips

    torch.set_num_threads(1)
    torch.manual_seed(0)  # the adapter begins alike
    clips, base = Clips.load(data, "speech"), ROOT / "evoxtral/assets/tiny/base"
    tuned = sft.adapted(base, LoraRecipe(), None, torch.device("cpu"))
    tuned.train()
    config = sft.SftConfig(micro_batch=8, neftune=0.0, cropped=cropped, vary=True)
    prompt = Prompt(base, checkpoints.load_config(base))
    task = sft.Finetuning(tuned, prompt, clips, [clip.text for clip in clips.clips], config)
    if hasattr(task, "run_as"):
        task.run_as(type(task.passes)(task.most))
    parameters = [p for p in tuned.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    print("ready", flush=True)
    for line in sys.stdin:
        step, begun, loss = int(line), time.process_time(), 0.0
        torch.manual_seed(step)
        optimizer.zero_grad(set_to_none=True)
        for parts in task.losses(step):
            sum(parts.values()).backward()
            loss += parts["loss"].item()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        print(json.dumps({"s": time.process_time() - begun, "loss": loss}), flush=True)


def measure(before: Path, steps: int, precision: str, cropped: float) -> dict:
    """Seconds and losses of each; the first of the steps is of neither, as it allocates memory."""
    from training import dataset

    trees = {"before": before.resolve(), "here": ROOT}
    with tempfile.TemporaryDirectory() as folder:
        dataset.build(Path(folder), "speech", dataset.DataConfig(clips=64, keep_audio=False), workers=1)
        running = {}
        for name, tree in trees.items():
            command = [sys.executable, __file__, STEPS, folder, "--cropped", str(cropped)]
            told = os.environ | {"PYTHONPATH": str(tree), "EVOXTRAL_TRAINING_PRECISION": precision}
            running[name] = subprocess.Popen(
                command, cwd=tree, env=told, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            running[name].stdout.readline()
        found = {name: [] for name in trees}
        for step in range(steps + 1):
            for name, process in running.items():
                process.stdin.write(f"{step}\n")
                process.stdin.flush()
                found[name].append(json.loads(process.stdout.readline()))
        for process in running.values():
            process.communicate()
    seconds = {name: [step["s"] for step in rows[1:]] for name, rows in found.items()}
    ratios = [a / b for a, b in zip(seconds["before"], seconds["here"], strict=True)]
    return {
        "clips": 16, "precision": precision, "cropped": cropped, "step_s": seconds,
        "losses": {name: [step["loss"] for step in rows] for name, rows in found.items()},
        "ratio": sum(seconds["before"]) / sum(seconds["here"]), "median_ratio": statistics.median(ratios),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("before", type=Path, nargs="?", help="folder of the older checkout")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--precision", choices=("bf16", "float32"), help="default: what training chooses here")
    parser.add_argument("--cropped", type=float, default=0.0, help="share of steps that end with their longest clip")
    parser.add_argument("--results", type=Path, help="default: benchmarks/train.json")
    parser.add_argument(STEPS, type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.steps_of:
        steps_of(args.steps_of, args.cropped)
        return
    sys.path.insert(0, str(ROOT))
    from benchmarks.train import TRAINING, keep_beside
    from training import loop

    if not args.before or not (args.before / "training/sft.py").is_file():
        parser.error("name the folder of an older checkout of this repository")
    precision = args.precision or loop.cpu_precision()
    found = measure(args.before, args.steps, precision, args.cropped)
    print(json.dumps(found, indent=1))
    keep_beside(f"sft tiny {precision}" + " cropped" * bool(args.cropped), found, args.results or TRAINING)


if __name__ == "__main__":
    main()

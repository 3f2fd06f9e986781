"""Put a finished run where people find it: weights and figures into the package, the results table into the README.

`python training/publish.py runs/NAME` copies base, adapters and results into evoxtral/assets/ and rewrites the README's
results from them; without a run it only rewrites the README.
"""

import argparse
import json
import shutil
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # see run.py

from evoxtral import checkpoints, metrics  # noqa: E402
from evoxtral.errors import EvoxtralError, RecipeError  # noqa: E402
from training import bench, raft  # noqa: E402

RESULTS = ROOT / "evoxtral" / "assets" / "results"
README = ROOT / "README.md"
START, END = "<!-- results:start -->\n", "<!-- results:end -->"
MAX_SHARD = 9_000_000  # bytes; the Hub and this repository want every file under 10 MB
COPIED = ("config.json", "generation_config.json", "processor_config.json", "preprocessor_config.json", "tekken.json")


def install(run: Path, target: Path = checkpoints.TINY_FOLDER) -> None:
    """Copy the base (in shards), the adapters and the figures of a finished run. Raises RecipeError for another."""
    if not (run / "results.json").is_file():
        raise RecipeError(f"{run} is not a finished run: it has no results.json; finish it with training/run.py.")
    if (run / "base").resolve() != (target / "base").resolve():
        shutil.rmtree(target, ignore_errors=True)
        model = checkpoints.load_base(run / "base", checkpoints.load_config(run / "base").dtype)
        model.save_pretrained(target / "base", max_shard_size=MAX_SHARD)
        for name in COPIED:
            if (run / "base" / name).is_file() and not (target / "base" / name).is_file():
                shutil.copyfile(run / "base" / name, target / "base" / name)
    for name in ("sft", "rl"):
        (target / name).mkdir(parents=True, exist_ok=True)
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copyfile(run / name / file, target / name / file)
    RESULTS.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(run / "results.json", RESULTS / "measured.json")
    (RESULTS / "training.json").write_text(json.dumps(curves(run), indent=1) + "\n", encoding="utf-8")


def curves(run: Path) -> dict:
    """Training curves of a run: losses by stage, and the rewards of RAFT before and after choosing."""
    out: dict = {"stages": {}}
    for stage in ("pretrain", "sft", "rl"):
        log = run / f"{stage}.log.jsonl"
        if log.is_file():
            out["stages"][stage] = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    samples = raft.read(run / "samples.jsonl")
    out["raft"] = {
        "clips": len(samples),
        "samples": len(samples[0].rewards),
        "mean_reward": statistics.fmean(r for s in samples for r in s.rewards),
        "mean_best_reward": statistics.fmean(max(s.rewards) for s in samples),
        "rewards": sorted(round(r, 3) for s in samples for r in s.rewards),
        "best_rewards": sorted(round(max(s.rewards), 3) for s in samples),
    }
    return out


def readme_block() -> str:
    """The README's results, from the files in evoxtral/assets/results/ and nowhere else."""
    published = json.loads((RESULTS / "published.json").read_text(encoding="utf-8"))["variants"]
    measured = json.loads((RESULTS / "measured.json").read_text(encoding="utf-8"))
    lines = [
        "The published adapters on Voxtral-Mini-3B, as their model cards state it (50 clips, in %):",
        "",
        "| | Base | SFT | RL |",
        "|---|---|---|---|",
    ]
    for metric in metrics.METRICS:
        cells = [f"{100 * published[name][metric.name]:.1f}" for name in ("base", "sft", "rl")]
        lines.append(f"| {metric.label} | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"The scale model that ships here, measured on {measured['n']} held-out clips of the embedded voice, "
        f"{measured['clips']['held_out_voices']} of them in voices it never heard "
        f"({measured['date']}, seed {measured['seed']}, commit {measured['commit']}; in %, with 95 % intervals):",
        "",
        bench.table(measured),
        "",
    ]
    return "\n".join(lines)


def write_readme() -> None:
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(START)
    README.write_text(before + START + readme_block() + END + rest.split(END, 1)[1], encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="training/publish.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("run", nargs="?", type=Path, help="the folder of a finished run")
    options = parser.parse_args(arguments)
    try:
        if options.run:
            install(options.run)
        write_readme()
    except EvoxtralError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

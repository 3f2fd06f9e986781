"""Put a finished run where people find it: weights and figures into the package, the results table into the README.

`python training/publish.py runs/NAME` copies base, adapters and results into evoxtral/assets/ and rewrites the README's
results and example from them; without a run it only rewrites the README. With --push it sends the adapter of any run to
the Hub instead, with its card.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # see run.py

from evoxtral import confidence, metrics  # noqa: E402
from evoxtral.errors import EvoxtralError, RecipeError  # noqa: E402
from evoxtral.inference import alignment  # noqa: E402
from evoxtral.model import checkpoints, phoneme_head  # noqa: E402
from training import bench, card, evaluate_people, raft  # noqa: E402
from training.corpora import dataset_card  # noqa: E402

RESULTS = ROOT / "evoxtral" / "assets" / "results"
README = ROOT / "README.md"
MAX_SHARD = 9_000_000  # bytes; the Hub and this repository want every file under 10 MB
CURVE_POINTS = 60  # of a training curve, at most
REWARD_BINS = 50
UNSHOWN = ("step", "rate", "seconds", "norm", "clips_per_second")  # of a log; what else it has is a curve
COPIED = ("config.json", "generation_config.json", "processor_config.json", "preprocessor_config.json", "tekken.json",
          confidence.FILE, alignment.FILE, phoneme_head.FILE)  # fmt: skip


def install(run: Path, target: Path = checkpoints.TINY_FOLDER) -> None:
    """Copy the base (in shards), the adapters and the figures of a finished run of the scale model. Raises RecipeError
    for another; what is there already stays until all of the new is."""
    if not (run / "results.json").is_file():
        raise RecipeError(f"{run} is not a finished run: it has no results.json; finish it with training/run.py.")
    if (base := _recipe(run)["base"]) != checkpoints.TINY:
        raise RecipeError(f"{run} is a run of {base}: what ships here is the scale model.")
    with checkpoints.atomic_folder(target.with_name(f"{target.name}.new")) as new:
        model = checkpoints.load_base(run / "base", checkpoints.load_config(run / "base").dtype)
        model.save_pretrained(new / "base", max_shard_size=MAX_SHARD)
        for name in COPIED:
            if (run / "base" / name).is_file() and not (new / "base" / name).is_file():
                shutil.copyfile(run / "base" / name, new / "base" / name)
        for name in ("sft", "rl"):
            (new / name).mkdir()
            for file in ("adapter_config.json", "adapter_model.safetensors"):
                shutil.copyfile(run / name / file, new / name / file)
    shutil.rmtree(target, ignore_errors=True)
    target.with_name(f"{target.name}.new").rename(target)
    RESULTS.mkdir(parents=True, exist_ok=True)
    _write("measured.json", figures(run))
    _write("training.json", curves(run))
    if (run / "people" / evaluate_people.FILE).is_file():
        shutil.copyfile(run / "people" / evaluate_people.FILE, RESULTS / evaluate_people.FILE)


def figures(run: Path) -> dict:
    """The bench's results, with what charts show besides."""
    found = json.loads((run / "results.json").read_text(encoding="utf-8"))
    more = bench.details(_rows(run / "predictions.jsonl"), bench.BenchConfig(**_recipe(run)["bench"]))
    # Scored again, so that a run that an older bench has measured has every figure too.
    variants = {name: entry | more["variants"][name] for name, entry in found["variants"].items()}
    return found | more | {"variants": variants}


def curves(run: Path) -> dict:
    """Training curves of a run: losses by stage, and the rewards of RAFT before and after choosing."""
    recipe, committed, stages = _recipe(run), RESULTS / "training.json", {}
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    about = {name: results[name] for name in ("date", "commit") if name in results}
    if recipe["base"] == "tiny" and committed.is_file():  # a run on the base that ships: its curve is still right
        known = json.loads(committed.read_text(encoding="utf-8"))["stages"]
        stages = {name: known[name] for name in known if name == "pretrain"}
    for name in ("pretrain", "sft", "rl"):
        log = run / f"{name}.log.jsonl"
        if log.is_file():
            stages[name] = stage(_rows(log)) | about
            if name == "pretrain":
                stages[name]["start"] = recipe["pretrain"]["start"]
    found = rewards(raft.read(run / "samples.jsonl"), recipe["raft"]["drop"])
    return {"stages": stages, "raft": found | {"supervised": recipe["raft"]["supervised"]} | about}


def stage(rows: list[dict]) -> dict:
    """Steps, seconds, and each named value over the steps, of a stage's log."""
    by_step: dict[int, dict] = {}
    for row in rows:  # a step that was done again after an interruption counts once
        by_step[row["step"]] = by_step.get(row["step"], {}) | row
    ordered = [by_step[step] for step in sorted(by_step)]
    names = dict.fromkeys(name for row in ordered for name in row if name not in UNSHOWN)
    paces = [(row["step"], row["seconds"]) for row in ordered if "seconds" in row]  # s per step since the last one
    return {
        "steps": ordered[-1]["step"],
        "seconds": round(sum(pace * (step - last) for (last, _), (step, pace) in pairwise([(0, 0), *paces]))),
        "series": {name: _thinned([(row["step"], row[name]) for row in ordered if name in row]) for name in names},
    }


def _thinned(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Medians of neighbours, so that at most CURVE_POINTS are left and no outlier among them."""
    size = -(-len(points) // CURVE_POINTS)
    groups = (points[start : start + size] for start in range(0, len(points), size))
    return [(group[-1][0], round(statistics.median(value for _, value in group), 4)) for group in groups]


def rewards(samples: list[raft.Sampled], drop: float) -> dict:
    """Mean rewards and their distribution, of all samples and of those that were learned from.

    without_mistake: share of the samples with a reward of 1.

    histogram: how many rewards fall into each of REWARD_BINS equal parts of 0 to 1.
    """
    every = [reward for sampled in samples for reward in sampled.rewards]
    curated = [sampled.rewards[sampled.best] for sampled in raft.curate(samples, drop)]
    return {
        "clips": len(samples),
        "samples": len(samples[0].rewards),
        "drop": drop,
        "kept": len(curated),
        "threshold": min(curated),
        "mean_reward": statistics.fmean(every),
        "without_mistake": sum(reward == 1.0 for reward in every) / len(every),
        "mean_best_reward": statistics.fmean(max(sampled.rewards) for sampled in samples),
        "mean_curated_reward": statistics.fmean(curated),
        "histogram": {"sampled": _histogram(every), "curated": _histogram(curated)},
    }


def _histogram(values: list[float]) -> list[int]:
    counts = [0] * REWARD_BINS
    for value in values:
        counts[min(int(value * REWARD_BINS), REWARD_BINS - 1)] += 1
    return counts


def _rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _recipe(run: Path) -> dict:
    return json.loads((run / "recipe.json").read_text(encoding="utf-8"))


def _write(name: str, content: dict) -> None:
    (RESULTS / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


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
    if (RESULTS / evaluate_people.FILE).is_file():
        lines += [*evaluate_people.told(json.loads((RESULTS / evaluate_people.FILE).read_text(encoding="utf-8"))), ""]
    return "\n".join(lines)


def example_block() -> str:
    """What the README's own `speak` and `transcribe` lines print."""
    spoken = shlex.split(re.search(r"^python -m evoxtral (speak .+)$", README.read_text(encoding="utf-8"), re.M)[1])
    environment = os.environ | {"PYTHONPATH": str(ROOT), "EVOXTRAL_MODEL": "tiny"}
    with tempfile.TemporaryDirectory() as folder:
        for arguments in (spoken, ["transcribe", spoken[-1], "--variant", "all"]):
            command = [sys.executable, "-m", "evoxtral", *arguments]
            done = subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return f"```text\n{done.stdout.rstrip()}\n```\n"


def write_readme() -> None:
    """Write the README's measured blocks anew; they stand between marks."""
    text = README.read_text(encoding="utf-8")
    for name, block in (("example", example_block()), ("results", readme_block())):
        start, end = f"<!-- {name}:start -->\n", f"<!-- {name}:end -->"
        before, rest = text.split(start)
        text = before + start + block + end + rest.split(end, 1)[1]
    README.write_text(text, encoding="utf-8")


def _push_corpus(options: argparse.Namespace) -> int:
    if not options.run:
        raise RecipeError("Name the folder of the corpus to push: training/publish.py FOLDER --push-corpus owner/name.")
    files = dataset_card.prepare(options.run, options.push_corpus)
    told = f"README.md, metadata.jsonl and {len(files) - 2} recordings"
    if options.dry_run:
        print(f"{options.run} holds what would be sent to {options.push_corpus}: {told}.")
    else:
        address = card.push(
            options.run, options.push_corpus, options.private, options.replace, kind="dataset", files=files
        )
        print(f"{address} has {told}.")
    return 0


def _push(options: argparse.Namespace) -> int:
    if not options.run:
        raise RecipeError("Name the folder of the run to push: training/publish.py RUN --push owner/name.")
    folder = card.prepare(options.run, options.push, options.variant)
    files = ", ".join(sorted(file.name for file in folder.iterdir()))
    if options.dry_run:
        print(f"{folder} holds what would be sent to {options.push}: {files}.")
    else:
        print(f"{card.push(folder, options.push, options.private, options.replace)} has {files}.")
    return 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="training/publish.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("run", nargs="?", type=Path, help="the folder of a finished run")
    parser.add_argument("--push", metavar="ID", help="send the run's adapter and its card to the Hub as owner/name")
    parser.add_argument(
        "--push-corpus", metavar="ID", help="send a corpus folder and its card to the Hub as owner/name"
    )
    parser.add_argument("--variant", default="", choices=("", "sft", "rl"), help="which adapter (the last)")
    parser.add_argument("--private", action="store_true", help="where only you see it")
    parser.add_argument("--replace", action="store_true", help="what has that name already")
    parser.add_argument("--dry-run", action="store_true", help="write to RUN/push what would be sent, and send nothing")
    options = parser.parse_args(arguments)
    try:
        if options.push_corpus:
            return _push_corpus(options)
        if options.push:
            return _push(options)
        if options.run:
            install(options.run)
        write_readme()
    except EvoxtralError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

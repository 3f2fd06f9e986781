"""RL's methods against each other at equal rollouts: `python -m training.methods`.

For each seed the model's SFT adapter is sampled on the same clips, in noise and rooms and by voices that SFT has not
heard, so that attempts differ. Each of `objectives.METHODS` learns from the same rollouts, at one rate, for one epoch.
All adapters then write down the same held-out clips; `methods.json` has the paired differences from SFT, and
docs/rl.md the table. What is done already is kept: an interrupted run goes on.
"""

import argparse
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from pathlib import Path

import numpy as np

from evoxtral import audio, metrics
from evoxtral.bench.running import commit, fingerprint
from evoxtral.errors import RecipeError
from evoxtral.inference.engine import Engine
from evoxtral.metrics import Report
from evoxtral.model import checkpoints, hub
from evoxtral.model.checkpoints import Checkpoint
from evoxtral.model.lora import LoraRecipe
from training import dataset, objectives, policy, raft, sft
from training.command import exit_code, write_block
from training.dataset import Clips, DataConfig
from training.policy import RlConfig
from training.raft import RaftConfig
from training.scripts import Sources
from training.sft import SftConfig

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "evoxtral" / "assets" / "results" / "methods.json"
PAGE = ROOT / "docs" / "rl.md"
START, END = "<!-- methods:start -->\n", "<!-- methods:end -->"
SCORES = ("wer", "tagged_placed_tag_f1", "tag_hallucination", "emphasis_f1")
CHUNK = 48  # clips that are decoded between two writes
SOURCES = Sources(frames=0.77, open=0.20, words=0.03)


@dataclass(frozen=True)
class Comparison:
    """clips: that are sampled. tests: that are judged on. raft: rate and sampling as in the scale model's recipe, the
    share that is dropped as published."""

    clips: int = 300
    tests: int = 400
    seeds: int = 3
    samples: int = 4
    methods: tuple[str, ...] = objectives.METHODS
    raft: RaftConfig = field(
        default_factory=lambda: RaftConfig(
            temperature=0.9,
            top_p=0.95,
            sft=SftConfig(learning_rate=1e-4, warmup=5, epochs=1, micro_batch=8, neftune=0.0, cropped=0.6),
        )
    )

    def seeded(self, seed: int) -> RaftConfig:
        return replace(self.raft, samples=self.samples, seed=seed, sft=replace(self.raft.sft, seed=seed))


def build(folder: Path, asked: Comparison) -> tuple[Clips, Clips]:
    """The clips to sample and those to judge on: half of them through microphones, rooms and noise."""
    shared = {"microphone": 0.5, "augment": True, "sources": SOURCES}
    sampled = DataConfig(clips=asked.clips, seed=47, further_voices=True, **shared)
    tests = DataConfig(clips=asked.tests, split="test", seed=47, held_out_share=0.5, **shared)
    return tuple(
        dataset.build(folder / "data", name, config, workers=1)
        for name, config in (("sampled", sampled), ("tests", tests))
    )


def train(folder: Path, checkpoint: Checkpoint, clips: Clips, asked: Comparison, seed: int) -> dict[str, Path]:
    """Sample with a seed, and learn from it by each method: adapters by their names."""
    config = asked.seeded(seed)
    own = folder / f"seed{seed}"
    own.mkdir(exist_ok=True)
    base, start = hub.fetch(checkpoint.base), hub.fetch(checkpoint.adapters["sft"])
    missing = [method for method in asked.methods if not (own / method).is_dir()]
    if missing:
        samples = raft.sample(Engine(checkpoint, device="cpu"), "sft", clips, config, own / "samples.jsonl")
    for method in missing:
        if method == "raft":
            learned, texts = raft.training_set(samples, clips, config.drop)
            make_task = sft.Finetuning
        else:
            found = policy.attempts(samples, clips, RlConfig(method))
            learned, texts, make_task = found.clips, found.texts, found.task
        if not texts:
            raise RecipeError(f"{method} has nothing to learn from: all attempts at a clip are alike; take more clips.")
        (own / f"{method}.texts").write_text(str(len(texts)), encoding="utf-8")
        log.info("seed %d, %s: %d texts", seed, method, len(texts))
        sft.train(own, method, base, LoraRecipe(), start, learned, texts, clips.first(8), config.sft, make_task)
    return {f"{method}-{seed}": own / method for method in asked.methods}


def predict(folder: Path, checkpoint: Checkpoint, clips: Clips, adapters: Mapping[str, Path]) -> dict[str, list[str]]:
    """What SFT and each adapter write for each clip; kept by adapter."""
    out = {}
    named = {"sft": Path(checkpoint.adapters["sft"]), **adapters}
    paths = {name: folder / f"predictions-{name}.json" for name in named}
    missing = [name for name in named if not paths[name].is_file()]
    if missing:
        references = {name: str(named[name]) for name in missing}
        engine = Engine(Checkpoint(checkpoint.name, checkpoint.base, references), device="cpu")
        written: dict[str, list[str]] = {name: [] for name in missing}
        for start in range(0, len(clips), CHUNK):
            waveforms = [audio.load(clips.folder / clip.audio) for clip in clips.clips[start : start + CHUNK]]
            for row in engine.batch(waveforms, missing):
                for name in missing:
                    written[name].append(row[name][0].text)
        for name in missing:
            paths[name].write_text(json.dumps(written[name], ensure_ascii=False), encoding="utf-8")
    for name in named:
        out[name] = json.loads(paths[name].read_text(encoding="utf-8"))
    return out


# ------------------------------------------------------------------------------------------------- figures


def differences(before: Report, after: Sequence[Report], resamples: int = 2000) -> dict[str, dict]:
    """Of each of SCORES, the mean of several systems less another's, and its 95 % bootstrap interval over clips.

    before, after: of the same clips. Denominators do not depend on the system, so systems are averaged clip by clip.
    """
    n = len(before.clips)
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=resamples)
    found = {}
    for name in SCORES:
        top, bottom = before.terms[name].astype(float)
        change = np.mean([one.terms[name][0] - top for one in after], axis=0)
        some = drawn[drawn @ bottom > 0]  # resamples in which the score is defined
        low, high = np.percentile((some @ change) / (some @ bottom), (2.5, 97.5))
        seeds = [float((one.terms[name][0] - top).sum() / bottom.sum()) for one in after]
        found[name] = {
            "value": float(change.sum() / bottom.sum()),
            "low": float(low),
            "high": float(high),
            "seeds": seeds,
        }
    return found


def figures(predictions: Mapping[str, list[str]], clips: Clips) -> dict:
    """SFT's scores, and each method's differences from them."""
    references = [clip.text for clip in clips.clips]
    reports = {name: metrics.score(list(zip(texts, references, strict=True))) for name, texts in predictions.items()}
    intervals = metrics.intervals(reports["sft"])
    by_method = {
        method: [report for name, report in reports.items() if name.rpartition("-")[0] == method]
        for method in objectives.METHODS
    }
    return {
        "sft": {name: asdict(intervals[name]) for name in SCORES},
        "methods": {method: differences(reports["sft"], some) for method, some in by_method.items() if some},
    }


def is_no_worse(changes: Mapping[str, Mapping]) -> bool:
    """Pareto no worse than SFT: no score whose whole interval is on the worse side."""
    better = {metric.name: metric.higher_is_better for metric in (*metrics.METRICS, *metrics.FURTHER)}
    return all(change["high"] >= 0 if better[name] else change["low"] <= 0 for name, change in changes.items())


def table(found: Mapping) -> str:
    """The comparison as Markdown, in percent."""
    labels = {metric.name: metric.label for metric in (*metrics.METRICS, *metrics.FURTHER)}
    names = found["sft"]
    lines = [
        f"{found['rollouts']:,} rollouts of {found['clips']} clips for each of {found['seeds']} seeds, judged on "
        f"{found['tests']} held-out clips; model {found['model']}, weights {found['weights']}, commit "
        f"{found['commit']}, {found['date']}. In points: the mean over seeds, its 95 % interval over clips, each seed.",
        "",
        "| | texts | " + " | ".join(labels[name] for name in names) + " | no worse than SFT |",
        "|---|---|" + "---|" * len(names) + "---|",
        "| SFT | | " + " | ".join(_absolute(names[name]) for name in names) + " | |",
    ]
    for method, changes in found["methods"].items():
        cells = " | ".join(_change(changes[name]) for name in names)
        verdict = "yes" if is_no_worse(changes) else "no"
        lines.append(f"| {method} | {found['texts'][method]} | {cells} | {verdict} |")
    return "\n".join(lines) + "\n"


def _absolute(one: Mapping) -> str:
    return f"{100 * one['value']:.2f} ({100 * one['low']:.2f} to {100 * one['high']:.2f})"


def _change(one: Mapping) -> str:
    value, low, high = (f"{100 * one[key]:+.2f}".replace("-", "−") for key in ("value", "low", "high"))
    seeds = ", ".join(f"{100 * seed:+.2f}".replace("-", "−") for seed in one["seeds"])
    return f"{value} ({low} to {high}); {seeds}"


def compare(folder: Path, model: str, asked: Comparison) -> dict:
    """Do all that is not done yet, and give the figures. After each seed RESULTS and PAGE are written."""
    checkpoint = checkpoints.resolve(model)
    if "sft" not in checkpoint.adapters:
        raise RecipeError(f"{checkpoint.name} has no adapter sft, which is sampled.")
    folder.mkdir(parents=True, exist_ok=True)
    about = asdict(asked) | {"model": checkpoint.name, "weights": fingerprint(checkpoint)}
    del about["seeds"], about["methods"]  # more of both can be added
    note = folder / "comparison.json"
    if note.is_file() and json.loads(note.read_text(encoding="utf-8")) != about:
        raise RecipeError(f"{folder} holds another comparison: name a new folder.")
    note.write_text(json.dumps(about), encoding="utf-8")
    clips, tests = build(folder, asked)
    predictions: dict[str, list[str]] = {}
    for seed in range(asked.seeds):
        predictions |= predict(folder, checkpoint, tests, train(folder, checkpoint, clips, asked, seed))
        texts = {method: (folder / "seed0" / f"{method}.texts").read_text(encoding="utf-8") for method in asked.methods}
        found = {
            "model": checkpoint.name,
            "weights": about["weights"],
            "commit": commit(),
            "date": date.today().isoformat(),
            "clips": len(clips),
            "tests": len(tests),
            "seeds": seed + 1,
            "rollouts": len(clips) * asked.samples,
            "texts": {method: int(count) for method, count in texts.items()},
            **figures(predictions, tests),
        }
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        write_block(PAGE, START, END, table(found))
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.methods", description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default="tiny", help="whose SFT adapter is sampled")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "methods", help="where clips and adapters are kept")
    for name in ("clips", "tests", "seeds", "samples"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Comparison(), name))
    parser.add_argument("--methods", default=",".join(objectives.METHODS), help="some of %(default)s")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    counts = {name: getattr(options, name) for name in ("clips", "tests", "seeds", "samples")}
    for name, count in counts.items():
        if count < (2 if name == "samples" else 1):
            parser.error(f"--{name} is {count}: it is too few")
    methods = tuple(options.methods.split(","))
    if unknown := [name for name in methods if name not in objectives.METHODS]:
        parser.error(f"there is no method {unknown[0]!r}: choose of {', '.join(objectives.METHODS)}")
    asked = Comparison(**counts, methods=methods)
    return exit_code(lambda: print(table(compare(options.out, options.model, asked))), options.out)


if __name__ == "__main__":
    sys.exit(main())

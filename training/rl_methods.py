"""RL's methods against each other at equal rollouts: `python -m training.rl_methods`.

For each seed the model's SFT adapter is sampled on clips of its own, in noise and rooms and by voices that SFT has not
heard, so that attempts differ. Each of `objectives.METHODS` learns from the same rollouts, at one rate, for one epoch.
All adapters then write down the same clips, of the bench's rungs where SFT errs (RUNGS); `methods.json` has the paired
differences from SFT, and docs/rl.md the table. What is done already is kept: an interrupted run goes on.
"""

import argparse
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from pathlib import Path

import numpy as np

from evoxtral import metrics
from evoxtral.audio import SAMPLE_RATE
from evoxtral.bench import sets
from evoxtral.bench.running import commit, fingerprint
from evoxtral.errors import RecipeError
from evoxtral.inference.engine import Engine
from evoxtral.metrics import Report
from evoxtral.model import checkpoints, hub
from evoxtral.model.checkpoints import Checkpoint
from evoxtral.model.lora import LoraRecipe
from training import dataset, objectives, policy, raft, sft
from training.dataset import Clips, DataConfig
from training.doc_tables import write_block
from training.exit_codes import exit_code
from training.policy import RlConfig
from training.raft import RaftConfig
from training.sft import SftConfig
from training.tagged_texts import Sources

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "evoxtral" / "assets" / "results" / "methods.json"
PAGE = ROOT / "docs" / "rl.md"
START, END = "<!-- methods:start -->\n", "<!-- methods:end -->"
SCORES = ("wer", "tagged_placed_tag_f1", "tag_hallucination", "emphasis_f1")
RUNGS = (("noise", "20 dB"), ("dense", "8 or more"), ("unusual", "unusual places"), ("natural", "natural voices"))
TOGETHER = "together"  # all rungs as one set
ON_POLICY = ("reinforce-rej", "gdpo")  # losses with a clip range
SOURCES = Sources(frames=0.77, open=0.20, words=0.03)


@dataclass(frozen=True)
class Comparison:
    """clips: that are sampled with each seed. tests: of each rung. raft: rate and sampling as in the scale model's
    recipe, the share that is dropped as published."""

    clips: int = 400
    tests: int = 100
    seeds: int = 5
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


def build(folder: Path, asked: Comparison, seed: int) -> Clips:
    """The clips that are sampled with a seed: half of them through microphones, rooms and noise."""
    config = DataConfig(
        clips=asked.clips, seed=47 + seed, further_voices=True, microphone=0.5, augment=True, sources=SOURCES
    )
    return dataset.build(folder / "data", f"seed{seed}", config, workers=1)


def judged(asked: Comparison) -> list[sets.Clip]:
    """The clips of RUNGS."""
    return [clip for name, rung in RUNGS for clip in sets.clips(name, asked.tests) if clip.rung == rung]


def train(folder: Path, checkpoint: Checkpoint, clips: Clips, asked: Comparison, seed: int) -> dict[str, Path]:
    """Sample with a seed, and learn from it by each method: adapters by their names."""
    config = asked.seeded(seed)
    own = folder / f"seed{seed}"
    own.mkdir(exist_ok=True)
    tasks: list[policy.PolicyTuning] = []
    base, start = hub.fetch(checkpoint.base), hub.fetch(checkpoint.adapters["sft"])
    missing = [method for method in asked.methods if not (own / f"{method}.json").is_file()]
    if missing:
        samples = raft.sample(Engine(checkpoint, device="cpu"), "sft", clips, config, own / "samples.jsonl")
    for method in missing:
        if method == "raft":
            learned, texts = raft.training_set(samples, clips, config.drop)
            make_task = sft.Finetuning
        else:
            found = policy.attempts(samples, clips, RlConfig(method))
            learned, texts, make_task = found.clips, found.texts, _kept(found, tasks)
        if not texts:
            raise RecipeError(f"{method} has nothing to learn from: all attempts at a clip are alike; take more clips.")
        log.info("seed %d, %s: %d texts", seed, method, len(texts))
        sft.train(own, method, base, LoraRecipe(), start, learned, texts, clips.first(8), config.sft, make_task)
        beyond = tasks[-1].beyond if method in ON_POLICY else None
        note = {"texts": len(texts), "beyond": beyond}
        (own / f"{method}.json").write_text(json.dumps(note), encoding="utf-8")
    return {f"{method}-{seed}": own / method for method in asked.methods}


def _kept(found: policy.Attempts, tasks: list[policy.PolicyTuning]) -> Callable[..., policy.PolicyTuning]:
    """What makes the task, and keeps it in a list."""

    def make(*args) -> policy.PolicyTuning:
        tasks.append(found.task(*args))
        return tasks[-1]

    return make


def predict(
    folder: Path, checkpoint: Checkpoint, clips: Sequence[sets.Clip], adapters: Mapping[str, Path]
) -> dict[str, list[str]]:
    """What SFT and each adapter write for each clip; kept by adapter."""
    out = {}
    named = {"sft": Path(checkpoint.adapters["sft"]), **adapters}
    paths = {name: folder / f"predictions-{name}.json" for name in named}
    missing = [name for name in named if not paths[name].is_file()]
    if missing:
        references = {name: str(named[name]) for name in missing}
        engine = Engine(Checkpoint(checkpoint.name, checkpoint.base, references), device="cpu")
        written: dict[str, list[str]] = {name: [] for name in missing}
        for clip in clips:  # `compare`: some are longer than the model's window
            found = engine.compare((SAMPLE_RATE, clip.sound()), missing)
            for name in missing:
                written[name].append(found[name].text)
        for name in missing:
            paths[name].write_text(json.dumps(written[name], ensure_ascii=False), encoding="utf-8")
    for name in named:
        out[name] = json.loads(paths[name].read_text(encoding="utf-8"))
    return out


# ------------------------------------------------------------------------------------------------- figures


def differences(before: Report, after: Sequence[Report], resamples: int = 2000) -> dict[str, dict]:
    """Of each of SCORES, the mean of several systems less another's, and its 95 % bootstrap interval: clips are drawn
    again, and the systems (seeds), too.

    before, after: of the same clips. Denominators do not depend on the system, so systems are averaged clip by clip.
    """
    n, rng = len(before.clips), np.random.default_rng(0)
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=resamples)
    weights = rng.multinomial(len(after), np.full(len(after), 1 / len(after)), size=resamples) / len(after)
    found = {}
    for name in SCORES:
        top, bottom = before.terms[name].astype(float)
        change = np.array([one.terms[name][0] - top for one in after])  # (systems, clips)
        some = drawn @ bottom > 0  # resamples in which the score is defined
        means = ((drawn @ change.T) * weights).sum(axis=1)[some] / (drawn @ bottom)[some]
        low, high = np.percentile(means, (2.5, 97.5))
        found[name] = {
            "value": float(change.mean(axis=0).sum() / bottom.sum()),
            "low": float(low),
            "high": float(high),
            "seeds": [float(one.sum() / bottom.sum()) for one in change],
        }
    return found


def figures(predictions: Mapping[str, list[str]], clips: Sequence[sets.Clip]) -> dict[str, dict]:
    """On each rung, and on all of them together: SFT's scores, and each method's differences from them."""
    chosen: dict[str, Sequence[int]] = {
        f"{name}, {rung}": [i for i, clip in enumerate(clips) if (clip.set, clip.rung) == (name, rung)]
        for name, rung in RUNGS
    }
    chosen[TOGETHER] = range(len(clips))
    return {label: _figures(predictions, clips, some) for label, some in chosen.items()}


def _figures(predictions: Mapping[str, list[str]], clips: Sequence[sets.Clip], some: Sequence[int]) -> dict:
    reports = {
        name: metrics.score([(texts[i], clips[i].reference) for i in some]) for name, texts in predictions.items()
    }
    intervals = metrics.intervals(reports["sft"])
    by_method = {
        method: [report for name, report in reports.items() if name.rpartition("-")[0] == method]
        for method in objectives.METHODS
    }
    return {
        "n": len(some),
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
    whole = found["rungs"][TOGETHER]
    names = list(whole["sft"])
    lines = [
        f"{found['rollouts']:,} rollouts of {found['clips']} clips for each of {found['seeds']} seeds, judged on "
        f"{whole['n']} clips of {len(found['rungs']) - 1} rungs; model {found['model']}, weights {found['weights']}, "
        f"commit {found['commit']}, {found['date']}. In points: the mean over seeds, its 95 % interval over clips and "
        "seeds; on all rungs each seed, too, and whether no interval lies on the worse side.",
        "",
        "| | texts, beyond the clip range | " + " | ".join(labels[name] for name in names) + " | no worse than SFT |",
        "|---|---|" + "---|" * len(names) + "---|",
        f"| SFT, {TOGETHER} | | " + " | ".join(_absolute(whole["sft"][name]) for name in names) + " | |",
    ]
    for method, changes in whole["methods"].items():
        cells = " | ".join(_change(changes[name], each=True) for name in names)
        verdict = "yes" if is_no_worse(changes) else "no"
        beyond = found["beyond"].get(method)
        told = f"{found['texts'][method]}" + ("" if beyond is None else f", {100 * beyond:.1f} %")
        lines.append(f"| {method}, {TOGETHER} | {told} | {cells} | {verdict} |")
    for label, one in found["rungs"].items():
        if label != TOGETHER:
            lines.append(f"| SFT, {label} | | " + " | ".join(_absolute(one["sft"][name]) for name in names) + " | |")
            lines += [
                f"| {method}, {label} | | " + " | ".join(_change(changes[name]) for name in names) + " | |"
                for method, changes in one["methods"].items()
            ]
    return "\n".join(lines) + "\n"


def _absolute(one: Mapping) -> str:
    return f"{100 * one['value']:.2f} ({100 * one['low']:.2f} to {100 * one['high']:.2f})"


def _change(one: Mapping, each: bool = False) -> str:
    value, low, high = (f"{100 * one[key]:+.2f}".replace("-", "−") for key in ("value", "low", "high"))
    seeds = ", ".join(f"{100 * seed:+.2f}".replace("-", "−") for seed in one["seeds"])
    return f"{value} ({low} to {high})" + (f"; {seeds}" if each else "")


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
    origin = folder / "commit.txt"  # of the run: what it writes makes the checkout another one
    if not origin.is_file():
        origin.write_text(commit() or "", encoding="utf-8")
    tests = judged(asked)
    predictions: dict[str, list[str]] = {}
    notes: dict[str, list[dict]] = {method: [] for method in asked.methods}
    for seed in range(asked.seeds):
        clips = build(folder, asked, seed)
        predictions |= predict(folder, checkpoint, tests, train(folder, checkpoint, clips, asked, seed))
        for method, some in notes.items():
            some.append(json.loads((folder / f"seed{seed}" / f"{method}.json").read_text(encoding="utf-8")))
        found = {
            "model": checkpoint.name,
            "weights": about["weights"],
            "commit": origin.read_text(encoding="utf-8"),
            "date": date.today().isoformat(),
            "clips": len(clips),
            "seeds": seed + 1,
            "rollouts": len(clips) * asked.samples,
            "texts": {method: round(float(np.mean([one["texts"] for one in some]))) for method, some in notes.items()},
            "beyond": {
                method: round(float(np.mean([one["beyond"] for one in some])), 4)
                for method, some in notes.items()
                if all(one["beyond"] is not None for one in some)
            },
            "rungs": figures(predictions, tests),
        }
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        write_block(PAGE, START, END, table(found))
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.rl_methods", description=__doc__.split("\n\n")[0])
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

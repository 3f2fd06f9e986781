"""What weights in 8 and 4 bits, and windows shorter than the model's own, cost in quality, on clips never trained on.

    python benchmarks/quantized.py                          # the scale model, 40 clips: five minutes on a busy core
    python benchmarks/quantized.py --model mini-3b --weights bf16 int8 int4 --clips 20
    python benchmarks/quantized.py --weights fp32 int8 --windows 8 6    # and in float32 with windows of 8 and 6 s
    python benchmarks/quantized.py --sensitive --clips 16   # instead: each kind of layer left in 16 bits, by 4 bits
    python -m evoxtral bench all --model tiny --weights fp32,int8,int4 --limit 4 -o runs/precisions
    python benchmarks/quantized.py --bench runs/precisions  # instead: what that run found over all its clips together

The first precision named is the reference. Tags are paired in order where both texts have them; the difference of their
probabilities is a mean of absolute values. Prints a table and stores it in benchmarks/quantized.json, by model.
"""

import argparse
import datetime
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.precision import processor
from evoxtral import audio, metrics
from evoxtral.bench import precisions
from evoxtral.inference.engine import Engine
from evoxtral.model import checkpoints, quantized_files
from evoxtral.model.checkpoints import Checkpoint
from evoxtral.transcript import Transcript
from training import bench, dataset
from training.dataset import DataConfig

RESULTS = Path(__file__).with_suffix(".json")
SEED = 30  # of the clips
SCORES = ("wer", "tag_f1", "emphasis_f1")
KINDS = {  # ends of paths
    "attention of the text": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "gate and up": ("gate_proj", "up_proj"),
    "down": ("down_proj",),
    "attention of the encoder": ("out_proj",),
    "MLP of the encoder": ("fc1", "fc2"),
    "projector": ("linear_1", "linear_2"),
    "output": ("lm_head",),
    "embeddings": ("embed_tokens",),
}
Heard = list[dict[str, list[Transcript]]]


def difference(ours: Sequence[float], reference: Sequence[float]) -> float | None:
    """The mean absolute difference of paired probabilities."""
    return float(np.mean(np.abs(np.subtract(ours, reference)))) if len(ours) else None


def paired_tags(ours: Heard, reference: Heard, variant: str) -> tuple[list[float], list[float]]:
    """The probabilities of tags that both wrote, in the same order."""
    pairs: tuple[list[float], list[float]] = ([], [])
    for mine, other in zip(ours, reference, strict=True):
        sides = ([(tag.name, tag.probability) for tag in found[variant][0].tags] for found in (mine, other))
        for both in precisions.paired(*sides):
            for probability, into in zip(both, pairs, strict=True):
                into.append(probability)
    return pairs


def measured(ours: Heard, reference: Heard, references: Sequence[str], variants: Sequence[str]) -> dict:
    """Scores of every variant with their intervals, paired differences to the reference, and that of its tags."""
    found = {}
    for variant in variants:
        reports = [
            metrics.score([(clip[variant][0].text, text) for clip, text in zip(heard, references, strict=True)])
            for heard in (ours, reference)
        ]
        summary, differences = metrics.summary(reports[0]), metrics.compare(reports[1], reports[0])
        same = [a[variant][0].text == b[variant][0].text for a, b in zip(ours, reference, strict=True)]
        tags = paired_tags(ours, reference, variant)
        found[variant] = {
            **{name: summary[name] for name in SCORES},
            "intervals": {name: summary["intervals"].get(name) for name in SCORES},
            "differences": {name: asdict(differences[name]) for name in SCORES if differences.get(name)},
            "same_text": sum(same) / len(same),
            "tags": len(tags[0]),
            "tag_probability_difference": difference(*tags),
        }
    return found


def engine(checkpoint: Checkpoint, weights: str, kept: Sequence[str] | None = None) -> Engine:
    """An engine in a precision; kept: ends of paths left in 16 bits instead of `quantized_files.KEPT`."""
    if kept is None:
        return Engine(replace(checkpoint, weights=weights), device="cpu")
    before, quantized_files.KEPT = quantized_files.KEPT, {**quantized_files.KEPT, weights: tuple(kept)}
    try:
        return Engine(replace(checkpoint, weights=weights), device="cpu")
    finally:
        quantized_files.KEPT = before


def clips(folder: Path, count: int) -> tuple[list[np.ndarray], list[str]]:
    """Waveforms and their tagged texts, half of them by voices that training never heard."""
    config = DataConfig(clips=count, split="test", seed=SEED, held_out_share=0.5)
    found = dataset.build(folder, "quantized", config, workers=1)
    return [audio.load(folder / clip.audio) for clip in found.clips], [clip.text for clip in found.clips]


def sensitive(checkpoint: Checkpoint, waveforms: Sequence[np.ndarray], reference: Heard, weights: str) -> dict:
    """For each kind of layer left in 16 bits: the difference of its tags' probabilities from the reference, and the
    share of texts that are the same, over all variants."""
    found = {}
    for kind, ends in {"none": (), **KINDS}.items():
        ours = engine(checkpoint, weights, ends)
        heard = ours.batch(waveforms)
        tags = [paired_tags(heard, reference, variant) for variant in ours.variants]
        same = [a[v][0].text == b[v][0].text for a, b in zip(heard, reference, strict=True) for v in ours.variants]
        found[kind] = {
            "tag_probability_difference": difference(*(sum(side, []) for side in zip(*tags, strict=True))),
            "same_text": sum(same) / len(same),
        }
        print(f"  {weights}, in 16 bits: {kind:26}", found[kind], flush=True)
    return found


def compared(
    checkpoint: Checkpoint,
    weights: Sequence[str],
    windows: Sequence[float],
    waveforms: Sequence[np.ndarray],
    references: Sequence[str],
) -> dict:
    """precision or window -> what `measured` gives; the first is the reference, also the precision of windows."""
    reference: Heard = []
    found = {}
    ways = {name: (name, None) for name in weights} | {f"{s:g} s": (weights[0], s) for s in windows}
    for name, (precision, window) in ways.items():
        begun = time.perf_counter()
        ours = engine(replace(checkpoint, window=window), precision)
        heard = _heard(ours, waveforms)
        reference = reference or heard
        found[name] = measured(heard, reference, references, ours.variants)
        for variant, row in found[name].items():
            scores = "  ".join(f"{score} {row[score]:.4f}" for score in SCORES if row[score] is not None)
            apart, same = row["tag_probability_difference"], row["same_text"]
            print(f"{name:5} {variant:5} {scores}  tags differ by {apart}  same text {same:.0%}", flush=True)
        print(f"  {time.perf_counter() - begun:.0f} s", flush=True)
    return found


def of_bench(folder: Path) -> tuple[str, dict]:
    """The model of a run of the bench in several precisions, and what they cost over all its clips together.

    half_interval: half of the 95 % interval of the most exact one's own score.
    """
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    lines = (folder / f"predictions-{found['precision']}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["id"] not in found["failed"]]
    half = {}
    for variant in found["variants"]:
        report = metrics.score([(row["predictions"][variant], row["reference"]) for row in rows])
        intervals = metrics.intervals(report)
        half[variant] = {name: (intervals[name].high - intervals[name].low) / 2 for name in SCORES if intervals[name]}
    counts = {name: sum(one["n"] for one in entry["rungs"].values()) for name, entry in found["sets"].items()}
    weights = {
        kind: {
            variant: one | {"differences": {name: one["differences"][name] for name in SCORES}}
            for variant, one in other["pooled"].items()
        }
        for kind, other in found["other_precisions"].items()
    }
    about = {key: found[key] for key in ("date", "commit", "seed", "limit")}
    sets = {"clips": sum(counts.values()), "sets": counts, "left_out": [*found["left_out"]]}
    return found["model"], about | sets | {
        "reference": found["precision"],
        "half_interval": half,
        "weights": weights,
    }


def _heard(engine: Engine, waveforms: Sequence[np.ndarray]) -> Heard:
    """Clips that fit one window in a batch, the others as `transcribe` does, cut at pauses."""
    fits = [len(waveform) <= engine.prompt.window_samples for waveform in waveforms]
    batch = iter(engine.batch([waveform for waveform, one in zip(waveforms, fits, strict=True) if one]))
    return [next(batch) if one else _cut(engine, waveform) for waveform, one in zip(waveforms, fits, strict=True)]


def _cut(engine: Engine, waveform: np.ndarray) -> dict[str, list[Transcript]]:
    *_, found = engine.stream((audio.SAMPLE_RATE, waveform))
    return {variant: [transcript] for variant, transcript in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--weights", nargs="+", default=["fp32", "bf16", "int8", "int4"])
    parser.add_argument("--windows", nargs="*", type=float, default=[], metavar="S")
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--sensitive", action="store_true")
    parser.add_argument("--bench", type=Path, metavar="FOLDER")
    args = parser.parse_args()
    if args.bench:
        model, found = of_bench(args.bench)
        return keep(f"{model}, bench", found)
    torch.set_num_threads(1)
    checkpoint = checkpoints.resolve(args.model)
    with tempfile.TemporaryDirectory() as folder:
        waveforms, references = clips(Path(folder), args.clips)
    result = {"clips": args.clips, "seed": SEED, "reference": args.weights[0], "processor": processor()}
    result |= {"date": datetime.date.today().isoformat(), "commit": bench.commit()}
    if args.sensitive:
        reference = engine(checkpoint, args.weights[0]).batch(waveforms)
        result["in 16 bits"] = {w: sensitive(checkpoint, waveforms, reference, w) for w in ("int4",)}
    else:
        result["weights"] = compared(checkpoint, args.weights, args.windows, waveforms, references)
    keep(f"{checkpoint.name}, sensitive" if args.sensitive else checkpoint.name, result)


def keep(name: str, result: dict) -> None:
    content = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    content[name] = result
    RESULTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

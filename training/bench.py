"""Evoxtral-Bench on held-out clips: predictions first, then every figure from them.

`predictions-VARIANT.jsonl` is what `python -m evoxtral score` reads; `results.json` is what README and Metrics tab
show.
"""

import datetime
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from evoxtral import audio, metrics
from evoxtral.bench.running import commit
from evoxtral.inference.engine import Engine
from evoxtral.speech import speak
from training import loop
from training.dataset import ACCENTS, VARIANTS, Clips
from training.lexicon import WORDS

CHUNK = 48  # clips between two writes
CURVE_POINTS = 60


@dataclass(frozen=True)
class BenchConfig:
    """resamples: of the bootstrap behind every interval. seed: of the bootstrap. ordinary: sentences of ordinary
    English in the embedded voice, at most 100; 0 where a model was not trained on that voice."""

    resamples: int = 2000
    seed: int = 0
    ordinary: int = 100

    def __post_init__(self):
        if self.ordinary < 0:
            raise ValueError(f"ordinary = {self.ordinary} must be 0 or more")


def predict(engine: Engine, clips: Clips, folder: Path) -> dict[str, list[tuple[str, str]]]:
    """(prediction, reference) of every clip and variant, greedy; written to `folder` as they come, and resumed."""
    from tqdm import tqdm

    path = folder / "predictions.jsonl"
    rows = loop.whole_chunks(path, CHUNK)
    with tqdm(total=len(clips), initial=len(rows), desc="bench", unit="clip") as bar, path.open("a") as file:
        for start in range(len(rows), len(clips), CHUNK):
            chunk = clips.clips[start : start + CHUNK]
            results = engine.batch([audio.load(clips.folder / clip.audio) for clip in chunk])
            new = [
                {
                    "id": clip.id,
                    "reference": clip.text,
                    "held_out_voice": clip.held_out_voice,
                    "seconds": clip.seconds,
                    "predictions": {
                        variant: {
                            "text": found[0].text,
                            "tags": [(tag.name, tag.probability) for tag in found[0].tags],
                            "seconds": found[0].elapsed,
                        }
                        for variant, found in result.items()
                    },
                }
                for clip, result in zip(chunk, results, strict=True)
            ]
            file.write("".join(json.dumps(row) + "\n" for row in new))
            file.flush()
            rows += new
            bar.update(len(chunk))
    pairs = {}
    for variant in engine.variants:
        pairs[variant] = [(row["predictions"][variant]["text"], row["reference"]) for row in rows]
        lines = (json.dumps({"prediction": p, "reference": r}) + "\n" for p, r in pairs[variant])
        (folder / f"predictions-{variant}.jsonl").write_text("".join(lines), encoding="utf-8")
    return pairs


def ordinary(engine: Engine, count: int = 100) -> dict:
    """WER of every variant's plain text on sentences that no generator of this project writes: open vocabulary.

    Each is spoken once; voices take turns, held-out ones among them.
    """
    lines = (WORDS / "ordinary.txt").read_text(encoding="utf-8").splitlines()
    sentences = [line for line in lines if not line.startswith("#")][:count]
    voices = [f"{accent}+{variant}" for variant in VARIANTS for accent in ACCENTS]
    waveforms = [speak(s, voices[37 * i % len(voices)], seed=i).waveform for i, s in enumerate(sentences)]
    found = engine.batch(waveforms) if waveforms else []
    out = {"n": len(sentences)}
    for variant in engine.variants:
        pairs = [(row[variant][0].text, s) for row, s in zip(found, sentences, strict=True)]
        out[variant] = metrics.score(pairs).scores.wer if pairs else None
    return out


def results(
    pairs: dict[str, list[tuple[str, str]]],
    clips: Clips,
    model: str,
    seed: int,
    open_vocabulary: dict,
    config: BenchConfig,
) -> dict:
    """Every figure of the bench with its interval, and what is behind it.

    seed: of the test clips. open_vocabulary: what `ordinary` gave.
    """
    reports = {variant: metrics.score(p) for variant, p in pairs.items()}
    unseen = [i for i, clip in enumerate(clips.clips) if clip.held_out_voice]
    out = {
        "title": "Evoxtral-Bench as measured",
        "model": model,
        "n": len(clips),
        "seed": seed,
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "definitions": "docs/metrics.md",
        "clips": {
            "untagged": sum(not metrics.count("", clip.text).tags.reference for clip in clips.clips),
            "without_emphasis": sum(not metrics.count("", clip.text).emphasis.reference for clip in clips.clips),
            "held_out_voices": len(unseen),
        },
        "ordinary_sentences": open_vocabulary,
        "variants": {},
        "differences": {},
    }
    for variant, report in reports.items():
        heard = metrics.score([pairs[variant][i] for i in unseen]) if unseen else None
        out["variants"][variant] = metrics.summary(report, config.resamples, config.seed) | {
            "held_out_voices": asdict(heard.scores) if heard else None,
        }
    names = list(reports)
    for before, after in zip(names, names[1:], strict=False):
        differences = metrics.compare(reports[before], reports[after], resamples=config.resamples, seed=config.seed)
        out["differences"][f"{after} - {before}"] = {k: asdict(d) for k, d in differences.items() if d}
    return out


def details(rows: list[dict], config: BenchConfig) -> dict:
    """What charts need besides `results`, from the rows of predictions.jsonl.

    variants: every figure of the predictions as the definitions are now. tag_differences: each tag's F1 against the
    variant before. confidence: precision and recall over the threshold of the tags' probabilities.
    """
    names = list(rows[0]["predictions"])
    reports = {
        name: metrics.score((row["predictions"][name]["text"], row["reference"]) for row in rows) for name in names
    }
    differences, curves = {}, {}
    for before, after in zip(names, names[1:], strict=False):
        found = metrics.compare(reports[before], reports[after], True, config.resamples, config.seed)
        differences[f"{after} - {before}"] = {tag: asdict(d) for tag, d in found.items() if d}
    for name in names:
        points = metrics.pr_curve(
            ((row["predictions"][name]["tags"], row["reference"]) for row in rows), points=CURVE_POINTS
        )
        if points:
            curves[name] = [{key: round(value, 4) for key, value in asdict(point).items()} for point in points]
    return {
        "variants": {name: metrics.summary(reports[name], config.resamples, config.seed) for name in names},
        "tag_differences": differences,
        "confidence": curves,
    }


def table(found: dict) -> str:
    """The seven scores of every variant as a Markdown table, in percent with 95 % intervals."""
    variants = found["variants"]
    lines = [
        "| | " + " | ".join(name.upper() if name != "base" else "Base" for name in variants) + " |",
        "|---|" + "---|" * len(variants),
    ]
    rows = [(metric.name, metric.label) for metric in metrics.METRICS]
    rows += [
        ("sound_pause_f1", "F1 of sounds and pauses, pooled"),
        ("delivery_emotion_f1", "F1 of delivery and emotion, pooled"),
    ]
    for name, label in rows:
        cells = [_cell(variant, name) for variant in variants.values()]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    open_wer = found["ordinary_sentences"]
    if open_wer["n"]:
        cells = [f"{100 * open_wer[name]:.1f}" for name in variants]
        lines.append(f"| WER on {open_wer['n']} ordinary sentences | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(variant: dict, name: str) -> str:
    value = variant.get(name, variant["pooled"].get(name))
    if value is None:
        return "–"
    interval = variant["intervals"].get(name)
    return f"{100 * value:.1f}" + (f" <sub>{100 * interval[0]:.1f}–{100 * interval[1]:.1f}</sub>" if interval else "")

"""Fits a model's `evoxtral.confidence.Calibration` on validation clips, and judges it on held-out ones.

`python -m training.confidence --validation A --judge B --model FOLDER`: A and B are folders of
`training/evaluate_people.py`, of disjoint clips. The calibration goes into the model's folder, the judgement into B's
people.json.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)

from evoxtral import confidence  # noqa: E402
from evoxtral.confidence import Calibration  # noqa: E402
from evoxtral.transcript import Agreement, Cue, Token, Transcript  # noqa: E402
from training import evaluate_people  # noqa: E402

BAD = 0.5  # WER above which a transcript is a bad one
GOOD = 0.15  # and at or below which the model heard well
FALSE_ALARMS = 0.015  # of those, on validation: some room is left to the 2 % that are allowed
RIDGE = 1.0  # penalty on the weights: features overlap


def transcript(row: dict, variant: str) -> Transcript:
    """What a variant wrote for a clip of predictions.jsonl."""
    found = row["variants"][variant]
    tokens = tuple(Token(text, probability) for text, probability in found["tokens"])
    cues = [Cue(0.0, row["seconds"], tokens, found["cut"])] if tokens else []
    agreements = [Agreement(*numbers) for numbers in found.get("agreement", ())]
    cues += [Cue(row["seconds"], row["seconds"], (), agreement=numbers) for numbers in agreements] if tokens else []
    return Transcript(tuple(cues), row["seconds"], 0.0)


def accuracy(row: dict, variant: str) -> float | None:
    """Share of words that are right, 1 - WER but not below 0; of a clip without words: whether none was written.

    None where reference and transcript have tags alone: nothing can be said of words.
    """
    written = row["variants"][variant]["text"]
    reference, text = evaluate_people.normalised(row["reference"]), evaluate_people.normalised(written)
    if not reference:
        return 0.0 if text or row["set"] == "nonspeech" else None
    return max(0.0, 1 - evaluate_people.word_errors([(row["reference"], row["variants"][variant]["text"])]))


def fit(features: np.ndarray, targets: np.ndarray, rounds: int = 50) -> Calibration:
    """Logistic regression of accuracies in [0, 1] on features (n, k), by Newton's method with a ridge."""
    means, scales = features.mean(0), features.std(0)
    scales[scales < 1e-6] = 1.0  # one that never varies tells nothing
    x = np.hstack([(features - means) / scales, np.ones((len(features), 1))])
    penalty = RIDGE * np.diag([1.0] * features.shape[1] + [0.0])
    weights = np.zeros(x.shape[1])
    for _ in range(rounds):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        gradient = x.T @ (p - targets) + penalty @ weights
        hessian = (x * (p * (1 - p) + 1e-6)[:, None]).T @ x + penalty
        weights = weights - np.linalg.solve(hessian, gradient)
    lists = [tuple(float(f"{v:.6g}") for v in values) for values in (means, scales, weights[:-1])]
    return Calibration(*lists, bias=float(f"{weights[-1]:.6g}"), warn=0.5, tag=0.8)


def calibrated(rows: Sequence[dict]) -> Calibration:
    """From validation clips, of all variants together: the weights, then the threshold that keeps false alarms rare."""
    variants = list(rows[0]["variants"])
    found = [(confidence.features(transcript(row, v)), accuracy(row, v), row["set"]) for row in rows for v in variants]
    found = [(f, a, s) for f, a, s in found if f is not None and a is not None]
    features, targets = _known(np.array([f for f, _, _ in found])), np.array([a for _, a, _ in found])
    first = fit(features, targets)
    scores = np.array([_score(first, f) for f in features])
    well = np.sort(scores[targets >= 1 - GOOD])
    warn = float(well[int(FALSE_ALARMS * len(well))])
    return Calibration(**{**vars(first), "warn": round(min(warn, 0.9), 4), "tag": _tag_threshold(rows, variants)})


def _known(features: np.ndarray) -> np.ndarray:
    """What is not known (nan) of features (n, k) as the mean of what is, or 0: it then tells nothing."""
    means = [column[~np.isnan(column)].mean() if not np.isnan(column).all() else 0.0 for column in features.T]
    return np.where(np.isnan(features), means, features)


def _score(calibration: Calibration, features: Sequence[float]) -> float:
    z = (np.array(features) - calibration.means) / np.array(calibration.scales)
    return float(1 / (1 + np.exp(-np.clip(calibration.bias + z @ np.array(calibration.weights), -30, 30))))


def _tag_threshold(rows: Sequence[dict], variants: Sequence[str]) -> float:
    """The least probability from which on nine in ten tags of the untagged validation clips are hidden."""
    invented = [
        tag.probability
        for row in rows
        if row["set"] not in evaluate_people.TAGGED
        for v in variants
        for tag in transcript(row, v).tags
    ]
    return round(float(np.quantile(invented, 0.9)), 4) if len(invented) >= 20 else 0.8


def auc(scores: np.ndarray, bad: np.ndarray) -> float | None:
    """Area under the ROC curve of low scores for bad clips: the chance that a bad one scores lower; ties count half."""
    low, high = scores[bad], scores[~bad]
    if not len(low) or not len(high):
        return None
    return float(np.mean((low[:, None] < high[None]) + 0.5 * (low[:, None] == high[None])))


def judge(calibration: Calibration, folder: Path) -> dict:
    """What `judged` says of a folder of `evaluate_people.measure`; also written into its people.json."""
    found = json.loads((folder / evaluate_people.FILE).read_text(encoding="utf-8"))
    found["confidence"] = judged(calibration, read(folder))
    (folder / evaluate_people.FILE).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found["confidence"]


def judged(calibration: Calibration, rows: Sequence[dict]) -> dict:
    """What the calibration is worth on held-out clips, for each variant."""
    out = {}
    for variant in rows[0]["variants"]:
        speech = [row for row in rows if row["set"] != "nonspeech" and evaluate_people.normalised(row["reference"])]
        scored = [(calibration.confidence(transcript(r, variant)), accuracy(r, variant)) for r in speech]
        scores = np.array([1.0 if s is None else s for s, _ in scored])
        right = np.array([a for _, a in scored])
        well = right >= 1 - GOOD
        quiet = [_quiet(calibration, transcript(r, variant)) for r in rows if r["set"] == "nonspeech"]
        out[variant] = {
            "clips": len(speech),
            "auc_wer_above_half": auc(scores, right < 1 - BAD),
            "false_alarms": float(np.mean(scores[well] < calibration.warn)) if well.any() else None,
            "heard_well": int(well.sum()),
            "warned_of_bad": float(np.mean(scores[right < 1 - BAD] < calibration.warn)),
            "calibration_error": _calibration_error(scores, right),
            "nonspeech": len(quiet),
            "nonspeech_silent_or_warned": sum(quiet),
        }
    return out


def _quiet(calibration: Calibration, found: Transcript) -> bool:
    return not found.text or calibration.judged(found).doubtful


def _calibration_error(scores: np.ndarray, right: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error (Naeini et al. 2015): |mean score - mean accuracy| over bins of equal width."""
    place = np.minimum((scores * bins).astype(int), bins - 1)
    return float(
        sum(abs(scores[place == b].mean() - right[place == b].mean()) * (place == b).mean() for b in set(place))
    )


def read(folder: Path) -> list[dict]:
    """The predictions in a folder of `evaluate_people.measure`."""
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="training/confidence.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("--validation", type=Path, required=True, help="folder of the clips to fit on")
    parser.add_argument("--judge", type=Path, help="folder of other clips")
    parser.add_argument("--model", type=Path, required=True, help="folder of the base, which takes confidence.json")
    options = parser.parse_args(arguments)
    calibration = calibrated(read(options.validation))
    calibration.save(options.model)
    found = {"warn": calibration.warn, "tag": calibration.tag}
    if options.judge:
        found |= judge(calibration, options.judge)
    print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

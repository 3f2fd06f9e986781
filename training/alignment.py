"""Which heads of a text model tell where a token sounds, and how true the times are that come of it.

`python -m training.alignment --model MODEL` speaks held-out scripts in the embedded voice, whose words have known
times, gives the model their true text, and writes the heads that look where each token sounds into `alignment.json`
beside the base, or into another folder (`--output`): an adapter's may bring the table of a base that has none, such as
mini-3b's. `--judge FILE` then transcribes other clips, short ones and long recordings, and writes how far times are
off.
"""

import argparse
import json
import logging
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np

from evoxtral import speech, tags
from evoxtral.audio import SAMPLE_RATE
from evoxtral.bench.running import commit, fingerprint
from evoxtral.errors import RecipeError
from evoxtral.inference import alignment
from evoxtral.inference.alignment import Heads, Unit
from evoxtral.inference.engine import Engine
from evoxtral.model import checkpoints, hub, lora
from evoxtral.transcript import Transcript
from evoxtral.words import split
from training import tagged_texts
from training.augment import roomy
from training.dataset import ACCENTS, HELD_OUT, VARIANTS
from training.exit_codes import exit_code

log = logging.getLogger(__name__)

CANDIDATES = 8  # heads that are tried together
SLACK = 0.06  # s around a word in which a look counts as one at it
TOGETHER = 8  # clips, at most
LOOKS = 50_000_000  # heads x clips x tokens x audio tokens, about, that are in memory at once: 200 MB
SHARPNESS = 4  # a head weighs its share of looks at the right place, beside that of the best, to this power
PAUSES = (0.3, 6.0)  # s of silence between the clips of a long recording


@dataclass(frozen=True)
class Spoken:
    """A clip. truth: its words and tags in order of the text, as written, with start and end in s; None if unknown."""

    text: str
    waveform: np.ndarray
    truth: tuple[tuple[str, tuple[float, float] | None], ...]


def spoken(seed: int, split_name: str, seconds: float, rooms: bool = False) -> Iterator[Spoken]:
    """Endless clips of scripts in the embedded voice, every second one in a voice that no model was trained on.

    seconds: no clip is longer.  rooms: in a room, with noise, as `augment.roomy` makes them.
    """
    rng = random.Random(f"alignment/{split_name}/{seed}")
    slices, sources = tagged_texts.Slices(), tagged_texts.Sources(frames=0.77, open=0.2, words=0.03)
    held_out = False
    while True:
        script = tagged_texts.write(rng, slices.draw(rng), split_name, sources)
        accent = rng.choices(list(ACCENTS), list(ACCENTS.values()))[0]
        voice = f"{accent}+{rng.choice([name for name in VARIANTS if (name in HELD_OUT) == held_out])}"
        clip_seed = rng.getrandbits(31)
        found = speech.speak(script.text, voice, clip_seed)
        if len(found.waveform) > seconds * SAMPLE_RATE or found.skipped:
            continue
        held_out = not held_out
        waveform = roomy(found.waveform, np.random.default_rng(clip_seed)) if rooms else found.waveform
        yield Spoken(script.text, waveform, tuple(_truth(script.text, found)))


def _truth(text: str, found: speech.Speech) -> Iterator[tuple[str, tuple[float, float] | None]]:
    said = iter(word for word in found.words if any(map(str.isalnum, word.text)))
    left = list(found.tags)
    for _, raw, kind in split(text):
        if kind == "word":
            word = next(said)
        else:
            word = next(tag for tag in left if tag.text == tags.Tag(raw).name)
            left.remove(word)
        yield raw, (word.start, word.end)


def joined(clips: Sequence[Spoken], rng: random.Random) -> Spoken:
    """One long recording of several clips, with silence between."""
    parts, truth, now = [], [], 0.0
    for clip in clips:
        gap = np.zeros(int(rng.uniform(*PAUSES) * SAMPLE_RATE), np.float32)
        parts += [clip.waveform, gap]
        truth += [(raw, time and (time[0] + now, time[1] + now)) for raw, time in clip.truth]
        now += (len(clip.waveform) + len(gap)) / SAMPLE_RATE
    return Spoken(" ".join(clip.text for clip in clips), np.concatenate(parts), tuple(truth))


# ------------------------------------------------------------------------------------------------ calibration


def calibrated(engine: Engine, clips: Sequence[Spoken]) -> Heads:
    """The heads that look where each token sounds, whichever variant writes, with the true texts of these clips."""
    config = engine.config.text_config
    every = [(i, j) for i in range(config.num_hidden_layers) for j in range(config.num_attention_heads)]
    hits, count = np.zeros(len(every)), 0
    for clip, found, looks in _forced(engine, clips, every):
        middles = (np.arange(looks.shape[-1]) + 0.5) * engine.window_seconds / looks.shape[-1]
        for unit, (start, end) in _timed(found, clip):
            inside = (middles > start - SLACK) & (middles < end + SLACK)
            hits += looks[:, unit.first : unit.stop][:, :, inside].sum(axis=-1).mean(axis=-1)
            count += 1
    hits /= count
    order = np.argsort(-hits)[:CANDIDATES]
    ranked = [(*every[i], round(float((hits[i] / hits[order[0]]) ** SHARPNESS), 4)) for i in order]
    log.info("looks at the right place: %s", ", ".join(f"{every[i]} {hits[i]:.2f}" for i in order))
    watched = [(i, j) for i, j, _ in ranked]
    errors: list[list[float]] = [[] for _ in ranked]
    for clip, found, looks in _forced(engine, clips, watched):
        loud = alignment.loudness(clip.waveform)
        for k in range(len(ranked)):
            weights = np.array([w for *_, w in ranked[: k + 1]])
            shares = np.tensordot(weights / weights.sum(), looks[: k + 1], 1)
            times = dict(zip(found, alignment.unit_times(found, shares, loud, engine.window_seconds), strict=True))
            own = [(unit, time) for unit, time in _timed(found, clip) if unit.kind == "word"]
            errors[k] += [abs(times[unit][0] - start) for unit, (start, _) in own]
    best = int(np.argmin([np.mean(found) for found in errors]))
    median, p90 = np.quantile(errors[best], (0.5, 0.9))
    return Heads(tuple(ranked[: best + 1]), len(clips), round(float(median), 4), round(float(p90), 4))


def _forced(
    engine: Engine, clips: Sequence[Spoken], watched: Sequence[tuple[int, int]]
) -> Iterator[tuple[Spoken, list[Unit], np.ndarray]]:
    """Each clip with each variant: its units, and where each head looks with the true text, (heads, T, A)."""
    clips = sorted(clips, key=lambda clip: len(clip.waveform))
    longest = max(len(engine.prompt.encode(clip.text)) for clip in clips)
    at_once = max(1, min(TOGETHER, LOOKS // (len(watched) * longest * engine.prompt.audio_tokens)))
    for variant in engine.variants:
        for first in range(0, len(clips), at_once):
            part = clips[first : first + at_once]
            # The base was never taught tags: it reads the words alone.
            texts = [tags.plain(clip.text) if variant == lora.BASE else clip.text for clip in part]
            ids = [engine.prompt.encode(text) for text in texts]
            looks = engine.looks([clip.waveform for clip in part], ids, variant, watched)
            for clip, own, look in zip(part, ids, looks, strict=True):
                yield clip, alignment.units(engine.prompt.pieces(own)), look


def _timed(found: Sequence[Unit], clip: Spoken) -> Iterator[tuple[Unit, tuple[float, float]]]:
    """The units that sound, with their true times."""
    words_alone = all(unit.kind == "word" for unit in found)
    truth = [item for item in clip.truth if not words_alone or item[0][0] != "["]
    for unit, (_, time) in zip(found, truth, strict=True):
        if time and not unit.is_delivery:
            yield unit, time


# ------------------------------------------------------------------------------------------------- judgement


def judged(engine: Engine, clips: Sequence[Spoken]) -> dict:
    """How far the times of each variant are off, over the words and tags that it wrote as they were said."""
    offs: dict[str, dict[str, list[tuple[float, float]]]] = {v: {} for v in engine.variants}
    said: dict[str, int] = {"word": 0, "tag": 0}
    for clip, found in _transcribed(engine, clips):
        truth = [(_alike(raw), time) for raw, time in clip.truth]
        for raw, _ in truth:
            said["tag" if raw[0] == "[" else "word"] += 1
        for variant, transcript in found.items():
            written = transcript.words
            wrote = [_alike(word.text) for word in written]
            matcher = SequenceMatcher(None, [raw for raw, _ in truth], wrote, autojunk=False)
            for block in matcher.get_matching_blocks():
                for i in range(block.size):
                    (raw, time), word = truth[block.a + i], written[block.b + i]
                    if time and word.start is not None:
                        off = word.start - time[0], word.end - time[1]
                        offs[variant].setdefault(raw if raw[0] == "[" else "word", []).append(off)
    return {"clips": len(clips), **said, "variants": {v: _figures(found) for v, found in offs.items()}}


def _transcribed(engine: Engine, clips: Sequence[Spoken]) -> Iterator[tuple[Spoken, dict[str, Transcript]]]:
    """Short clips in batches, long ones by themselves, as a user's recording."""
    short = [clip for clip in clips if len(clip.waveform) <= engine.window_seconds * SAMPLE_RATE]
    for clip, found in zip(short, engine.batch([clip.waveform for clip in short]), strict=True):
        yield clip, {variant: transcript for variant, (transcript,) in found.items()}
    for clip in clips:
        if len(clip.waveform) > engine.window_seconds * SAMPLE_RATE:
            yield clip, engine.compare((SAMPLE_RATE, clip.waveform))


def _alike(raw: str) -> str:
    return f"[{tags.Tag(raw).name}]" if raw[0] == "[" else "".join(filter(str.isalnum, raw)).lower()


def _figures(offs: dict[str, list[tuple[float, float]]]) -> dict:
    of_tags = {name: found for name, found in offs.items() if name != "word"}
    sounds = {name: found for name, found in of_tags.items() if not Unit(name, "tag", 0, 0).is_delivery}
    groups = {"word": offs.get("word", []), "tag": sum(of_tags.values(), []), "sound": sum(sounds.values(), [])}
    return {
        **{name: _errors(found) for name, found in groups.items() if found},
        "by_tag": {name: _errors(found) for name, found in sorted(offs.items()) if name != "word"},
    }


def _errors(offs: Sequence[tuple[float, float]]) -> dict:
    starts, ends = np.abs(np.array(offs)).T
    return {
        "n": len(offs),
        "start_median": round(float(np.median(starts)), 4),
        "start_p90": round(float(np.quantile(starts, 0.9)), 4),
        "start_within_0.15": round(float(np.mean(starts <= 0.15)), 4),
        "end_median": round(float(np.median(ends)), 4),
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="training/alignment.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default="tiny", help="tiny, mini-3b, a folder or the Hub id of a base")
    parser.add_argument("--clips", type=_positive, default=60, help="how many to choose heads on")
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="for alignment.json (default: the base's)")
    parser.add_argument("--keep", action="store_true", help="judge the heads that are there")
    parser.add_argument("--judge", type=Path, metavar="FILE", help="where to write how far times are off")
    parser.add_argument("--held-out", type=_positive, default=560, help="clips to judge on")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return exit_code(lambda: _run(options), options.output or options.judge or "The output")


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return number


def _run(options: argparse.Namespace) -> None:
    checkpoint = checkpoints.resolve(options.model)
    folder = options.output or hub.fetch(checkpoint.base)
    if not folder.is_dir():
        raise RecipeError(f"{folder} is no folder: name one that exists.")
    engine = Engine(checkpoint)
    most = engine.window_seconds - 0.1
    if not options.keep:
        clips = _first(spoken(1, "validation", most), options.clips)
        engine.heads = calibrated(engine, clips)
        engine.heads.save(folder)
        log.info("%s: %s", folder / alignment.FILE, engine.heads)
    if options.judge:
        rng = random.Random(0)
        source = spoken(2, "test", most)
        short = _first(source, options.held_out)
        long = [joined(_first(source, 8), rng) for _ in range(max(1, options.held_out // 28))]
        rooms = _first(spoken(3, "test", most, rooms=True), options.held_out // 4)
        found = {"short": judged(engine, short), "long": judged(engine, long), "rooms": judged(engine, rooms)}
        heads, engine.heads = engine.heads, Heads()
        found["no_heads"] = judged(engine, rooms)
        about = {
            "model": checkpoint.name,
            "weights": fingerprint(checkpoint),
            "heads": [list(head) for head in heads.heads],
            "commit": commit(),
        }
        options.judge.write_text(json.dumps(about | found, indent=1) + "\n", encoding="utf-8")


def _first(clips: Iterator[Spoken], count: int) -> list[Spoken]:
    return [next(clips) for _ in range(count)]


if __name__ == "__main__":
    sys.exit(main())

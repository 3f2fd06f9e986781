"""The bench's texts, and its committed figures: `python training/ladders.py texts`, `… results` and `… page`.

`texts` writes evoxtral/assets/bench/texts.jsonl from a seed: held-out sentences, half of them for held-out voices. Each
clip fits the scale model's window. `results` runs every set on a model and writes what the Metrics tab shows; `page`
writes what RL changed there into docs/rl.md.
"""

import argparse
import json
import logging
import random
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # see run.py

from evoxtral import audio, speech, tags  # noqa: E402
from evoxtral.bench import running, sets  # noqa: E402
from evoxtral.bench.sets import Text  # noqa: E402
from evoxtral.model import checkpoints  # noqa: E402
from training import dataset, tagged_texts  # noqa: E402
from training.doc_tables import write_block  # noqa: E402
from training.exit_codes import exit_code  # noqa: E402
from training.tagged_texts import DELIVERIES, SOUNDS, Sentence, Slices, Sources  # noqa: E402

COUNT = 300
SEED = 28
WINDOW = 9.8  # s
RESULTS = ROOT / "evoxtral" / "assets" / "results" / "ladders.json"
PAGE = ROOT / "docs" / "rl.md"
START, END = "<!-- ladders:start -->\n", "<!-- ladders:end -->"
JUDGED = {"tagged_placed_tag_f1": (True, "Tag F1 by place"), "normalised_corpus_wer": (False, "WER")}
SOURCES = Sources()
# What would be expected of a sentence's mood, and what is said against it.
AGAINST = {
    "excited": ("sad", "crying", "calm"),
    "laughs": ("sad", "crying", "angry"),
    "sad": ("excited", "laughs"),
    "crying": ("excited", "laughs"),
    "sighs": ("excited", "laughs"),
    "angry": ("calm", "laughs", "whispers"),
    "shouts": ("calm", "whispers"),
    "calm": ("angry", "shouts", "nervous"),
    "nervous": ("calm", "excited"),
    "frustrated": ("excited", "calm"),
    "whispers": ("shouts", "excited"),
    "gasps": ("calm", "sad"),
}


def sentence(rng: random.Random, words: int = 3, characters: int = 70) -> Sentence:
    """A held-out sentence of at least so many words and at most so many characters."""
    while True:
        found = tagged_texts.sentence_of(rng, "test", rng.choice(tagged_texts.domains()), SOURCES)
        if len(found.words) >= words and len(found.plain) <= characters:
            return found


def mixed(rng: random.Random) -> list[str]:
    return [tagged_texts.write(rng, Slices().draw(rng), "test", SOURCES).text]


def unusual(rng: random.Random) -> list[str]:
    """Sounds where no comma is, deliveries that begin in mid-sentence, two sounds at once, late stammers."""
    words = list(sentence(rng, words=5).words)
    at = rng.randrange(1, len(words) - 1)
    kind = rng.randrange(4)
    if kind == 0:
        put = [rng.choice(SOUNDS)]
    elif kind == 1:
        put = [rng.choice([d for d in DELIVERIES if d != "stammers"])]
    elif kind == 2:
        put = rng.sample(SOUNDS[:-1], 2)
    else:
        put = ["stammers"]
    return [" ".join([*words[:at], *(f"[{tag}]" for tag in put), *words[at:]])]


def contradict(rng: random.Random) -> list[str]:
    while True:
        found = sentence(rng)
        fitting = [mood for mood in found.moods if mood in AGAINST]
        against = [tag for mood in fitting for tag in AGAINST[mood] if tag not in found.moods]
        if against:
            return [f"[{rng.choice(against)}] {found.plain}"]


def dense(rng: random.Random) -> list[str]:
    some = [sentence(rng, characters=26) for _ in range(3)]
    return [tagged_texts.tagged(rng, some, rng.randint(8, 9), 1.15)]


def pairs(rng: random.Random) -> list[str]:
    """Two texts of the same words."""
    words = list(sentence(rng).words)
    at = rng.choice((0, 0, len(words)))
    kinds = SOUNDS[:-1] if at else rng.choice((SOUNDS[:-1], [d for d in DELIVERIES if d != "stammers"]))
    return [" ".join([*words[:at], f"[{tag}]", *words[at:]]) for tag in rng.sample(list(kinds), 2)]


def plain(rng: random.Random) -> list[str]:
    return [tags.plain(tagged_texts.write(rng, "plain", "test", SOURCES, stress=1.0).text)]


MAKERS: dict[str, Callable[[random.Random], list[str]]] = {
    "clean": mixed, "unusual": unusual, "contradict": contradict, "dense": dense, "pairs": pairs, "plain": plain,
}  # fmt: skip


def texts(name: str, count: int = COUNT, seed: int = SEED) -> list[Text]:
    """`count` texts of a set; texts that belong together have the same voice and seed."""
    rng = random.Random(f"{seed}/{name}")
    out: list[Text] = []
    while len(out) < count:
        held_out = bool(len(out) // 2 % 2)
        variant = rng.choice([v for v in dataset.VARIANTS if (v in dataset.HELD_OUT) == held_out])
        voice = f"{rng.choice(list(dataset.ACCENTS))}+{variant}"
        number = rng.getrandbits(31)
        made = [Text(name, text, voice, number) for text in MAKERS[name](rng)]
        if all(_fits(text) for text in made):
            out += made
    return balanced(out[:count])


def balanced(some: list[Text]) -> list[Text]:
    """The same texts so ordered that the first few have tags as often as all: --limit then measures the same thing."""
    kinds = [[t for t in some if bool(tags.names(t.text)) == tagged] for tagged in (True, False)]
    places = ((k + 0.5) / len(kind) for kind in kinds for k in range(len(kind)))
    ordered = sorted(zip(places, [text for kind in kinds for text in kind], strict=True), key=lambda pair: pair[0])
    return [text for _, text in ordered]


def _fits(text: Text) -> bool:
    """Whether it can all be spoken, within the window."""
    spoken = speech.speak(text.text, text.voice, text.seed)
    return not spoken.skipped and audio.duration(spoken.waveform) <= WINDOW


def write_texts() -> None:
    sets.TEXTS.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(asdict(text), ensure_ascii=False) for name in MAKERS for text in texts(name)]
    sets.TEXTS.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_results(model: str, out: Path, limit: int | None) -> None:
    found = running.bench(checkpoints.resolve(model), ["all"], out, limit=limit)
    RESULTS.write_text(json.dumps(running.brief(found), ensure_ascii=False) + "\n", encoding="utf-8")
    write_page()


def verdict(found: Mapping) -> str:
    """What the last adapter changed on each rung, with paired intervals, as Markdown."""
    before, after = found["variants"][-2:]
    pair = f"{after} - {before}"
    rows, told = [], {"better": [], "worse": []}
    for name, entry in found["sets"].items():
        for rung, one in entry["rungs"].items():
            cells = []
            for key, (higher, label) in JUDGED.items():
                change, own = one["differences"][pair].get(key), one["variants"][before].get(key)
                cells.append("–" if not change else f"{100 * own[0]:.1f}, {_change(change)}")
                if change and not change[1] <= 0 <= change[2]:
                    told["better" if (change[0] > 0) == higher else "worse"].append(f"{name}, {rung} ({label})")
            rows.append(f"| {name}, {rung} | {one['n']} | {' | '.join(cells)} |")
    titles = [f"{label}: {before.upper()}, {after.upper()} − {before.upper()}" for _, label in JUDGED.values()]
    said = [
        f"{after.upper()} is {how} than {before.upper()} on {'; '.join(some)}." for how, some in told.items() if some
    ]
    said.append(
        f"On the others the interval has zero in it; of {len(rows)} rungs and {len(JUDGED)} scores one in twenty would "
        "leave it out by chance."
    )
    origin = f"Model {found['model']}, weights {found['weights']}, seed {found['seed']}, {found['date']}. In %."
    head = [f"| rung | clips | {' | '.join(titles)} |", "|---|---|" + "---|" * len(titles)]
    return "\n".join([" ".join([origin, *said]), "", *head, *rows]) + "\n"


def _change(change: list[float]) -> str:
    value, low, high = (f"{100 * end:+.1f}".replace("-", "−") for end in change)
    return f"**{value}** ({low} to {high})" if not change[1] <= 0 <= change[2] else f"{value} ({low} to {high})"


def write_page() -> None:
    write_block(PAGE, START, END, verdict(json.loads(RESULTS.read_text(encoding="utf-8"))))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="training/ladders.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=("texts", "results", "page"))
    parser.add_argument("--model", default="tiny", help="what the command line's --model takes")
    parser.add_argument("--limit", type=int, help=f"clips of each rung (default: all {COUNT})")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "ladders", help="where predictions are kept")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.what == "texts":
        return exit_code(write_texts)
    if options.what == "page":
        return exit_code(write_page)
    return exit_code(lambda: write_results(options.model, options.out, options.limit), options.out)


if __name__ == "__main__":
    sys.exit(main())

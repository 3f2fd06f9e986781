"""How well a crowd is told from one who speaks in noise (`evoxtral/audio/babble.py`): two halves of voices and noises.

    python benchmarks/babble.py --count 20

The thresholds are chosen on the validation half: the embedded voice and the natural voices that training hears. The
test half has other speakers (natural voices that training never hears, and actors), other sentences, and noises of
other parameters. A stretch of 8 s is one speaker, alone or in noise, or a crowd. Counted are the speakers that are
taken for a crowd, and the crowds that are not; then what `segments` sends of each, which also hangs on the voice
activity detector.

Needs the bank of natural voices that training makes, and the actors' lines (`evoxtral/bench/recordings.py`).
Prints the figures and stores them in benchmarks/babble.json. Some minutes on one core.
"""

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy.signal import lfilter

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from evoxtral import audio  # noqa: E402 - after the path
from evoxtral.audio import SAMPLE_RATE, babble, frame_levels  # noqa: E402
from evoxtral.bench import recordings  # noqa: E402
from evoxtral.speech import acoustics, effects, speak  # noqa: E402
from evoxtral.speech.synthesis import VOICES  # noqa: E402
from training import bank, tagged_texts  # noqa: E402

RESULTS = ROOT / "benchmarks" / "babble.json"
STRETCH = 8 * SAMPLE_RATE
SNRS = (20, 10, 5, 0)  # dB
SIZES = (5, 10, 20, 40)  # voices of a crowd
SOURCES = tagged_texts.Sources()
Rng = np.random.Generator
Speakers = dict[str, list[np.ndarray]]  # name -> waveforms of sentences


def embedded(rng: Rng, split: str) -> Speakers:
    said = {}
    for voice in rng.choice(VOICES, 8, replace=False):
        draw = random.Random(int(rng.integers(1 << 30)))
        domains = (draw.choice(tagged_texts.domains()) for _ in range(5))
        texts = [tagged_texts.sentence_of(draw, split, domain, SOURCES).plain for domain in domains]
        said[f"embedded {voice}"] = [speak(text, voice, seed=k).waveform for k, text in enumerate(texts)]
    return said


def natural(rng: Rng, *names: str) -> Speakers:
    by_voice = bank.Bank.load(*names).by_voice
    chosen = rng.permutation([voice for voice, items in by_voice.items() if len(items) >= 8])[:20]
    return {voice: [by_voice[voice][i].waveform() for i in rng.choice(len(by_voice[voice]), 8)] for voice in chosen}


def actors() -> Speakers:
    """Lines by speaker: a line's name begins with the number of its dialogue."""
    said: Speakers = {}
    for line in recordings.actors(400, seed=1):
        said.setdefault(f"actor {line.id[:2]}", []).append(line.waveform)
    return {name: lines for name, lines in said.items() if len(lines) >= 6}


def talk(rng: Rng, sentences: Sequence[np.ndarray]) -> np.ndarray:
    """One speaker: sentences with breaths between them, (STRETCH,), at an RMS of 0.1 while it sounds."""
    parts, length = [], 0
    while length < STRETCH + SAMPLE_RATE:
        parts += [sentences[rng.integers(len(sentences))], np.zeros(int(rng.uniform(0.1, 0.5) * SAMPLE_RATE))]
        length += len(parts[-2]) + len(parts[-1])
    whole = np.concatenate(parts)[rng.integers(SAMPLE_RATE) :][:STRETCH]
    levels = whole[np.abs(whole) > 0.01 * np.abs(whole).max()]
    return 0.1 * whole / np.sqrt(np.mean(levels**2))


def many_speakers(rng: Rng, speakers: Speakers, size: int) -> np.ndarray:
    """So many speakers at once, at different distances, (STRETCH,)."""
    names = list(speakers)
    return sum(rng.uniform(0.3, 1) * talk(rng, speakers[names[rng.integers(len(names))]]) for _ in range(size))


def noises(rng: Rng, half: str, speakers: Speakers) -> dict[str, Callable[[], np.ndarray]]:
    """Generators of noise by name, (STRETCH,) each; the halves have no spectrum, rate or instrument in common."""
    t = np.arange(STRETCH) / SAMPLE_RATE
    first = half == "validation"

    def white() -> np.ndarray:
        return rng.standard_normal(STRETCH)

    def fan() -> np.ndarray:
        """Air through a filter, which beats, and the blades' harmonics."""
        pole, blades = (rng.uniform(0.6, 0.75), 110) if first else (rng.uniform(0.8, 0.93), 240)
        air = lfilter([1], [1, -pole], white()) * (1 + 0.2 * np.sin(2 * np.pi * rng.uniform(3, 25) * t))
        return air / air.std() + 0.3 * sum(np.sin(2 * np.pi * blades * k * t) / k for k in range(1, 6))

    def street() -> np.ndarray:
        """Low noise and the tyres of cars that pass."""
        out = acoustics.coloured(white(), 1.6 if first else 1.1)
        out /= out.std()
        for _ in range(2 if first else 5):
            passing = np.exp(-(((t - rng.uniform(0, 8)) / (1.5 if first else 0.6)) ** 2))
            out += 2 * passing * lfilter([1, -1], [1, -0.5], white())
        return out

    def music() -> np.ndarray:
        """Chords: of decaying plucks, or of held tones with tremolo."""
        out = np.zeros(STRETCH)
        for at in np.arange(0, 8, rng.uniform(0.25, 0.5) if first else rng.uniform(0.8, 1.6)):
            own = np.maximum(t - at, 0)
            decay = np.exp(-own * (6 if first else 1)) * (t >= at)
            for note in rng.uniform(110, 660, 3):
                tremolo = 1 if first else 1 + 0.4 * np.sin(2 * np.pi * rng.uniform(4, 7) * t)
                out += decay * tremolo * sum(np.sin(2 * np.pi * note * k * own) / k for k in range(1, 5))
        return out

    return {
        "fan": fan,
        "street": street,
        "music": music,
        "white noise": white,
        "low noise": lambda: acoustics.coloured(white(), 1.0 if first else 1.8),
        "a crowd": lambda: many_speakers(rng, speakers, 25 if first else 15),
    }


def stretches(rng: Rng, half: str, speakers: Speakers, count: int) -> Iterator[tuple[str, bool, np.ndarray]]:
    """Condition, whether it is a crowd, and the waveform (STRETCH,)."""
    names = list(speakers)
    for i in range(count):
        yield "alone", False, talk(rng, speakers[names[i % len(names)]])
        room = acoustics.room(rng, rng.uniform(0.3, 0.8), rng.uniform(1, 3))
        yield "in a room", False, acoustics.reverberant(talk(rng, speakers[names[(i + 1) % len(names)]]), room)
        for k, (kind, make) in enumerate(noises(rng, half, speakers).items()):
            for snr in SNRS:
                said = talk(rng, speakers[names[(i + k + snr) % len(names)]])
                yield f"{kind}, {snr} dB", False, acoustics.mixed(said, make(), snr)
        for size in SIZES:
            yield f"crowd of {size}", True, many_speakers(rng, speakers, size)
            hall = acoustics.room(rng, rng.uniform(0.6, 1.2), 3.0)
            yield f"crowd of {size} by telephone", True, acoustics.narrowband(many_speakers(rng, speakers, size))
            yield f"crowd of {size} in a hall", True, acoustics.reverberant(many_speakers(rng, speakers, size), hall)


def judged(waveform: np.ndarray) -> tuple[bool, list[float], float]:
    """Whether a stretch is taken for a crowd, what is measured for that, and the share of it that `segments` sends."""
    waveform = audio.levelled(effects.peak(waveform, 0.5).astype(np.float32))
    power = 10 ** (frame_levels(waveform) / 10)
    sent = sum(end - start for segment in audio.segments(waveform, 30) for start, end in segment.sounds)
    measured = [round(value, 3) for value in babble.measured(waveform, power)]
    return babble.is_babble(waveform, power), measured, sent * SAMPLE_RATE / len(waveform)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=12, help="stretches of each condition and half")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    found: dict = {
        "stretches of each condition": args.count,
        "thresholds": [babble.STEADY, babble.MOVEMENT, babble.HIGH_MOVEMENT, babble.PITCH],
    }
    for half, seed in (("validation", 1), ("test", 2)):
        rng = np.random.default_rng(seed)
        validation = half == "validation"
        speakers = (
            embedded(rng, "validation") | natural(rng, "train") if validation else natural(rng, "test") | actors()
        )
        rows: dict[str, dict] = {}
        for condition, is_crowd, waveform in stretches(rng, half, speakers, args.count):
            taken, measured, sent = judged(waveform)
            row = rows.setdefault(condition, {"crowd": is_crowd, "taken for a crowd": 0, "sent": [], "measured": []})
            row["taken for a crowd"] += int(taken)
            row["sent"].append(sent)
            row["measured"].append(measured)
        for condition, row in rows.items():
            row["sent"] = round(float(np.mean(row["sent"])), 2)
            row["measured"] = np.median(row["measured"], axis=0).round(3).tolist()
            print(half, condition, json.dumps(row))
        found[half] = {"speakers": len(speakers), "conditions": rows}
    args.results.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

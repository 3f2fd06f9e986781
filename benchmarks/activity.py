"""What the voice activity detector lets through, and where sounds begin and end.

    python benchmarks/activity.py

- recall: our own sounds (laughs, sighs, gasps, throat clearing, crying: every recipe), each alone between seconds of
  faint noise; a sound is found if it is sent whole.
- written: fan, hum, rumble, ringing tone, music and babble, 20 minutes together: seconds that are sent to the model,
  and what the model's last variant writes.
- edges: a sentence of the embedded voice between seconds of silence: errors of the first sound's start and the last
  sound's end against the voice's own times, in seconds.

Prints the figures and stores them in benchmarks/activity.json. Takes some minutes on one core.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from evoxtral import audio  # noqa: E402 - after the path
from evoxtral.audio import SAMPLE_RATE  # noqa: E402
from evoxtral.inference import engine as engines  # noqa: E402
from evoxtral.model import checkpoints  # noqa: E402
from evoxtral.speech import acoustics, effects, sounds, speak  # noqa: E402
from evoxtral.speech.synthesis import VOICES  # noqa: E402
from training import nonspeech  # noqa: E402

RESULTS = ROOT / "benchmarks" / "activity.json"
SENTENCES = (
    "I never said that we would go there tonight.", "Please close the door behind you.",
    "The train leaves at nine in the morning, so hurry up.", "What are you doing here?",
)  # fmt: skip
CLIP = 30.0  # seconds of a clip of noise
Rng = np.random.Generator


def alone(waveform: np.ndarray, rng: Rng) -> tuple[np.ndarray, float]:
    """A sound between 2 to 5 s of noise at -80 dBFS; and where it begins."""
    lead = rng.uniform(2, 5)
    whole = np.concatenate([np.zeros(round(lead * SAMPLE_RATE)), waveform, np.zeros(4 * SAMPLE_RATE)])
    return audio.levelled((whole + 1e-4 * rng.standard_normal(len(whole))).astype(np.float32)), lead


def recall(rng: Rng, count: int) -> dict[str, float]:
    found = dict.fromkeys(effects.SOUNDS, 0)
    for name in found:
        for number in range(count):
            pitch = rng.uniform(90, 260)
            made = effects.SOUNDS[name](rng, number % 4 == 1) if number % 2 else sounds.make(name, rng, pitch)
            waveform, lead = alone(made * rng.uniform(0.2, 1), rng)
            sent = audio.segments(waveform, 30)
            end = lead + len(made) / SAMPLE_RATE
            found[name] += bool(sent) and sent[0].start <= lead + 0.05 and sent[-1].end >= end - 0.1
    return {name: value / count for name, value in found.items()}


def hum(rng: Rng, seconds: float) -> np.ndarray:
    t = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    base = rng.choice((50, 60))
    return sum(np.sin(2 * np.pi * base * k * t + rng.uniform(0, 6)) / k for k in range(1, 9))


def rumble(rng: Rng, seconds: float) -> np.ndarray:
    """Traffic and wind: brown noise that swells."""
    count = round(seconds * SAMPLE_RATE)
    swell = np.interp(np.arange(count), np.linspace(0, count, 12), rng.uniform(0.2, 1, 12))
    return swell * acoustics.coloured(rng.standard_normal(count), 2.0)


def ringing(rng: Rng, seconds: float) -> np.ndarray:
    """ITU-T E.180, North America: 440 and 480 Hz, 2 s of 6."""
    t = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE + rng.uniform(0, 6)
    return (np.sin(2 * np.pi * 440 * t) + np.sin(2 * np.pi * 480 * t)) * (t % 6 < 2)


def babble(rng: Rng, seconds: float) -> np.ndarray:
    """A crowd: twenty speakers of the embedded voice at once."""
    count = round(seconds * SAMPLE_RATE)
    out = np.zeros(count)
    for _ in range(20):
        text = " ".join(rng.permutation(SENTENCES))
        said = speak(text, VOICES[rng.integers(len(VOICES))], seed=int(rng.integers(1000))).waveform
        out += np.roll(np.resize(said, count), rng.integers(count)) * rng.uniform(0.3, 1)
    return out


NOISES = {
    "fan": nonspeech.fan, "hum": hum, "rumble": rumble, "ringing": ringing, "music": nonspeech.music, "babble": babble
}  # fmt: skip


def written(rng: Rng, minutes: float, engine: "engines.Engine") -> dict[str, dict]:
    found = {}
    for name, make in NOISES.items():
        row = {"seconds": 0.0, "sent": 0.0, "words": 0, "tags": 0, "texts": []}
        for _ in range(max(1, round(minutes * 60 / CLIP / len(NOISES)))):
            clip = effects.peak(make(rng, CLIP), rng.uniform(0.03, 0.8)).astype(np.float32)
            transcript = engine.transcribe((SAMPLE_RATE, clip))
            sent = audio.segments(audio.levelled(clip), engine.window_seconds)
            row["seconds"] += CLIP
            row["sent"] += sum(end - start for segment in sent for start, end in segment.sounds)
            row["words"] += len(transcript.plain.split())
            row["tags"] += len(transcript.tags)
            row["texts"] += [transcript.text] * bool(transcript.text)
        row["sent"] = round(row["sent"], 1)
        found[name] = row
        print(name, row, file=sys.stderr)
    return found


def edges(rng: Rng, count: int) -> Iterator[tuple[float, float]]:
    for number in range(count):
        spoken = speak(SENTENCES[number % len(SENTENCES)], VOICES[rng.integers(len(VOICES))], seed=number)
        waveform, lead = alone(spoken.waveform, rng)
        sent = audio.segments(waveform, 30)
        first, last = sent[0].sounds[0][0], sent[-1].sounds[-1][1]
        yield first - lead - spoken.words[0].start, last - lead - spoken.words[-1].end


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=20, help="of noise")
    parser.add_argument("--count", type=int, default=120, help="sounds of each kind, and sentences")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    recalls = recall(rng, args.count)
    starts, ends = (np.abs(errors) for errors in zip(*edges(rng, args.count), strict=True))
    engine = engines.Engine(checkpoints.resolve("tiny"))
    found = {
        "sounds of each kind": args.count,
        "recall": recalls,
        "edges": {
            name: {"median": round(float(np.median(v)), 3), "p90": round(float(np.percentile(v, 90)), 3)}
            for name, v in (("start", starts), ("end", ends))
        },
        "written": written(rng, args.minutes, engine),
    }
    args.results.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()

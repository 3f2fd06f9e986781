"""Which loudness a model likes: word errors of the same clips at levels from -83 to -8 LUFS, without normalisation.

    python benchmarks/levels.py
    python benchmarks/levels.py --model mini-3b --clips 50

Speaks held-out scripts, brings each clip to every level by gain alone (16-bit rounding and
the log-mel's floor come after it, as in use), and transcribes it by the model's last variant. Stores the figures in
benchmarks/levels.json.
"""

import argparse
import json
import random
from pathlib import Path
from unittest import mock

import numpy as np

from evoxtral import audio, metrics
from evoxtral.inference.engine import Engine
from evoxtral.model import checkpoints
from evoxtral.speech import VOICES, speak
from training import scripts

RESULTS = Path(__file__).with_suffix(".json")
LEVELS = (-83, -68, -53, -43, -33, -23, -13, -8)  # LUFS


def spoken(count: int, seed: int) -> list[tuple[str, np.ndarray]]:
    """Scripts of the test split and their waveforms (T,)."""
    rng = random.Random(seed)
    texts = [scripts.write(rng, "light", "test").text for _ in range(count)]
    return [(text, speak(text, rng.choice(sorted(VOICES)), rng.randrange(1000)).waveform) for text in texts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    engine = Engine(checkpoints.resolve(args.model))
    clips = spoken(args.clips, args.seed)
    loudness = [audio.loudness(waveform) for _, waveform in clips]
    print("as spoken:", np.percentile(loudness, [0, 50, 100]).round(1), "LUFS", flush=True)
    found = {}
    with mock.patch.object(audio, "levelled", lambda waveform: waveform):  # what it is there for is measured
        for level in LEVELS:
            pairs = []
            for (text, waveform), own in zip(clips, loudness, strict=True):
                heard = np.clip(waveform * 10 ** ((level - own) / 20), -1, 1).astype(np.float32)
                pairs.append((engine.transcribe((audio.SAMPLE_RATE, heard)).text, text))
            scores = metrics.score(pairs).scores
            found[level] = {"wer": scores.wer, "tag_f1": scores.tag_f1}
            print(f"{level:4d} LUFS  WER {scores.wer:6.1%}  Tag F1 {scores.tag_f1:6.1%}", flush=True)
    about = {"model": engine.checkpoint.name, "clips": args.clips, "as_spoken": np.round(loudness, 1).tolist()}
    RESULTS.write_text(json.dumps(about | {"levels": found}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

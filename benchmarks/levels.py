"""Which loudness a model likes, and what a level changes in what it reads.

    python benchmarks/levels.py
    python benchmarks/levels.py --model mini-3b --clips 50
    python benchmarks/levels.py --mel

Word errors of the same clips at levels from -83 to -8 LUFS, without normalisation: speaks held-out scripts, brings each
clip to every level by gain alone (16-bit rounding and the log-mel's floor come after it, as in use), and transcribes it
by the model's last variant.

--mel: the same clips at 0, -20, -40 and -60 dB through transformers' own WhisperFeatureExtractor, with the settings of
Voxtral-Mini-3B-2507 (those of tiny are the same), from 16-bit samples as Voxtral's processor takes them. A gain of
20 dB adds 0.5 to every value; what differs from that is what a level changes: the share of values that differ by more
than a hundredth, their mean, and the share of values on a floor. Once as it is, once through `audio.levelled`.

Stores the figures in benchmarks/levels.json.
"""

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import numpy as np

from evoxtral import audio, metrics
from evoxtral.inference.engine import Engine
from evoxtral.model import checkpoints
from evoxtral.speech import VOICES, speak
from training import tagged_texts

RESULTS = Path(__file__).with_suffix(".json")
LEVELS = (-83, -68, -53, -43, -33, -23, -13, -8)  # LUFS
GAINS = (0, -20, -40, -60)  # dB, of a clip whose highest sample is at full scale


def spoken(count: int, seed: int) -> list[tuple[str, np.ndarray]]:
    """Scripts of the test split and their waveforms (T,)."""
    rng = random.Random(seed)
    texts = [tagged_texts.write(rng, "light", "test").text for _ in range(count)]
    return [(text, speak(text, rng.choice(sorted(VOICES)), rng.randrange(1000)).waveform) for text in texts]


def mel_change(clips: Sequence[np.ndarray]) -> dict[str, dict]:
    """What GAINS change in the log-mel of waveforms (T,), beside the shift of all values alike."""
    from transformers import WhisperFeatureExtractor

    extractor = WhisperFeatureExtractor(feature_size=128)

    def log_mel(waveform: np.ndarray) -> np.ndarray:
        rounded = np.floor(np.clip(waveform, -1, 1 - 1 / 32_768) * 32_768) / 32_768
        given = {"sampling_rate": audio.SAMPLE_RATE, "padding": "longest", "truncation": False}
        return extractor(rounded.astype(np.float32), return_tensors="np", **given).input_features[0]

    found = {}
    full = [clip / np.abs(clip).max() for clip in clips]
    for name, treated in {"as it is": lambda waveform: waveform, "levelled": audio.levelled}.items():
        before = [treated(clip) for clip in full]
        mels = [log_mel(waveform) for waveform in before]
        for gain in GAINS:
            after = [treated((clip * 10 ** (gain / 20)).astype(np.float32)) for clip in full]
            gains = [audio.loudness(new) - audio.loudness(old) for new, old in zip(after, before, strict=True)]
            quiet = [log_mel(waveform) for waveform in after]
            changes = [(new - old - db / 40).ravel() for new, old, db in zip(quiet, mels, gains, strict=True)]
            change = np.abs(np.concatenate(changes))
            floored = np.concatenate([(mel <= mel.min() + 1e-6).ravel() for mel in quiet])
            shares = {"changed": (change > 0.01).mean(), "mean_change": change.mean(), "floored": floored.mean()}
            found.setdefault(name, {})[gain] = {key: round(float(value), 4) for key, value in shares.items()}
            print(f"{name:9} {gain:4d} dB {found[name][gain]}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mel", action="store_true", help="what a level changes in the log-mel; runs no model")
    args = parser.parse_args()
    if args.mel:
        before = json.loads(RESULTS.read_text(encoding="utf-8"))
        found = mel_change([waveform for _, waveform in spoken(args.clips, args.seed)])
        RESULTS.write_text(json.dumps(before | {"log_mel": found}, indent=2) + "\n", encoding="utf-8")
        return
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
    before = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    RESULTS.write_text(json.dumps(before | about | {"levels": found}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

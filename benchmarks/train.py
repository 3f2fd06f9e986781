"""A step of the published SFT recipe on random weights of any shape: seconds, and the memory it takes.

    python benchmarks/train.py --shape tiny   seconds: does the measurement run?
    python benchmarks/train.py --shape 3b     a CUDA device

Clips fill a window and texts have a fixed number of tokens: every step is the most expensive one possible. Results go
to the file of benchmarks/decode.py, whose --docs writes them into docs/speed.md.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.decode import Setting, fresh, peak_bytes
from benchmarks.models import SHAPES, WINDOW, build, some_speech
from benchmarks.speed_records import RESULTS, keep, record
from evoxtral.inference.prompt import Prompt
from evoxtral.model import checkpoints
from evoxtral.model.lora import LoraRecipe
from training import loop, sft
from training.dataset import Clip, Clips


def train(base: str, setting: Setting, batch: int) -> dict:
    """Median seconds of the steps after the first, and the most memory of all: weights, gradients, optimiser, batch."""
    device, config = torch.device(setting.device), sft.SftConfig(batch=batch)
    prompt = Prompt(Path(base), checkpoints.load_config(Path(base)))
    with tempfile.TemporaryDirectory() as folder:
        clips = whole_windows(Path(folder), config.batch, prompt)
        texts = [text_of(setting.tokens, prompt)] * config.batch
        tuned = sft.adapted(Path(base), LoraRecipe(), None, device)
        tuned.train()
        task = sft.Finetuning(tuned, prompt, clips, texts, config)
        ended: list[float] = []

        def end(_: int) -> dict:
            ended.append(time.perf_counter())
            return {}

        optimizer = torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad], lr=config.learning_rate)
        schedule = loop.Schedule(config.learning_rate, config.warmup, setting.repeats + 1)
        loop.fit(
            [tuned],
            [optimizer],
            lambda _: task.losses(0),  # the same batch every time
            schedule,
            Path(folder),
            "sft",
            evaluate=end,
            evaluate_every=1,
        )
    step_s = statistics.median(np.diff(ended))
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else peak_bytes()
    return {
        "dtype": str(loop.matmul_dtype(device)).removeprefix("torch."), "batch": config.batch,
        "micro_batch": config.micro_batch, "step_s": step_s, "peak_bytes": peak,
    }  # fmt: skip


def whole_windows(folder: Path, count: int, prompt: Prompt) -> Clips:
    """Clips of a full window each, written to `folder` as `dataset.build` writes them."""
    mel = prompt.log_mel([some_speech(WINDOW)], "cpu")[0].T.numpy().astype(np.float16)
    shard = folder / "speech-0000.npy"
    np.save(shard, mel)
    clip = Clip("speech", "", "plain", "", "", False, 0, WINDOW, len(mel))
    return Clips(folder, [clip] * count, [(0, 0)] * count, [shard])


def text_of(tokens: int, prompt: Prompt) -> str:
    """A text of so many tokens."""
    text = ""
    while len(prompt.encode(text)) < tokens:
        text += " a"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="3b")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tokens", type=int, default=100, help="of a text (default: 100)")
    parser.add_argument(
        "--batch", type=int, default=sft.SftConfig.batch, help="clips of a step (default: as published)"
    )
    parser.add_argument("--repeats", type=int, default=5, help="steps that are timed (default: 5)")
    parser.add_argument("--folder", type=Path, help="keep the model here and use it again")
    parser.add_argument("--results", type=Path, default=RESULTS, help="default: benchmarks/results.json")
    args = parser.parse_args()
    setting = Setting(args.shape, args.device, None, args.tokens, args.repeats, windows=1)
    with tempfile.TemporaryDirectory() as folder:
        model = fresh(build, SHAPES[args.shape], args.folder or Path(folder), 2)
        new = record("train", setting.kept, fresh(train, model.base, setting, args.batch))
    print(json.dumps(new, indent=1), flush=True)
    keep(new, args.results)


if __name__ == "__main__":
    main()

"""A step of the published SFT recipe on random weights of any shape: seconds, and the memory it takes.

    python benchmarks/train.py --shape tiny   seconds: does the measurement run?
    python benchmarks/train.py --shape 3b     a CUDA device
    python benchmarks/train.py --sampling     RAFT's sampling on the scale model, against one clip at a time

Clips fill a window and texts have a fixed number of tokens: every step is the most expensive one possible. Results go
to the file of benchmarks/decode.py, whose --docs writes them into docs/speed.md; those of --sampling and of
train_reference.py to benchmarks/train.json.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.decode import Setting, fresh, peak_bytes
from benchmarks.models import SHAPES, WINDOW, build, some_speech
from benchmarks.speed_records import RESULTS, keep, machine, record
from evoxtral import speech
from evoxtral.bench.running import commit
from evoxtral.inference.engine import Engine
from evoxtral.inference.prompt import Prompt
from evoxtral.inference.sampling import Decoding
from evoxtral.model import checkpoints
from evoxtral.model.lora import LoraRecipe
from training import loop, passes, sft
from training.dataset import Clip, Clips
from training.raft import RaftConfig

TRAINING = Path(__file__).with_name("train.json")


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
        need = task.needed(sum(p.numel() for p in tuned.parameters() if p.requires_grad))
        task.run_as(passes.choose(need, passes.free(device), task.most))
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
        "micro_batch": task.passes.micro_batch, "checkpointing": task.passes.checkpointing, "step_s": step_s,
        "peak_bytes": peak,
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


def sampling(clips: int, samples: int, turns: int) -> dict:
    """Processor seconds of a clip's samples as RAFT takes them, all rows together, and one clip and sample at a time,
    in turns; the least of each."""
    engine = Engine(checkpoints.resolve("tiny"), device="cpu")
    texts = [f"[sighs] Ann has room number {k}, and Ben went away." for k in range(clips)]
    waveforms = [speech.speak(text, seed=k).waveform for k, text in enumerate(texts)]
    decoding = Decoding(temperature=RaftConfig.temperature, top_p=RaftConfig.top_p, seed=1)
    some = waveforms[: max(1, clips // 4)]
    engine.batch(waveforms[:2], ["sft"], decoding=decoding, samples=2)
    seconds: dict[str, list[float]] = {"together": [], "one by one": []}
    for _ in range(turns):
        begun = time.process_time()
        engine.batch(waveforms, ["sft"], decoding=decoding, samples=samples)
        seconds["together"].append((time.process_time() - begun) / len(waveforms))
        begun = time.process_time()
        for waveform in some:
            for _ in range(samples):
                engine.batch([waveform], ["sft"], decoding=decoding)
        seconds["one by one"].append((time.process_time() - begun) / len(some))
    return {
        "model": "tiny", "clips": clips, "samples": samples, "processor_s_per_clip": seconds,
        "ratio": min(seconds["one by one"]) / min(seconds["together"]),
    }  # fmt: skip


def keep_beside(name: str, found: dict, path: Path = TRAINING) -> None:
    """Put figures with where they were measured into the file of training's comparisons, in the place of older ones."""
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    kept[name] = {"date": date.today().isoformat(), "commit": commit(), "machine": machine("cpu"), **found}
    path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


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
    parser.add_argument("--results", type=Path, help="default: benchmarks/results.json, of --sampling train.json")
    parser.add_argument("--sampling", action="store_true", help="RAFT's sampling instead of a step of SFT")
    parser.add_argument("--clips", type=int, default=24, help="of --sampling (24)")
    parser.add_argument("--turns", type=int, default=2, help="of --sampling (2)")
    args = parser.parse_args()
    if args.sampling:
        found = sampling(args.clips, RaftConfig.samples, args.turns)
        print(json.dumps(found, indent=1), flush=True)
        keep_beside("sampling", found, args.results or TRAINING)
        return
    setting = Setting(args.shape, args.device, None, args.tokens, args.repeats, windows=1)
    with tempfile.TemporaryDirectory() as folder:
        model = fresh(build, SHAPES[args.shape], args.folder or Path(folder), 2)
        new = record("train", setting.kept, fresh(train, model.base, setting, args.batch))
    print(json.dumps(new, indent=1), flush=True)
    keep(new, args.results or RESULTS)


if __name__ == "__main__":
    main()

"""SFT here against the reference way, on random weights: transformers' Trainer, PEFT, a padding collator, 2 at a time
with gradient checkpointing, as the card has it. In one process, in turns, in processor seconds.

    python benchmarks/train_reference.py --shape tiny       seconds: does the measurement run, and are the losses equal?
    OMP_NUM_THREADS=1 python benchmarks/train_reference.py --shape 250m --batch 2   five minutes

Without dropout and noise, so that the losses can be compared. `cropped` is ours where a batch ends with its longest
clip (`cropped = 1.0` in a recipe): transformers refuses such windows, so the reference pads to 30 s. With `--cropped`
the reference's encoder is cut to that length, too: it tells whether ours learns what it should there. In float32, and
in bfloat16 where training would choose it here; results go to benchmarks/train.json.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.models import SHAPES, build, some_speech
from benchmarks.train import TRAINING, keep_beside, text_of
from evoxtral.inference.prompt import Prompt
from evoxtral.model import checkpoints
from evoxtral.model.lora import LoraRecipe
from training import loop, sft
from training.dataset import Clip, Clips

LORA = replace(LoraRecipe(), dropout=0.0)


def speech(folder: Path, count: int, seconds: float, prompt: Prompt) -> Clips:
    """Clips of one length, written to `folder` as `dataset.build` writes them."""
    mel = prompt.log_mel([some_speech(seconds)], "cpu")[0].T.numpy().astype(np.float16)
    mel = mel[: int(seconds * 16_000) // prompt.hop + 2]
    np.save(folder / "speech-0000.npy", mel)
    clip = Clip("speech", "", "plain", "", "", False, 0, seconds, len(mel))
    return Clips(folder, [clip] * count, [(0, 0)] * count, [folder / "speech-0000.npy"])


def ours(base: Path, prompt: Prompt, clips: Clips, texts: list[str], steps: int, config: sft.SftConfig) -> dict:
    """Losses, and processor seconds of each step."""
    torch.manual_seed(0)
    tuned = sft.adapted(base, LORA, None, torch.device("cpu"))
    tuned.train()
    task, ended, losses = sft.Finetuning(tuned, prompt, clips, texts, config), [time.process_time()], []

    def step(_: int):
        losses.append(0.0)
        for parts in task.losses(0):
            losses[-1] += parts["loss"].item()
            yield parts

    def end(_: int) -> dict:
        ended.append(time.process_time())
        return {}

    optimizer = torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.0)
    with tempfile.TemporaryDirectory() as folder:
        schedule = loop.Schedule(1e-3, 1, steps, hold=0.99)
        loop.fit([tuned], [optimizer], step, schedule, Path(folder), "sft", evaluate=end, evaluate_every=1)
    return {"losses": losses, "step_s": np.diff(ended).tolist()}


def reference(
    base: Path, prompt: Prompt, clips: Clips, texts: list[str], steps: int, bf16: bool, cropped: bool = False
) -> dict:
    """The same by transformers' Trainer, in float32 or with autocast to bfloat16. cropped: with an encoder as long as
    the longest clip."""
    from peft import LoraConfig, get_peft_model
    from transformers import Trainer, TrainerCallback, TrainingArguments

    torch.manual_seed(0)
    plain, collator = checkpoints.load_base(base, torch.float32), sft.Collator(clips, prompt)
    frames = collator.mels([0], full_window=not cropped).shape[2]
    shorten(plain.model.audio_tower, frames // 2)
    settings = LoraConfig(
        r=LORA.r, lora_alpha=LORA.alpha, lora_dropout=0.0, target_modules=list(LORA.targets), task_type="CAUSAL_LM"
    )
    tuned = get_peft_model(plain, settings)
    tuned.enable_input_require_grads()
    tokens = frames * prompt.audio_tokens // prompt.window_frames
    ids = collator.cropped(prompt.transcription_ids("en"), tokens).tolist()
    ended = [time.process_time()]

    def collate(rows: list[int]) -> dict:
        encoded = [[*prompt.encode(texts[i]), prompt.eos_id] for i in rows]
        longest = max(map(len, encoded))
        pads = [longest - len(text) for text in encoded]
        mels = collator.mels(rows, full_window=not cropped)
        return {
            "input_ids": torch.tensor(
                [ids + text + [prompt.eos_id] * n for text, n in zip(encoded, pads, strict=True)]
            ),
            "attention_mask": torch.tensor(
                [[1] * (len(ids) + len(text)) + [0] * n for text, n in zip(encoded, pads, strict=True)]
            ),
            "labels": torch.tensor(
                [[-100] * len(ids) + text + [-100] * n for text, n in zip(encoded, pads, strict=True)]
            ),
            "input_features": mels[:, :, :frames],
        }

    class Ended(TrainerCallback):
        def on_step_end(self, *_, **__):
            ended.append(time.process_time())

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, per_device_train_batch_size=2, gradient_accumulation_steps=len(texts) // 2, max_steps=steps,
            gradient_checkpointing=True, learning_rate=1e-3, lr_scheduler_type="constant", weight_decay=0.0,
            logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, remove_unused_columns=False,
            disable_tqdm=True, bf16=bf16,
        )  # fmt: skip
        trainer = Trainer(tuned, arguments, collate, train_dataset=list(range(len(texts))) * steps, callbacks=[Ended()])
        trainer.train()
    return {
        "losses": [row["loss"] for row in trainer.state.log_history if "loss" in row],
        "step_s": np.diff(ended).tolist(),
    }


def shorten(tower, positions: int) -> None:
    """Let an encoder of transformers take windows of so many positions only."""
    tower.config.max_source_positions = positions
    tower.embed_positions.weight = torch.nn.Parameter(tower.embed_positions.weight[:positions], requires_grad=False)


def measure(base: Path, batch: int, steps: int, tokens: int, seconds: float, cropped: bool) -> dict:
    prompt = Prompt(base, checkpoints.load_config(base))
    precisions = ("float32",) if cropped else dict.fromkeys(("float32", loop.cpu_precision()))
    with tempfile.TemporaryDirectory() as folder:
        clips = speech(Path(folder), batch, seconds, prompt)
        texts = [text_of(tokens, prompt)] * batch
        found = {}
        for precision in precisions:
            os.environ[loop.PRECISION] = precision
            found[precision] = compared(base, prompt, clips, texts, steps, cropped)
    return {"batch": batch, "tokens": tokens, "seconds": seconds, "steps": steps, "precisions": found}


def compared(base: Path, prompt: Prompt, clips: Clips, texts: list[str], steps: int, cropped: bool) -> dict:
    """The ways in the precision that PRECISION names; of the steps of each the quickest counts. cropped: only those
    whose windows end with the longest clip, one against the other."""
    config, bf16 = sft.SftConfig(batch=len(texts), neftune=0.0), os.environ[loop.PRECISION] == "bf16"
    ways = {
        "reference": lambda: reference(base, prompt, clips, texts, steps, bf16, cropped),
        "ours": lambda: ours(base, prompt, clips, texts, steps, replace(config, cropped=float(cropped))),
    }
    if not cropped:
        ways["cropped"] = lambda: ours(base, prompt, clips, texts, steps, replace(config, cropped=1.0))
    found = {name: way() for name, way in ways.items()}
    least = {name: min(one["step_s"]) for name, one in found.items()}
    pairs = zip(found["reference"]["losses"], found["ours"]["losses"], strict=True)
    ratios = {"ratio": least["reference"] / least["ours"]}
    if not cropped:
        ratios["ratio_cropped"] = least["reference"] / least["cropped"]
    return found | {
        "clips_per_processor_second": {name: len(texts) / s for name, s in least.items()},
        **ratios, "losses_apart": max(abs(a - b) for a, b in pairs),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="250m")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=60, help="of a text (60)")
    parser.add_argument("--seconds", type=float, default=8.0, help="of a clip (8)")
    parser.add_argument("--cropped", action="store_true", help="only windows as long as the clips, for both")
    parser.add_argument("--results", type=Path, default=TRAINING, help="default: benchmarks/train.json")
    parser.add_argument("--folder", type=Path, help="keep the model here and use it again")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = build(SHAPES[args.shape], args.folder or Path(folder), 2)
        found = measure(Path(model.base), args.batch, args.steps, args.tokens, args.seconds, args.cropped)
    print(json.dumps(found, indent=1))
    keep_beside(f"sft {args.shape}" + " cropped" * args.cropped, found, args.results)


if __name__ == "__main__":
    main()

"""Evoxtral's engine against the reference way, on random weights of any shape, in one run.

    python benchmarks/decode.py --shape 250m                    two CPU cores
    python benchmarks/decode.py --shape mini-3b --table         a CUDA device, with the table over windows and
    variants python benchmarks/decode.py --shape 250m --dtype float32    are the tokens the same?

The reference way is what the published snippet leads to for three columns: PeftModel with the adapters
loaded, and one `apply_transcription_request` and one `generate()` after the other for base, sft and rl. Both
write a fixed number of tokens. Medians over repeats, after one run to warm up. Prints, and stores under
benchmarks/results/.
"""

import argparse
import datetime
import gc
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from evoxtral.audio import SAMPLE_RATE
from evoxtral.checkpoints import Checkpoint, published_config
from evoxtral.decode import Decoding
from evoxtral.engine import Engine
from evoxtral.lora import BASE, LoraRecipe
from evoxtral.prompt import load_processor
from training.tokenizer import N_SPECIAL, write_processor

RESULTS = Path(__file__).parent / "results"
NO_TOKEN = -1  # an end-of-text id that is never written: every run has the same length
SHORT = 8  # tokens of the short run that the time of one step is taken from


@dataclass(frozen=True)
class Shape:
    """Sizes of a model; windows are 30 s. The defaults are the published ones."""

    encoder_layers: int = 32
    encoder_width: int = 1280
    encoder_heads: int = 20
    text_layers: int = 30
    text_width: int = 3072
    text_mlp: int = 8192
    heads: int = 32
    key_value_heads: int = 8
    head_dim: int = 128
    vocabulary: int = 131072
    rank: int = 64


SHAPES = {
    "mini-3b": Shape(),
    "250m": Shape(12, 768, 12, 12, 1024, 2816, 16, 4, 64, 8192, rank=16),
    "small": Shape(2, 128, 2, 2, 128, 352, 4, 2, 32, 1024, rank=8),
}


# ------------------------------------------------------------------------------------------------------ build


def build(shape: Shape, folder: Path, adapters: int) -> Checkpoint:
    """Write a base of random weights in bfloat16, and random adapters of the recipe's reach, to `folder`."""
    from peft import LoraConfig, get_peft_model
    from transformers import VoxtralForConditionalGeneration

    config = published_config()
    audio, text = config.audio_config, config.text_config
    audio.num_hidden_layers, audio.hidden_size = shape.encoder_layers, shape.encoder_width
    audio.num_attention_heads, audio.intermediate_size = shape.encoder_heads, 4 * shape.encoder_width
    text.num_hidden_layers, text.hidden_size, text.intermediate_size = (
        shape.text_layers,
        shape.text_width,
        shape.text_mlp,
    )
    text.num_attention_heads, text.num_key_value_heads = shape.heads, shape.key_value_heads
    text.head_dim, text.vocab_size = shape.head_dim, shape.vocabulary
    config.hidden_size = shape.text_width
    with torch.device("meta"):
        model = VoxtralForConditionalGeneration(config)
    model = model.to(torch.bfloat16).to_empty(device="cpu")
    randomise(model)
    model.save_pretrained(folder / "base")
    write_processor(folder / "base", tekken_merges(shape.vocabulary - N_SPECIAL - 256), 30)
    recipe = LoraRecipe(r=shape.rank, alpha=2 * shape.rank)
    settings = LoraConfig(
        r=recipe.r, lora_alpha=recipe.alpha, target_modules=list(recipe.targets), task_type="CAUSAL_LM"
    )
    names = ["sft", "rl", *(f"lora{i}" for i in range(3, adapters + 1))]
    peft = get_peft_model(model, settings, adapter_name=names[0])
    for name in names[1:]:
        peft.add_adapter(name, settings)
    randomise(peft, only=".lora_", scale=0.3)
    peft.save_pretrained(folder)
    (folder / "sft").mkdir(exist_ok=True)
    for file in folder.glob("adapter_*"):
        file.rename(folder / "sft" / file.name)
    return Checkpoint("random", str(folder / "base"), {name: str(folder / name) for name in names})


def tekken_merges(count: int) -> list[bytes]:
    """The first merges of the vocabulary that mistral_common ships."""
    import base64

    data = json.loads(files("mistral_common").joinpath("data/tekken_240911.json").read_text(encoding="utf-8"))
    return [base64.b64decode(entry["token_bytes"]) for entry in data["vocab"][256 : 256 + count]]


@torch.no_grad()
def randomise(model: torch.nn.Module, only: str = "", scale: float = 1.0) -> None:
    """Fan-in scaled noise, tiled: what is computed does not matter here, only that it varies and stays
    finite.
    """
    noise = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0))
    for i, (name, parameter) in enumerate(model.named_parameters()):
        if only not in name:
            continue
        if parameter.ndim == 1:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            continue
        width = 1.0 if "embed" in name else parameter[0].numel()
        tiles = -(-parameter.numel() // len(noise))
        values = noise.roll(i * 997).repeat(tiles)[: parameter.numel()].view(parameter.shape)
        parameter.copy_(values * scale * width**-0.5)


# ---------------------------------------------------------------------------------------------------- measure


def median_seconds(run: Callable[[], object], repeats: int) -> float:
    run()
    times = []
    for _ in range(repeats):
        synchronise()
        start = time.perf_counter()
        run()
        synchronise()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class PeakMemory:
    """Bytes in use at the peak, since the start of the block: of the device's allocator, or of the
    process.
    """

    def __enter__(self) -> "PeakMemory":
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, proc(5)
        return self

    def __exit__(self, *error) -> None:
        if torch.cuda.is_available():
            self.bytes = torch.cuda.max_memory_allocated()
        else:
            status = Path("/proc/self/status").read_text()
            self.bytes = int(status.split("VmHWM:")[1].split()[0]) * 1024


def process_bytes() -> int:
    if torch.cuda.is_available():
        return torch.cuda.memory_allocated()
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) * 1024


def some_speech(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise in syllables (T,): not silent, and the same for both ways."""
    t = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    noise = np.random.default_rng(seed).normal(size=len(t))
    return (0.05 * noise * (1 + np.sin(2 * np.pi * 4 * t))).astype(np.float32)


class Reference:
    """PeftModel with all adapters, one generate() per variant."""

    def __init__(self, checkpoint: Checkpoint, device: str, dtype: torch.dtype):
        from peft import PeftModel
        from transformers import VoxtralForConditionalGeneration

        model = VoxtralForConditionalGeneration.from_pretrained(checkpoint.base, dtype=dtype).to(device).eval()
        model.generation_config.eos_token_id = None
        first, *others = checkpoint.adapters.items()
        self.model = PeftModel.from_pretrained(model, first[1], adapter_name=first[0])
        for name, folder in others:
            self.model.load_adapter(folder, adapter_name=name)
        self.model.to(device, dtype)
        self.processor = load_processor(checkpoint.base, model.config.audio_config.max_source_positions * 2)
        self.device, self.dtype = device, dtype

    def write(self, wave: np.ndarray, variants: tuple[str, ...], tokens: int) -> dict[str, list[int]]:
        return {variant: self._write(wave, variant, tokens) for variant in variants}

    def _write(self, wave: np.ndarray, variant: str, tokens: int) -> list[int]:
        inputs = self.processor.apply_transcription_request(
            audio=[wave], format=["WAV"], sampling_rate=SAMPLE_RATE, language="en", model_id="any"
        ).to(self.device, dtype=self.dtype)
        settings = {"max_new_tokens": tokens, "do_sample": False, "pad_token_id": 11}
        if variant == BASE:
            with self.model.disable_adapter():
                written = self.model.generate(**inputs, **settings)
        else:
            self.model.set_adapter(variant)
            written = self.model.generate(**inputs, **settings)
        return written[0, inputs["input_ids"].shape[1] :].tolist()


class Ours:
    """The engine, through its public door."""

    def __init__(self, checkpoint: Checkpoint, device: str, dtype: torch.dtype, rows: int):
        self.engine = Engine(checkpoint, device=device, dtype=dtype, rows=rows)
        self.engine.prompt.eos_id = NO_TOKEN

    def write(self, waves: list[np.ndarray], variants: tuple[str, ...], tokens: int) -> list[dict]:
        decoding = Decoding(max_tokens=tokens, stop_loops=False)
        return self.engine.batch(waves, variants, decoding=decoding)


def same_tokens(reference: dict[str, list[int]], ours: dict, prompt) -> dict[str, float]:
    """Per variant, the share of the reference's tokens up to the first that differs."""
    shares = {}
    for variant, ids in reference.items():
        written = [token.text for token in ours[variant][0].cues[0].tokens]
        expected = prompt.pieces(ids)
        agree = next((i for i, (a, b) in enumerate(zip(written, expected, strict=True)) if a != b), len(ids))
        shares[variant] = agree / len(ids)
    return shares


def weight_reading_seconds(text_bytes: int, device: str) -> float:
    """How long it takes to read as many bytes as the text model has, once, from memory."""
    block = torch.ones(min(text_bytes, 1 << 30) // 2, dtype=torch.bfloat16, device=device)
    return median_seconds(lambda: block.sum(), repeats=5) * text_bytes / block.nbytes


# ------------------------------------------------------------------------------------------------------- main


def compare(checkpoint: Checkpoint, args: argparse.Namespace, device: str, dtype: torch.dtype) -> dict:
    """Three variants of one 30 s clip, both ways."""
    variants = ("base", "sft", "rl")
    wave = some_speech(30)
    result: dict = {}
    if not args.skip_reference:
        reference = Reference(checkpoint, device, dtype)
        result["reference_s"] = median_seconds(lambda: reference.write(wave, variants, args.tokens), args.repeats)
        expected = reference.write(wave, variants, args.tokens)
        del reference
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    before = process_bytes()
    ours = Ours(checkpoint, device, dtype, rows=args.rows)
    text_bytes = sum(p.nbytes for p in ours.engine._text.parameters()) - ours.engine._text.embed.weight.nbytes
    base_bytes = sum(
        p.nbytes for m in (ours.engine._text, ours.engine._tower, ours.engine._projector) for p in m.parameters()
    )
    with PeakMemory() as peak:
        result["ours_s"] = median_seconds(lambda: ours.write([wave], variants, args.tokens), args.repeats)
    short = median_seconds(lambda: ours.write([wave], variants, SHORT), args.repeats)
    result["step_s"] = (result["ours_s"] - short) / (args.tokens - SHORT)
    result["weight_reading_s"] = weight_reading_seconds(text_bytes, device)
    result["step_over_weight_reading"] = result["step_s"] / result["weight_reading_s"]
    result["base_bytes"] = base_bytes
    result["peak_over_base_bytes"] = peak.bytes - before - base_bytes
    result["peak_over_base"] = result["peak_over_base_bytes"] / base_bytes
    if not args.skip_reference:
        result["speed_up"] = result["reference_s"] / result["ours_s"]
        result["same_tokens"] = same_tokens(expected, ours.write([wave], variants, args.tokens)[0], ours.engine.prompt)
    if args.table:
        result["table"] = table(ours, args)
    return result


def table(ours: Ours, args: argparse.Namespace) -> list[dict]:
    """Seconds, and times real time, over windows of 30 s and variants."""
    rows = []
    for count in (1, 2, 3, 6):
        for windows in (1, 2, 4, 8, 16, 32, 64):
            if windows > args.windows:
                break
            waves = [some_speech(30, seed) for seed in range(windows)]
            names = ours.engine.variants[-count:] if count == 1 else ours.engine.variants[:count]
            seconds = median_seconds(lambda w=waves, n=names: ours.write(w, n, args.tokens), args.repeats)
            rows.append(
                {"variants": count, "windows": windows, "seconds": seconds, "real_time": 30 * windows / seconds}
            )
            print(
                f"  {count} variants, {windows:2d} windows: {seconds:8.3f} s, {30 * windows / seconds:7.1f} x real time"
            )
    return rows


def machine(device: str) -> dict:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "commit": commit.stdout.strip(),
        "date": datetime.date.today().isoformat(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="250m")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), help="default: bfloat16, float32 on a CPU")
    parser.add_argument("--tokens", type=int, default=128, help="written per row")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, default=None, help="most rows decoded together")
    parser.add_argument("--table", action="store_true", help="also over windows and variants")
    parser.add_argument("--windows", type=int, default=64, help="most windows in the table")
    parser.add_argument("--skip-reference", action="store_true")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/SHAPE-DEVICE-DTYPE.json")
    args = parser.parse_args()
    args.dtype = args.dtype or ("float32" if args.device == "cpu" else "bfloat16")
    shape = SHAPES[args.shape]
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = build(shape, Path(folder), adapters=5 if args.table else 2)
        result = compare(checkpoint, args, args.device, getattr(torch, args.dtype))
    settings = {
        "shape": args.shape,
        **asdict(shape),
        "dtype": args.dtype,
        "tokens": args.tokens,
        "repeats": args.repeats,
    }
    result = {"machine": machine(args.device), "settings": settings, **result}
    print(json.dumps({k: v for k, v in result.items() if k != "table"}, indent=2))
    out = args.out or RESULTS / f"{args.shape}-{args.device}-{args.dtype}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

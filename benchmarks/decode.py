"""Evoxtral's engine against the baseline (PEFT and `generate()`), on random weights of any shape.

    python benchmarks/decode.py --shape tiny                           seconds: do the measurements run?
    python benchmarks/decode.py --shape 250m                           two CPU cores, about twenty minutes
    python benchmarks/decode.py --shape 3b                             a CUDA device
    python benchmarks/decode.py --shape 3b --device cpu --parts start  the published sizes in 24 GB of memory
    python benchmarks/decode.py --docs                                 the tables of docs/speed.md from the results

The baseline follows the published snippet: a PeftModel with the adapters loaded, and for base, sft and rl in turn one
`apply_transcription_request` and one `generate()`. Both write a fixed number of tokens. Durations are medians over
repeats after one warm-up run, engine and baseline in turns. Each part is measured in a fresh process and replaces its
own record in the results file: the parts of one machine can be measured one by one.
"""

import argparse
import gc
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.models import SHAPES, WINDOW, as_transformers_4, build, some_speech
from benchmarks.speed_records import RESULTS, keep, record, write_docs
from evoxtral.audio import MAX_SECONDS, SAMPLE_RATE
from evoxtral.inference.engine import Engine
from evoxtral.inference.prompt import load_processor
from evoxtral.inference.sampling import Decoding
from evoxtral.model.backends import activations
from evoxtral.model.checkpoints import Checkpoint
from evoxtral.model.lora import BASE
from training.loop import end_with_parent

VARIANTS = (BASE, "sft", "rl")
NO_TOKEN = -1  # an end-of-text id that is never written: every run has the same length
FEW = 8  # tokens of the short run that the time of one step is taken from
SHORT_CLIP = 5.0  # s
COUNTS = (1, 2, 3, 6)  # variants in the table


@dataclass(frozen=True)
class Setting:
    """What is measured. dtype: None for what the engine takes by itself.  windows: the most in a batch."""

    shape: str
    device: str
    dtype: str | None
    tokens: int
    repeats: int
    windows: int
    long_clip: float = MAX_SECONDS  # seconds, of the part `long`

    @property
    def kept(self) -> dict:
        """What of it stands in a record; the part `long` has its length in what it measures."""
        return {name: value for name, value in asdict(self).items() if name != "long_clip"}


# ------------------------------------------------------------------------------------------------------- ways


class Baseline:
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

    def write(self, waveform: np.ndarray, tokens: int) -> dict[str, list[int]]:
        return {variant: self._write(waveform, variant, tokens) for variant in VARIANTS}

    def _write(self, waveform: np.ndarray, variant: str, tokens: int) -> list[int]:
        inputs = self.processor.apply_transcription_request(
            audio=[waveform], format=["WAV"], sampling_rate=SAMPLE_RATE, language="en", model_id="any"
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
    """The engine, through its public methods."""

    def __init__(self, checkpoint: Checkpoint, device: str, dtype: torch.dtype | None):
        self.engine = Engine(checkpoint, device=device, dtype=dtype)
        self.engine.prompt.eos_id = NO_TOKEN

    def write(self, waveforms: list[np.ndarray], tokens: int, variants: tuple[str, ...] = VARIANTS) -> list[dict]:
        return self.engine.batch(waveforms, variants, decoding=Decoding(max_tokens=tokens, stop_loops=False))

    def write_ids(self, waveform: np.ndarray, tokens: int) -> dict[str, list[int]]:
        """Token ids. A transcript has only texts, and two tokens may have the same text, or none."""
        decoding = Decoding(max_tokens=tokens, stop_loops=False)
        *_, windows = self.engine._decode(self.engine._request([waveform], VARIANTS, "en", decoding))
        return {row.variant: row.ids for row in windows[0].rows}


# ---------------------------------------------------------------------------------------------------- measure


def median_seconds(run: Callable[[], object], repeats: int) -> float:
    return median_seconds_in_turns((run,), repeats)[0]


def median_seconds_in_turns(runs: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Median duration (s) of each. The runs take turns, so that other load on the machine slows all of them alike."""
    for run in runs:
        run()
    turns = [[seconds(run) for run in runs] for _ in range(repeats)]
    return [statistics.median(column) for column in zip(*turns, strict=True)]


def seconds(run: Callable[[], object]) -> float:
    synchronise()
    start = time.perf_counter()
    run()
    synchronise()
    return time.perf_counter() - start


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def resident_bytes() -> int:
    """Memory of this process now."""
    return _status("VmRSS")


def peak_bytes() -> int:
    """Peak memory of this process since it started."""
    return _status("VmHWM")


def _status(entry: str) -> int:
    return int(Path("/proc/self/status").read_text().split(f"{entry}:")[1].split()[0]) * 1024


def read_seconds(count: int, device: str) -> float:
    """Duration (s) of reading `count` bytes from memory once."""
    block = torch.ones(min(count, 1 << 30) // 4, device=device)
    return median_seconds(lambda: block.sum(), repeats=5) * count / block.nbytes


# ------------------------------------------------------------------------------------------------------ parts


def clip(checkpoint: Checkpoint, setting: Setting) -> dict:
    """Three variants of one clip of a full window, end to end, engine and baseline; and one decoding step."""
    waveform = some_speech(WINDOW)
    ours = Ours(checkpoint, setting.device, _dtype(setting))
    reference = Baseline(checkpoint, setting.device, ours.engine.activations)
    runs = (
        lambda: ours.write([waveform], setting.tokens),
        lambda: ours.write([waveform], FEW),
        lambda: reference.write(waveform, setting.tokens),
    )
    ours_s, few_s, reference_s = median_seconds_in_turns(runs, setting.repeats)
    step_s = (ours_s - few_s) / (setting.tokens - FEW)
    read_s = read_seconds(SHAPES[setting.shape].parameters()["step"] * ours.engine.dtype.itemsize, setting.device)
    return {
        "dtype": _name(ours.engine.dtype), "reference_dtype": _name(reference.dtype), "ours_s": ours_s,
        "reference_s": reference_s, "speed_up": reference_s / ours_s, "step_s": step_s, "read_weights_s": read_s,
        "step_over_read": step_s / read_s,
    }  # fmt: skip


def batch(checkpoint: Checkpoint, setting: Setting) -> dict:
    """One variant of many windows."""
    ours = Ours(checkpoint, setting.device, _dtype(setting))
    waveforms = [some_speech(WINDOW, seed) for seed in range(setting.windows)]
    ours_s = median_seconds(lambda: ours.write(waveforms, setting.tokens, ("rl",)), setting.repeats)
    real_time = WINDOW * setting.windows / ours_s
    return {"dtype": _name(ours.engine.dtype), "windows": setting.windows, "ours_s": ours_s, "real_time": real_time}


def tokens(checkpoint: Checkpoint, setting: Setting) -> dict:
    """Per variant, the share of the baseline's tokens before the first that differs; float32, greedy.

    The engine gets the last adapter in the names of transformers 4, the baseline in those of today.
    """
    waveform = some_speech(WINDOW)
    *_, last = checkpoint.adapters
    older = as_transformers_4(Path(checkpoint.adapters[last]))
    both = Checkpoint(checkpoint.name, checkpoint.base, {**checkpoint.adapters, last: str(older)})
    written = Ours(both, setting.device, torch.float32).write_ids(waveform, setting.tokens)
    gc.collect()
    reference = Baseline(checkpoint, setting.device, torch.float32)
    shares = {}
    for variant, ids in reference.write(waveform, setting.tokens).items():
        pairs = enumerate(zip(written[variant], ids, strict=True))
        shares[variant] = next((i for i, (a, b) in pairs if a != b), len(ids)) / len(ids)
    return {"dtype": "float32", "same": shares}


def memory_ours(checkpoint: Checkpoint, setting: Setting) -> dict:
    """The most memory, from the files to three transcripts of one clip."""
    waveform = some_speech(WINDOW)  # before the load: what makes it is not the engine's
    ours = Ours(checkpoint, setting.device, _dtype(setting))
    ours.write([waveform], setting.tokens)
    return {"dtype": _name(ours.engine.dtype)}


def memory_reference(checkpoint: Checkpoint, setting: Setting) -> dict:
    """The same for the baseline, in the precision that the engine would use."""
    dtype = _dtype(setting) or Engine(checkpoint, device=setting.device).dtype
    dtype = activations(dtype, torch.device(setting.device))
    gc.collect()
    waveform = some_speech(WINDOW)
    Baseline(checkpoint, setting.device, dtype).write(waveform, setting.tokens)
    return {"dtype": _name(dtype)}


def start(checkpoint: Checkpoint, setting: Setting) -> dict:
    """From the start of the process to the transcripts of one short clip, on a machine with just enough memory."""
    begun = time.perf_counter()
    ours = Ours(checkpoint, setting.device, _dtype(setting))
    load_s = time.perf_counter() - begun
    waveform = some_speech(SHORT_CLIP)
    first_s = seconds(lambda: ours.write([waveform], setting.tokens))
    again_s = seconds(lambda: ours.write([waveform], setting.tokens))
    return {
        "dtype": _name(ours.engine.dtype), "clip_s": SHORT_CLIP, "load_s": load_s, "first_s": first_s,
        "again_s": again_s, "peak_bytes": peak_bytes(),
    }  # fmt: skip


def long(checkpoint: Checkpoint, setting: Setting) -> dict:
    """A long clip by three variants, streamed: durations until the first text and until the last."""
    ours = Ours(checkpoint, setting.device, _dtype(setting))
    waveform = some_speech(setting.long_clip)
    decoding = Decoding(max_tokens=setting.tokens, stop_loops=False)
    begun, first_s = time.perf_counter(), None
    for transcripts in ours.engine.stream((SAMPLE_RATE, waveform), VARIANTS, decoding=decoding):
        if first_s is None and any(transcript.cues for transcript in transcripts.values()):
            first_s = time.perf_counter() - begun
    return {
        "dtype": _name(ours.engine.dtype), "clip_s": setting.long_clip, "first_s": first_s,
        "ours_s": time.perf_counter() - begun, "peak_bytes": peak_bytes(),
    }  # fmt: skip


def table(checkpoint: Checkpoint, setting: Setting) -> dict:
    """Seconds over windows and variants; each after one run to warm up on a GPU, and once on a CPU."""
    ours, rows = Ours(checkpoint, setting.device, _dtype(setting)), []
    ours.write([some_speech(WINDOW)], FEW)
    for count in COUNTS:
        names = ("rl",) if count == 1 else ours.engine.variants[:count]
        windows = 1
        while windows <= setting.windows:
            waveforms = [some_speech(WINDOW, seed) for seed in range(windows)]

            def run(waveforms=waveforms, names=names):
                ours.write(waveforms, setting.tokens, names)

            taken = median_seconds(run, setting.repeats) if setting.device == "cuda" else seconds(run)
            rows.append({"variants": count, "windows": windows, "seconds": taken})
            print(f"  {count} variants, {windows:2d} windows: {taken:8.3f} s", file=sys.stderr)
            windows *= 2
    return {"dtype": _name(ours.engine.dtype), "rows": rows}


def _dtype(setting: Setting) -> torch.dtype | None:
    return getattr(torch, setting.dtype) if setting.dtype else None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def with_peak(measure: Callable, checkpoint: Checkpoint, setting: Setting, warm: Checkpoint) -> dict:
    """A part, and the most memory it took beyond the base's own weights, in this (fresh) process.

    The same is done first with a tiny model, so that what libraries allocate on first use does not count.
    """
    small = Setting("tiny", setting.device, setting.dtype, FEW, 1, 1)
    measure(warm, small)
    gc.collect()
    on_cuda = setting.device == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if on_cuda else resident_bytes()
    result = measure(checkpoint, setting)
    peak = torch.cuda.max_memory_allocated() if on_cuda else peak_bytes()
    base = SHAPES[setting.shape].parameters()["base"] * getattr(torch, result["dtype"]).itemsize
    over = peak - before - base
    return {**result, "base_bytes": base, "over_base_bytes": over, "over_base": over / base}


def memory(checkpoint: Checkpoint, setting: Setting) -> dict:
    """Peak memory of engine and baseline, each in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        warm = fresh(build, SHAPES["tiny"], Path(folder), len(checkpoint.adapters))
        ours = fresh(with_peak, memory_ours, checkpoint, setting, warm)
        reference = fresh(with_peak, memory_reference, checkpoint, setting, warm)
    return ours | {
        f"reference_{key}": reference[key] for key in ("dtype", "base_bytes", "over_base_bytes", "over_base")
    }


PARTS = {part.__name__: part for part in (clip, batch, memory, tokens, start, long, table)}


def fresh(function: Callable, *args: object) -> object:
    """The result of a call in a fresh process, in which everything that is measured is imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "transformers", "peft", "benchmarks.models", "evoxtral.inference.engine"])
    with ProcessPoolExecutor(1, context, initializer=end_with_parent) as process:
        return process.submit(function, *args).result()


# ------------------------------------------------------------------------------------------------------- main


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="250m")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {','.join(PARTS)} (default: all)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), help="default: what the engine takes")
    parser.add_argument("--tokens", type=int, default=128, help="written per row (default: 128)")
    parser.add_argument("--repeats", type=int, default=3, help="default: 3")
    parser.add_argument("--windows", type=int, help="most in a batch (default: 64, on a CPU 8)")
    parser.add_argument("--long-clip", type=float, default=MAX_SECONDS, help="s, of the part `long` (default: 1800)")
    parser.add_argument("--folder", type=Path, help="keep the model here and use it again")
    parser.add_argument("--results", type=Path, default=RESULTS, help="default: benchmarks/results.json")
    parser.add_argument("--docs", action="store_true", help="only write the results' tables into docs/speed.md")
    args = parser.parse_args()
    if args.docs:
        return write_docs()
    unknown = [part for part in args.parts.split(",") if part not in PARTS]
    if unknown:
        parser.error(f"there is no part {unknown[0]!r}; the parts are {', '.join(PARTS)}")
    windows = args.windows or (64 if args.device == "cuda" else 8)
    setting = Setting(args.shape, args.device, args.dtype, args.tokens, args.repeats, windows, args.long_clip)
    with tempfile.TemporaryDirectory() as folder:
        model = fresh(build, SHAPES[args.shape], args.folder or Path(folder), max(COUNTS) - 1)
        for name in args.parts.split(","):
            adapters = dict(list(model.adapters.items())[: None if name == "table" else len(VARIANTS) - 1])
            checkpoint = Checkpoint(model.name, model.base, adapters)
            measure = PARTS[name]
            measured = measure(checkpoint, setting) if name == "memory" else fresh(measure, checkpoint, setting)
            new = record(name, setting.kept, measured)
            print(json.dumps(new, indent=1), flush=True)
            keep(new, args.results)


if __name__ == "__main__":
    main()

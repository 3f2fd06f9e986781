"""A tiny Voxtral of random weights, with everything around it real: processor, Tekken file, adapters saved by
PEFT.
"""

import multiprocessing
import os
import shutil
from collections.abc import Iterator
from functools import cache
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the programs that tests start, too: threads that wait burn time

import launched
import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # kernels on a CPU; read when Triton is imported, which peft does

from hypothesis import settings
from peft import LoraConfig, get_peft_model
from transformers import VoxtralConfig, VoxtralForConditionalGeneration

from evoxtral.inference.engine import Engine
from evoxtral.model.checkpoints import Checkpoint
from evoxtral.model.lora import LoraRecipe
from evoxtral.speech.synthesis import VOICES, speak
from training.tokenizer import EOS, N_SPECIAL, write_processor

torch.set_num_threads(1)  # results must not depend on the machine
settings.register_profile("untimed", deadline=None, max_examples=40)  # nor must passing depend on how busy it is
settings.load_profile("untimed")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WITHOUT_BROWSER = pytest.StashKey[int]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without Chromium, its tests are left out, and the end of the run says so in one line."""
    left_out = [] if CHROMIUM else [item for item in items if item.get_closest_marker("browser")]
    config.stash[WITHOUT_BROWSER] = len(left_out)
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    if count := config.stash.get(WITHOUT_BROWSER, 0):
        terminalreporter.write_line(
            f"{count} browser tests were skipped, as there is no Chromium here. To run them: "
            "apt-get install chromium && python -m pytest -m browser"
        )


WINDOW = 10.0  # s
MERGES = [b"th", b"er", b" t", b" a", b"in", b" [", b"] ", b"ou", b"la", b"ugh", b"si"]
VOCABULARY = N_SPECIAL + 256 + len(MERGES)
RECIPE = LoraRecipe(r=4, alpha=8, dropout=0.0)


def tiny_config(hidden: int = 48) -> VoxtralConfig:
    audio = {
        "model_type": "voxtral_encoder", "hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_source_positions": int(WINDOW * 50), "num_mel_bins": 128,
        "vocab_size": VOCABULARY,
    }  # fmt: skip
    text = {
        "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": hidden, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        "max_position_embeddings": 1024, "rope_theta": 10_000.0, "bos_token_id": 1, "eos_token_id": EOS,
        "pad_token_id": 11,
    }  # fmt: skip
    return VoxtralConfig(audio_token_id=24, audio_config=audio, text_config=text)


def randomise(module: torch.nn.Module, seed: int, scale: float = 2.0) -> None:
    """Weights large enough that audio and adapters change what is written; a small model's own are too
    timid.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim == 1:  # biases begin at 0, norms at 1: neither would be missed
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
            elif parameter.requires_grad:
                fan_in = parameter[0].numel()
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale * fan_in**-0.5)
                if "embed_tokens" in name:
                    parameter.mul_(fan_in**0.5)


def save_base(folder: Path, hidden: int = 48) -> None:
    model = VoxtralForConditionalGeneration(tiny_config(hidden))
    randomise(model, seed=0)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = EOS, 11
    model.save_pretrained(folder)
    write_processor(folder, MERGES, WINDOW)


def save_adapter(base: Path, folder: Path, seed: int, dtype: torch.dtype = torch.float32, **changes) -> None:
    """An adapter as training saves it: PEFT's own files, with the names of the installed transformers.

    dtype: of the adapter's matrices.
    """
    defaults = {
        "r": RECIPE.r,
        "lora_alpha": RECIPE.alpha,
        "target_modules": list(RECIPE.targets),
        "task_type": "CAUSAL_LM",
    }
    model = VoxtralForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
    peft = get_peft_model(model, LoraConfig(**{**defaults, **changes}))
    randomise(peft, seed, scale=0.7)
    for name, parameter in peft.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(dtype)
    peft.save_pretrained(folder)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("tiny")
    save_base(folder / "base")
    save_adapter(folder / "base", folder / "sft", seed=1)
    save_adapter(folder / "base", folder / "rl", seed=2)
    adapters = {"sft": str(folder / "sft"), "rl": str(folder / "rl")}
    return Checkpoint("random", str(folder / "base"), adapters)


@pytest.fixture(scope="session")
def engine(checkpoint) -> Engine:
    return Engine(checkpoint, device="cpu", dtype=torch.float32)


@pytest.fixture(scope="module", autouse=True)
def app_at_rest() -> Iterator[None]:
    """The app, if it was started, takes no time between the modules that need it."""
    yield
    launched.pause()


@pytest.fixture(scope="session")
def preloaded() -> BaseContext:
    """Starts processes that have imported what they need: one import of PyTorch for all of them, benchmarks' too."""
    context = multiprocessing.get_context("forkserver")
    voxtral = "transformers.models.voxtral.modeling_voxtral"
    context.set_forkserver_preload(["training.run", "benchmarks.train", "evoxtral.inference.engine", "peft", voxtral])
    forkserver.ensure_running()
    return context


ENGINES: dict[str, Engine] = {}


@pytest.fixture
def engines(monkeypatch) -> None:
    """The command line loads each model once for all tests that ask for this: loading is most of what it costs."""

    def once(checkpoint: Checkpoint, *more: object, **named: object) -> Engine:
        key = repr((checkpoint, more, named))
        if key not in ENGINES:
            ENGINES[key] = Engine(checkpoint, *more, **named)
        return ENGINES[key]

    monkeypatch.setattr("evoxtral.inference.engine.Engine", once)


SENTENCES = (
    "Please do not tell my sister that I left my keys in the car again.",
    "We have all the time in the world, so nobody should hurry.",
    "The train to the old harbour leaves at nine in the morning.",
    "I never said that we would go there without any money tonight.",
)


@cache
def read_aloud(seed: int) -> np.ndarray:
    """SENTENCES by one speaker of the embedded voice, the first of them by seed."""
    order = [SENTENCES[(seed + i) % len(SENTENCES)] for i in range(len(SENTENCES))]
    waveform = speak(" ".join(order), VOICES[seed % len(VOICES)], seed=seed).waveform.astype(np.float32)
    return waveform[np.argmax(np.abs(waveform) > 0.02) :]


def spoken(seconds: float, seed: int = 0) -> np.ndarray:
    """Speech: a waveform (T,), float32 at 16 kHz, of exactly this length, which begins with sound."""
    return np.resize(read_aloud(seed), round(seconds * 16_000)).copy()


def tone(seconds: float, seed: int = 0) -> np.ndarray:
    """Something that is not silence: a waveform (T,) of gliding tones with gaps, float32 at 16 kHz."""
    t = np.arange(round(seconds * 16_000)) / 16_000
    rng = np.random.default_rng(seed)
    pitch = 200 + 100 * rng.random() + 40 * np.sin(2 * np.pi * t * rng.uniform(0.5, 2))
    voice = sum(np.sin(2 * np.pi * k * np.cumsum(pitch) / 16_000) / k for k in range(1, 8))
    return (0.1 * voice * (np.sin(2 * np.pi * 2.5 * t) > -0.6)).astype(np.float32)

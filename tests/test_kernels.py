"""The kernels of a decoding step compute what PyTorch does. On a CPU, Triton interprets them."""

from types import SimpleNamespace

import pytest
import torch
from conftest import save_adapter, tiny_config
from transformers import LlamaConfig

from evoxtral.inference.engine import Engine
from evoxtral.model.cache import Cache
from evoxtral.model.checkpoints import Checkpoint

triton = pytest.importorskip("triton", reason="Triton is for Linux, where the extra dev brings it")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PROMPT, STEPS = 5, 2


@pytest.fixture(scope="module")
def kernels():
    from evoxtral.model import kernels

    return kernels


@pytest.fixture(scope="module")
def mixed(checkpoint, tmp_path_factory) -> Engine:
    """Adapters of several ranks, and one that changes two layers of seven."""
    folder = tmp_path_factory.mktemp("adapters")
    save_adapter(checkpoint.base, folder / "wide", seed=3, r=20)
    save_adapter(checkpoint.base, folder / "part", seed=4, target_modules=["q_proj", "up_proj"])
    adapters = {name: str(folder / name) for name in ("wide", "part")}
    return Engine(Checkpoint("mixed", checkpoint.base, checkpoint.adapters | adapters), DEVICE, torch.float32)


@pytest.fixture(scope="module")
def plain(checkpoint) -> Engine:
    return Engine(Checkpoint("plain", checkpoint.base), DEVICE, torch.float32)


@torch.inference_mode()
def decoded(engine: Engine, kernels, names: tuple[str, ...], rows: int) -> tuple[list[torch.Tensor], Cache]:
    """Logits (B, vocabulary) of some steps, `rows` rows for each variant, and the cache behind them."""
    text, generator = engine._text, torch.Generator().manual_seed(0)
    count = rows * len(names)
    prompts = torch.randn(count, PROMPT, len(text.norm), generator=generator).to(DEVICE)
    tokens = torch.randint(len(text.embed.weight), (STEPS, count), generator=generator).to(DEVICE)
    before, text.kernels = text.kernels, kernels
    try:
        with engine._mix.using(names):
            session = Cache(text, count, PROMPT + STEPS, static=True)  # as a CUDA graph has it
            session.prefill(prompts)
            return [session.step(token).clone() for token in tokens], session
    finally:
        text.kernels = before


@pytest.mark.parametrize(
    ("names", "rows"),
    [(("rl",), 17), (("base", "sft", "rl"), 1), (("sft", "wide", "part"), 2)],
    ids=lambda value: value if isinstance(value, int) else "+".join(value),
)
def test_a_step_gives_the_logits_and_the_cache_that_pytorch_gives(mixed, kernels, names, rows):
    ours, our_cache = decoded(mixed, kernels, names, rows)
    theirs, their_cache = decoded(mixed, None, names, rows)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(our_cache.keys, their_cache.keys, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(our_cache.values, their_cache.values, rtol=1e-3, atol=1e-4)


def test_a_model_without_adapters_is_decoded_too(plain, kernels):
    ours, _ = decoded(plain, kernels, ("base",), 2)
    theirs, _ = decoded(plain, None, ("base",), 2)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_the_kernels_reject_models_they_do_not_support(kernels):
    assert kernels.supports(tiny_config().text_config)
    assert not kernels.supports(LlamaConfig(head_dim=24))
    assert not kernels.supports(LlamaConfig(head_dim=16, attention_bias=True))
    assert not kernels.supports(LlamaConfig(head_dim=16, mlp_bias=True))


def test_tritons_hash_is_computed_before_the_first_launch(kernels):
    kernels.prepare()
    assert kernels.triton_key.cache_info().currsize


@pytest.mark.parametrize("mistake", [RuntimeError, triton.TritonError])
def test_pytorch_takes_over_if_triton_cannot_build(plain, caplog, mistake):
    def begin(*_):
        raise mistake("Failed to find C compiler.")

    expected, _ = decoded(plain, None, ("base",), 1)
    text = plain._text
    before, text.kernels = text.kernels, SimpleNamespace(begin=begin)
    try:
        with torch.inference_mode():
            Cache(text, 1, PROMPT, static=True)._warm_up(1, PROMPT)
        assert "Failed to find C compiler" in caplog.text
        assert text.kernels is None
    finally:
        text.kernels = before
    again, _ = decoded(plain, None, ("base",), 1)
    torch.testing.assert_close(again, expected)

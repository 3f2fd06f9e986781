"""Training's own way through the layers: the numbers and gradients of transformers and PyTorch."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import RECIPE
from torch import nn
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

from evoxtral.inference.prompt import Prompt
from evoxtral.model import checkpoints
from training import layers, loop, model, noise, sft


def gradients(compute, *inputs: torch.Tensor) -> list[torch.Tensor]:
    """The result, and the gradients of the sum of its squares."""
    given = [x.clone().requires_grad_() for x in inputs]
    found = compute(*given)
    return [found.detach(), *torch.autograd.grad(found.float().square().sum(), given)]


def test_the_loss_and_every_gradient_are_those_of_transformers(checkpoint, monkeypatch):
    monkeypatch.setenv(loop.PRECISION, "float32")
    torch.manual_seed(0)
    tuned = sft.adapted(Path(checkpoint.base), RECIPE, None, torch.device("cpu"))
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    base = tuned.base_model.model
    prompt = Prompt(Path(checkpoint.base), checkpoints.load_config(Path(checkpoint.base)))
    ids = torch.tensor(prompt.transcription_ids("en"))
    text = torch.randint(300, (2, 7))
    mels = torch.randn(2, 128, prompt.window_frames)
    labels = torch.randint(300, (2, 8))
    audio = model.project(base, model.encode(base, mels))
    ours = model.cross_entropy(model.text_logits(base, audio, ids, text), labels)
    logits = base(input_ids=torch.cat([ids.expand(2, -1), text], 1), input_features=mels).logits
    theirs = model.cross_entropy(logits[:, len(ids) - 1 :], labels)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    trained = [p for p in tuned.parameters() if p.requires_grad]
    for one, other in zip(*(torch.autograd.grad(loss, trained) for loss in (ours, theirs)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5 * float(other.abs().max()))


def test_the_norm_of_the_text_model_and_its_gradients():
    norm, x = LlamaRMSNorm(24), torch.randn(2, 5, 24)
    nn.init.normal_(norm.weight)
    ours = gradients(lambda x, w: layers._RmsNorm.apply(x, w, 1e-6, torch.float32), x, norm.weight.detach())

    def theirs(x, weight):
        return torch.func.functional_call(norm, {"weight": weight}, (x,))

    for one, other in zip(ours, gradients(theirs, x, norm.weight.detach()), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_positions_are_turned_as_in_transformers():
    x, angles = torch.randn(2, 3, 5, 8), torch.randn(5, 4)
    whole = torch.cat([angles, angles], -1)[None]
    ours = gradients(lambda x: layers._Rotated.apply(x, angles.cos(), angles.sin()), x)
    theirs = gradients(lambda x: apply_rotary_pos_emb(x, x, whole.cos(), whole.sin())[0], x)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("queries", "causal"), [(9, False), (9, True), (4, True)])
@pytest.mark.parametrize("at_once", [1, 1000])
def test_attention_in_parts_is_attention(monkeypatch, queries, causal, at_once):
    """Four heads that read two, all positions or the last ones."""
    monkeypatch.setattr(layers, "SCORES", at_once)
    q, k, v = torch.randn(2, 4, queries, 8), torch.randn(2, 2, 9, 8), torch.randn(2, 2, 9, 8)

    def usual(q, k, v):
        k, v = (part.repeat_interleave(2, dim=1) for part in (k, v))
        hears = torch.ones(9, 9, dtype=torch.bool)[-queries:] if not causal else torch.ones(9, 9).tril()[-queries:] > 0
        return F.scaled_dot_product_attention(q, k, v, hears, scale=0.3)

    def by_parts(q, k, v):
        rows = (q * 0.3).reshape(4, -1, 8)
        mask = torch.ones(9, 9).tril()[-queries:].bool().repeat(2, 1) if causal else None
        return layers._Attention.apply(rows, k.flatten(0, 1), v.flatten(0, 1), mask).view_as(q)

    expected = gradients(usual, q, k, v)
    for way in (by_parts, lambda q, k, v: layers._attention(q, k, v, 0.3, causal)):
        for one, other in zip(gradients(way, q, k, v), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    rounded = gradients(lambda q, k, v: layers._attention(q, k, v, 0.3, causal), *(x.bfloat16() for x in (q, k, v)))
    for one, other in zip(rounded, expected, strict=True):
        assert one.dtype is torch.bfloat16
        assert (one - other).norm() < 0.02 * other.norm()


def test_what_is_dropped_of_the_last_positions_is_dropped_of_all():
    dropout, x = noise.Dropout(0.3), torch.ones(3, 10, 4)
    torch.manual_seed(5)
    whole = dropout.mask(x)
    torch.manual_seed(5)
    assert torch.equal(dropout.mask(x[:, -4:], 10), whole[:, -4:])
    assert not whole.bool().all()


def test_layers_of_one_input_drop_each_their_own_and_without_adapters_they_are_themselves(checkpoint, monkeypatch):
    monkeypatch.setenv(loop.PRECISION, "float32")
    tuned = sft.adapted(Path(checkpoint.base), replace(RECIPE, dropout=0.4), None, torch.device("cpu")).train()
    own = tuned.base_model.model.model.audio_tower.layers[0].self_attn
    together = own.q_proj, own.k_proj, own.v_proj
    for layer in together:
        nn.init.normal_(layer.lora_B.default.weight)
    x = torch.randn(2, 6, own.embed_dim)
    torch.manual_seed(1)
    joint = layers.joint(together, x)
    torch.manual_seed(1)
    for one, layer in zip(joint, together, strict=True):
        torch.testing.assert_close(one, layer(x))
    plain = [layer.base_layer for layer in together]
    for one, layer in zip(layers.joint(plain, x), plain, strict=True):
        assert torch.equal(one, layer(x))

"""The scale model from nothing, and one forward pass that every training stage shares.

`VoxtralForConditionalGeneration.forward` insists on full windows. Most clips fill half of one, so training crops the
log-mels to the longest clip of the batch; on full windows the pass here gives the same numbers as the model's own.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import VoxtralConfig, VoxtralForConditionalGeneration

from evoxtral.audio import SAMPLE_RATE
from training import layers
from training.lora import autocast_dtype
from training.tokenizer import AUDIO, BOS, EOS, N_MELS, N_SPECIAL, PAD, write_processor

IGNORE = -100  # label of positions without a loss
LOGITS = 1 << 24  # that `head_loss` computes at once


@dataclass(frozen=True)
class Shape:
    """The scale model's size.

    It has half as many encoder positions as the published model (25 a second, not 50) and joins two, not four, in an
    audio token, so that both have 12.5 audio tokens a second.
    """

    merges: int = 1000
    window_seconds: int = 10
    hop: int = 320  # samples per mel frame
    stack: int = 2  # encoder positions per audio token; also the encoder's MLP is this many times its width
    encoder_layers: int = 6
    encoder_width: int = 256
    text_layers: int = 4
    text_width: int = 256
    text_mlp: int = 704
    heads: int = 4
    key_value_heads: int = 2


def new_base(folder: Path, merges: list[bytes], shape: Shape, seed: int = 0) -> VoxtralForConditionalGeneration:
    """An untrained base and its processor, written to `folder`."""
    torch.manual_seed(seed)
    vocabulary = 256 + len(merges) + N_SPECIAL
    config = VoxtralConfig(
        languages=["en"],
        max_pause=1.3,  # s; the pauses of scripts are shorter, see `speech.synthesis.PAUSES`
        audio_token_id=AUDIO,
        audio_config={
            "model_type": "voxtral_encoder",
            "hidden_size": shape.encoder_width,
            "intermediate_size": shape.stack * shape.encoder_width,  # Voxtral ties the projector's input to it
            "num_hidden_layers": shape.encoder_layers,
            "num_attention_heads": shape.heads,
            "max_source_positions": shape.window_seconds * SAMPLE_RATE // (2 * shape.hop),
            "num_mel_bins": N_MELS,
            "vocab_size": vocabulary,
        },
        text_config={
            "model_type": "llama",
            "vocab_size": vocabulary,
            "hidden_size": shape.text_width,
            "intermediate_size": shape.text_mlp,
            "num_hidden_layers": shape.text_layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.key_value_heads,
            "head_dim": shape.text_width // shape.heads,
            "max_position_embeddings": 1024,
            "rope_theta": 10000.0,
            "bos_token_id": BOS,
            "eos_token_id": EOS,
            "pad_token_id": PAD,
        },
    )
    model = VoxtralForConditionalGeneration(config)
    model.generation_config.update(bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD)
    initialise(model)
    model.save_pretrained(folder)
    write_processor(folder, merges, shape.window_seconds, shape.hop)
    return model


@torch.no_grad()
def initialise(model: VoxtralForConditionalGeneration) -> None:
    """Scales from which a small model learns within minutes.

    The stock initialisation leaves the convolutions' output far below the positions', so the encoder would ignore its
    input at first.
    """
    tower = model.model.audio_tower
    positions = tower.embed_positions.weight  # (P, D), sinusoidal as in Whisper, but quieter than the sound
    count, width = positions.shape
    rates = torch.exp(-math.log(10000) / (width // 2 - 1) * torch.arange(width // 2))
    angles = torch.arange(count)[:, None] * rates
    positions.copy_(0.3 * torch.cat([angles.sin(), angles.cos()], 1))
    nn.init.normal_(tower.conv1.weight, std=0.1)
    tower.conv1.bias.copy_(0.4 * tower.conv1.weight.sum((1, 2)))  # log-mels lie around -0.4
    nn.init.normal_(tower.conv2.weight, std=0.065)
    depth = {"audio_tower": len(tower.layers), "language_model": model.config.text_config.num_hidden_layers}
    for name, weight in model.named_parameters():
        if weight.ndim == 2 and "embed" not in name and "lm_head" not in name:
            std = weight.shape[1] ** -0.5
            if name.split(".")[-2] in (
                "out_proj",
                "fc2",
                "o_proj",
                "down_proj",
            ):  # they add to the residual stream
                std /= (2 * next(n for part, n in depth.items() if part in name)) ** 0.5
            nn.init.normal_(weight, std=std)


def encode(model: VoxtralForConditionalGeneration, mels: Tensor) -> Tensor:
    """Encoder states (B, frames / 2, D) of log-mels (B, 128, frames); frames fill whole audio tokens."""
    tower = model.model.audio_tower
    hidden = F.gelu(tower.conv2(F.gelu(tower.conv1(mels)))).transpose(1, 2)
    hidden = hidden + tower.embed_positions.weight[: hidden.shape[1]].to(hidden.dtype)
    for layer in tower.layers:
        hidden = layers.run(layers.encoder_layer, layer, hidden)
    return tower.layer_norm(hidden)


def project(model: VoxtralForConditionalGeneration, states: Tensor) -> Tensor:
    """Audio tokens (B, K, width of the text model) of encoder states."""
    width = model.config.audio_config.intermediate_size  # several positions side by side
    return model.model.multi_modal_projector(states.reshape(len(states), -1, width))


def text_logits(model: VoxtralForConditionalGeneration, audio: Tensor | None, prompt: Tensor, text: Tensor) -> Tensor:
    """Logits (B, T + 1, V) that predict each position of `text` and what follows it, see `text_states`."""
    return model.lm_head(text_states(model, audio, prompt, text))


def text_states(
    model: VoxtralForConditionalGeneration,
    audio: Tensor | None,
    prompt: Tensor,
    text: Tensor,
    noise: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """What the output layer is given, (B, T + 1, D), to predict each position of `text` and what follows it.

    audio: (B, K, D) audio tokens, put in the place of the AUDIO ids of `prompt` (L,), which has K of them; None: no
    audio in the prompt. text: (B, T) ids that follow the prompt.
    noise: what is done to all embeddings (B, L, D) at once, see `noise.neftune`.
    """
    embed = model.model.language_model.embed_tokens
    inputs = embed(prompt)[None].expand(len(text), -1, -1)
    if audio is not None:
        start = int((prompt == AUDIO).nonzero()[0])
        inputs = torch.cat([inputs[:, :start], audio, inputs[:, start + audio.shape[1] :]], 1)
    inputs = torch.cat([inputs, embed(text)], 1)
    if noise:
        inputs = noise(inputs)
    text_model, wanted = model.model.language_model, text.shape[1] + 1
    turns = layers.turns(text_model.rotary_emb, inputs.shape[1], inputs)
    for layer in text_model.layers:
        last = wanted if layer is text_model.layers[-1] else inputs.shape[1]
        inputs = layers.run(layers.text_layer, layer, inputs, turns, last)
    return layers.rms_norm(text_model.norm, inputs)


def head_loss(model: VoxtralForConditionalGeneration, states: Tensor, labels: Tensor) -> Tensor:
    """`cross_entropy` of the output layer's logits where that layer is not trained: no logits where there is no label,
    few at once, and none kept. states: (B, T, D); labels: (B, T).
    """
    labelled = labels != IGNORE
    states = states[labelled]
    dtype = autocast_dtype(states)
    with torch.autocast(states.device.type, enabled=False):
        return _HeadLoss.apply(states.to(dtype), model.lm_head.weight.to(dtype), labels[labelled])


class _HeadLoss(torch.autograd.Function):
    """Mean cross-entropy of states (N, D) by a fixed weight (V, D); the gradient is computed on the way."""

    @staticmethod
    def forward(ctx, states: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        gradient = torch.empty_like(states) if ctx.needs_input_grad[0] else None
        loss = torch.zeros((), dtype=torch.float32, device=states.device)
        rows = max(1, LOGITS // len(weight))
        for start in range(0, len(states), rows):
            part = slice(start, start + rows)
            logits = F.linear(states[part], weight).float()
            whole = logits.logsumexp(dim=-1, keepdim=True)
            loss += (whole - logits.gather(1, labels[part, None])).sum()
            if gradient is not None:
                logits.sub_(whole).exp_()  # probabilities
                logits[torch.arange(len(logits), device=logits.device), labels[part]] -= 1
                gradient[part] = logits.to(weight.dtype) @ weight
        ctx.save_for_backward(gradient)
        ctx.count = len(states)
        return loss / len(states)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (gradient,) = ctx.saved_tensors
        return gradient * (grad / ctx.count).to(gradient.dtype), None, None


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over the labelled positions. logits: (B, T, V); labels: (B, T) with IGNORE where there is no loss."""
    return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORE)

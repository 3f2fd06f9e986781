"""How long a clip would take on this CPU by a model in 8 bits, from products that are measured here.

A window costs 2 T (4 D² + 2 D F) + 4 T² D operations in each layer of the encoder (T positions of width D, F in its
MLP), a prompt 2 L for each of the text model's weights (L positions), and a token one reading of them. The rest, such
as adapters and activations, is OTHERS of that, as `benchmarks/laptop.py` measured on the published sizes.
"""

import torch
from transformers import VoxtralConfig

from evoxtral.model import backends, quantized

TOKENS = 32  # of what is said in 5 s
PROMPT = 12  # positions of a prompt beside its audio
OTHERS = 1.6
_ROWS, _WIDTH = 384, 2048  # of the product that stands for encoder and prompts
_READ = 6  # matrices of 3072 x 4096 read in turns: more than a CPU's caches hold


def clip_seconds(config: VoxtralConfig, tokens: int = TOKENS) -> float:
    """Seconds (s) for one window and one variant, to its last token. Takes about a second."""
    operations, read = work(config)
    per_operation, per_byte = _measured()
    return OTHERS * (operations * per_operation + tokens * read * per_byte)


def work(config: VoxtralConfig) -> tuple[float, float]:
    """(multiplications and additions of a window and its prompt, bytes that a token reads, at 8 bits)."""
    audio, text = config.audio_config, config.text_config
    positions, width, mlp = audio.max_source_positions, audio.hidden_size, audio.intermediate_size
    layer = 2 * positions * (4 * width**2 + 2 * width * mlp) + 4 * positions**2 * width
    heads = 2 * text.num_attention_heads + 2 * text.num_key_value_heads
    weights = text.num_hidden_layers * text.hidden_size * (heads * text.head_dim + 3 * text.intermediate_size)
    prompt = PROMPT + positions * width // mlp
    operations = audio.num_hidden_layers * layer + 2 * prompt * weights
    return operations, weights + text.hidden_size * text.vocab_size


@torch.inference_mode()
def _measured() -> tuple[float, float]:
    """Seconds of an operation in products of many rows, and of a byte that is read in products of one row."""
    many = quantized.Int8.of(torch.ones(_WIDTH, _WIDTH)).product(few=False)
    rows = torch.ones(_ROWS, _WIDTH)
    per_operation = backends.shortest_duration(lambda: many(rows)) / (2 * _ROWS * _WIDTH**2)
    few = [quantized.Int8.of(torch.ones(4096, 3072)).product(few=True) for _ in range(_READ)]
    row = torch.ones(1, 3072)
    per_byte = backends.shortest_duration(lambda: [product(row) for product in few]) / (_READ * 4096 * 3072)
    return per_operation, per_byte

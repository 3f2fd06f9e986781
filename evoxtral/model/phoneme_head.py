"""The encoder's CTC head: which phoneme, mark or tag each of its states is of. The scale model brings one."""

import json
from pathlib import Path

from safetensors import safe_open
from torch import nn

FILE = "phonemes.safetensors"  # beside a base; see `training/pretrain.write_head`


def read(folder: Path) -> tuple[list[str], nn.Linear] | None:
    """Symbols from output 1 on (0 is CTC's blank), and the head, of the base in a folder; None where it has none."""
    if not (folder / FILE).exists():
        return None
    with safe_open(folder / FILE, "pt") as file:
        symbols, tensors = json.loads(file.metadata()["symbols"]), {n: file.get_tensor(n) for n in ("weight", "bias")}
    head = nn.Linear(tensors["weight"].shape[1], len(symbols) + 1)
    head.load_state_dict(tensors)
    return symbols, head.requires_grad_(False)

"""The encoder's CTC head: which phoneme, mark or tag each of its states is of. The scale model brings one."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import nn

from evoxtral.errors import reading

FILE = "phonemes.safetensors"  # beside a base; see `training/pretrain.write_head`


def read(folder: Path) -> tuple[list[str], nn.Linear] | None:
    """Symbols from output 1 on (0 is CTC's blank), and the head, of the base in a folder; None where it has none.
    Raises CheckpointError."""
    path = folder / FILE
    if not path.exists():
        return None
    with reading(path, SafetensorError, RuntimeError):
        with safe_open(path, "pt") as file:
            symbols = json.loads(file.metadata()["symbols"])
            tensors = {name: file.get_tensor(name) for name in ("weight", "bias")}
        head = nn.Linear(tensors["weight"].shape[1], len(symbols) + 1)
        head.load_state_dict(tensors)
    return symbols, head.requires_grad_(False)

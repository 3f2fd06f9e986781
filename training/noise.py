"""Random numbers that belong to the clips of a batch, not to the pass in which they go through: dropout and NEFTune.

However a batch is divided, each clip gets the same ones. They are stretches of one long table, which is drawn once: on
a CPU drawing a mask takes longer than the product behind it. A pass draws where the first clip's stretch begins, with
the same seed in every pass of a step; the next clip's begins STRIDE entries later.
"""

import torch
from torch import Tensor, nn

ENTRIES = 1 << 22  # of a table; a larger input goes through it several times
STRIDE = 104_729  # a prime: the features of two clips never meet the same entries
_tables: dict[tuple, Tensor] = {}
_first = 0  # number in its batch of the clip that comes first in the pass


def begin_at(number: int) -> None:
    """The next pass begins with this clip of its batch."""
    global _first
    _first = number


def tables() -> list[Tensor]:
    """All that were drawn so far."""
    return list(_tables.values())


def _table(kept: float, repeats: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """kept: share of the entries that are 1 / kept, the others are 0; for 0 they are uniform in [-1, 1)."""
    key = (kept, repeats, dtype, device)
    if key not in _tables:
        _tables[key] = _drawn(kept).to(device, dtype).repeat(repeats)
    return _tables[key]


def _drawn(kept: float) -> Tensor:
    drawn = torch.rand(ENTRIES, generator=torch.Generator().manual_seed(0))
    return (drawn < kept) / kept if kept else 2 * drawn - 1


def _stretches(kept: float, x: Tensor, dtype: torch.dtype) -> Tensor:
    """A view of a table in the shape of x (B, ...), from a place drawn anew."""
    start = (int(torch.randint(ENTRIES, ())) + _first * STRIDE) % ENTRIES
    end = start + (len(x) - 1) * STRIDE + x[0].numel()
    whole = _table(kept, 1 + -(-(end - start) // ENTRIES), dtype, x.device)
    inner = torch.empty(x.shape[1:], device="meta").stride()
    return whole.as_strided(x.shape, (STRIDE, *inner), start)


class Dropout(nn.Module):
    """Dropout of a share p of the entries of x (B, ...)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask(x) if self.training and self.p else x

    def mask(self, x: Tensor, positions: int = 0) -> Tensor:
        """What x (B, L, D) is multiplied by: 0, or 1 / (1 - p). positions: of which x holds the last L; 0 for L."""
        if not positions:
            return _stretches(1 - self.p, x, x.dtype)
        whole = x[:, :1].expand(-1, positions, -1)
        return _stretches(1 - self.p, whole, x.dtype)[:, positions - x.shape[1] :]


def neftune(embeddings: Tensor, lengths: Tensor, alpha: float) -> Tensor:
    """Embeddings (B, L, D) with uniform noise of alpha / sqrt(length * D) (arXiv:2310.05914).

    lengths: (B,), how many of the L positions are not padding.
    """
    scale = alpha / (lengths * embeddings.shape[2]).to(embeddings.dtype).sqrt()
    return embeddings + _stretches(0.0, embeddings, embeddings.dtype) * scale[:, None, None]

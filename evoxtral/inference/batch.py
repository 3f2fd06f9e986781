"""The batch: rows of any requests, decoded together step by step. Rows join and leave between two steps.

Rows are variant-major, a block for each variant, and the first rows of the cache: a row that joins or leaves moves at
most a few others. On a CPU blocks have no gaps. On CUDA all have one size, one of a few, so that a few captured graphs
serve every crowd; rows that are nobody's are decoded, too, and ignored.
"""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch

from evoxtral.inference.sampling import Row, choose
from evoxtral.model.cache import Cache
from evoxtral.model.text import TextModel

SYNC_EVERY = 4  # steps between two reads of the tokens: each read waits for the device
LENGTH_STEP = 256  # cache lengths are multiples of this on CUDA: requests of similar length share a cache
MAX_DOUBLED = 32  # rows: sizes of blocks on CUDA are powers of two up to this, then multiples of 16
MAX_KEPT_CACHE = 1e9  # bytes: on CUDA a cache up to this size is kept, with its graphs, when nobody is left


class Batch:
    """Rows being decoded together. The caller holds the engine's lock, and is in inference mode, during every
    call.

    rows: of all variants, None where nobody is.
    """

    def __init__(
        self,
        text: TextModel,
        eos_id: int,
        max_rows: int,
        watched: Sequence[tuple[int, int]] = (),
        static: bool = False,
    ):
        """max_rows: how many there may be.  watched, static: see `Cache`."""
        self._static = static or text.norm.is_cuda
        self._text, self._mix, self._eos_id, self._max_rows = text, text.mix, eos_id, max_rows
        self._watched = tuple(watched)
        self.rows: list[Row | None] = []
        self.cache: Cache | None = None
        self._variants: tuple[str, ...] = ()
        self._sizes: tuple[int, ...] = ()
        self._settled = True  # every row stands where it should

    @property
    def occupied(self) -> list[Row]:
        return [row for row in self.rows if row is not None]

    def join(self, prompts: torch.Tensor, rows: Sequence[Row], variants: Sequence[str]) -> None:
        """Prefill the prompts (P, T, D), each for len(rows) / P neighbours of `rows`, and choose their first tokens.

        Prompts and rows are variant-major; variants: of the prompts, in order.
        """
        count, budget = prompts.shape[1], max(row.budget for row in rows)
        self._arrange(rows, _length(count + budget + SYNC_EVERY, prompts.device))
        slots = [row.slot for row in rows]
        with self._mix.using(variants):
            logits = self.cache.prefill(prompts, slots)
        tokens, log_probabilities = _chosen(logits, rows, self._uniform(rows, 1)[:, 0])
        self.cache.token[slots] = tokens
        self._add(rows, tokens[:, None], log_probabilities[:, None])

    def advance(self, steps: int = SYNC_EVERY) -> None:
        """Decode so many more tokens of every row."""
        if not self._settled:
            self._arrange()
        rows, like = self.rows, self.cache.token
        uniform = self._uniform(rows, steps)
        tokens = torch.zeros(len(rows), steps, dtype=torch.long, device=like.device)
        log_probabilities = torch.zeros(len(rows), steps, device=like.device)
        token = like[: len(rows)]
        with self._mix.using(self._variants, None if self._static else self._sizes):
            for i in range(steps):
                token, log_probability = _chosen(self.cache.step(token), rows, uniform[:, i])
                tokens[:, i], log_probabilities[:, i] = token, log_probability
        like[: len(rows)] = token
        self._add(rows, tokens, log_probabilities)

    def leave(self, rows: Sequence[Row]) -> None:
        """Free the places of rows that were given one."""
        for row in rows:
            self.cache.release(row.slot)
            self.rows[row.slot] = row.slot = None
            self._settled = False
        if not any(self.rows) and not (self.cache.keys.is_cuda and self.cache.bytes <= MAX_KEPT_CACHE):
            self.clear()

    def clear(self) -> None:
        """Forget all rows, and give the cache's memory back."""
        self.rows, self.cache, self._settled = [], None, True

    def _add(self, rows: Sequence[Row | None], tokens: torch.Tensor, log_probabilities: torch.Tensor) -> None:
        """Give each row its tokens (rows, steps)."""
        written = zip(rows, tokens.tolist(), log_probabilities.exp().tolist(), strict=True)
        for row, row_tokens, row_probabilities in written:
            for token, probability in zip(row_tokens, row_probabilities, strict=True):
                if row is not None and not row.done:
                    row.add(token, probability, self._eos_id, row.decoding.stop_loops)

    def _uniform(self, rows: Sequence[Row | None], steps: int) -> torch.Tensor:
        """The chance (rows, steps) of each of the next tokens."""
        uniform = np.zeros((len(rows), steps), np.float32)
        for chances, row in zip(uniform, rows, strict=True):
            if row is not None and row.draws is not None:
                own = row.draws[len(row.ids) :][:steps]
                chances[: len(own)] = own
        return torch.from_numpy(uniform).to(self._text.norm.device)

    # ------------------------------------------------------------------------------------------- places

    def fits(self, joining: Sequence[Row]) -> bool:
        """Whether these rows may join. Where nobody is, any number may."""
        present = self.occupied
        return not present or sum(self._sizes_of([*present, *joining])) <= self._max_rows

    def _sizes_of(self, rows: Sequence[Row]) -> list[int]:
        """How many rows the block of each variant has, for these."""
        counts = Counter(row.variant for row in rows)
        sizes = [counts[variant] for variant in self._mix.ordered(counts)]
        if not self._static:
            return sizes
        most = max(sizes)
        return [1 << (most - 1).bit_length() if most <= MAX_DOUBLED else math.ceil(most / 16) * 16] * len(sizes)

    def _arrange(self, joining: Sequence[Row] = (), length: int = 0) -> None:
        """Give every row a place among those of its variant."""
        present = [*self.occupied, *joining]
        blocks = {
            variant: [row for row in present if row.variant == variant]
            for variant in self._mix.ordered(row.variant for row in present)
        }
        sizes = self._sizes_of(present)
        self._make_room(sum(sizes), length)
        first, moves = 0, []
        for block, size in zip(blocks.values(), sizes, strict=True):
            here = range(first, first + size)
            staying = {row.slot for row in block if row.slot in here}
            free = iter([slot for slot in here if slot not in staying])
            moves += [(row, next(free)) for row in block if row.slot not in staying]
            first += size
        self._move(moves)
        self.rows = [None] * sum(sizes)
        for row in present:
            self.rows[row.slot] = row
        self._variants, self._sizes, self._settled = tuple(blocks), tuple(sizes), True

    def _make_room(self, rows: int, length: int) -> None:
        """A cache of at least so many rows and positions."""
        if self.cache is None:
            self.cache = Cache(self._text, rows, length, static=self._static, watched=self._watched)
        elif rows > self.cache.rows or length > self.cache.length:
            # At least twice as many, so that a growing crowd is copied a few times only.
            if rows > self.cache.rows:
                rows = max(rows, min(self._max_rows, 2 * self.cache.rows))
            self.cache = self.cache.larger(max(rows, self.cache.rows), max(length, self.cache.length))

    def _move(self, moves: Sequence[tuple[Row, int]]) -> None:
        """Move rows to their places; those that join have none yet.

        Blocks keep their order, so that rows push each other in one direction only: there is always one whose place is
        free.
        """
        moves = [*moves]
        while moves:
            left = {row.slot for row, _ in moves} - {None}
            for row, slot in [move for move in moves if move[1] not in left]:
                if row.slot is not None:
                    self.cache.move(row.slot, slot)
                row.slot = slot
                moves.remove((row, slot))


def _chosen(
    logits: torch.Tensor, rows: Sequence[Row | None], uniform: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The next token (rows,) of each row and its log-probability (rows,), each in the way of its own request."""
    groups: dict[tuple[float, float], list[int]] = {}
    for i, row in enumerate(rows):
        if row is not None:
            groups.setdefault((row.decoding.temperature, row.decoding.top_p), []).append(i)
    if len(groups) == 1:
        decoding = next(row for row in rows if row is not None).decoding
        return choose(logits, decoding, uniform)
    tokens = torch.zeros(len(rows), dtype=torch.long, device=logits.device)
    log_probabilities = torch.zeros(len(rows), device=logits.device)
    for indices in groups.values():
        own = torch.tensor(indices, device=logits.device)
        tokens[own], log_probabilities[own] = choose(logits[own], rows[indices[0]].decoding, uniform[own])
    return tokens, log_probabilities


def _length(positions: int, device: torch.device) -> int:
    """Positions of a cache that holds at least so many."""
    step = LENGTH_STEP if device.type == "cuda" else 1
    return -(-positions // step) * step

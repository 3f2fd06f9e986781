"""A batch of rows that is decoded step by step."""

import math
from collections.abc import Sequence

import numpy as np
import torch

from evoxtral.inference.sampling import Decoding, Row, choose
from evoxtral.model.cache import Cache

SYNC_EVERY = 4  # steps between two reads of the tokens: each read waits for the device
LENGTH_STEP = 256  # cache lengths are multiples of this on CUDA: batches of similar length share a cache and its graph


class Batch:
    """Rows being decoded together. Call `advance` until `done`, reading `rows` in between."""

    @torch.inference_mode()
    def __init__(
        self,
        cache: Cache,
        prompts: torch.Tensor,
        budgets: Sequence[int],
        eos_id: int,
        decoding: Decoding,
        draws: np.ndarray | None = None,
    ):
        """Prefill the prompts.

        prompts: embedded (P, T, D), each for len(budgets) / P neighbouring rows.
        draws: (rows, steps), see `uniform_draws`; None where the choice is greedy.
        """
        self.rows = [Row(budget) for budget in budgets]
        self.cache, self.eos_id, self.decoding = cache, eos_id, decoding
        steps = max(budgets)
        device = prompts.device
        self._draws = torch.zeros(len(budgets), steps) if draws is None else torch.from_numpy(draws)
        self._draws = self._draws.to(device)
        self._tokens = torch.zeros(len(budgets), steps, dtype=torch.long, device=device)
        self._log_probabilities = torch.zeros(len(budgets), steps, device=device)
        self._steps = 0
        self._logits = cache.prefill(prompts)

    @property
    def done(self) -> bool:
        return all(row.done for row in self.rows)

    @torch.inference_mode()
    def advance(self) -> None:
        """Decode up to SYNC_EVERY more tokens of every row."""
        start, end = self._steps, min(self._steps + SYNC_EVERY, self._tokens.shape[1])
        for i in range(start, end):
            token, log_probability = choose(self._logits, self.decoding, self._draws[:, i])
            self._tokens[:, i], self._log_probabilities[:, i] = token, log_probability
            self._logits = self.cache.step(token)
        self._steps = end
        tokens = self._tokens[:, start:end].tolist()
        probabilities = self._log_probabilities[:, start:end].exp().tolist()
        for row, row_tokens, row_probabilities in zip(self.rows, tokens, probabilities, strict=True):
            for token, probability in zip(row_tokens, row_probabilities, strict=True):
                if not row.done:
                    row.add(token, probability, self.eos_id, self.decoding.stop_loops)


def cache_length(prompt: int, budgets: Sequence[int], device: torch.device) -> int:
    """Positions that a cache needs for a prompt of so many tokens and the largest budget."""
    step = LENGTH_STEP if device.type == "cuda" else 1
    return math.ceil((prompt + max(budgets)) / step) * step

"""From logits to tokens: greedy or nucleus sampling, stop rules, and the state of each row on the host.

A row ends at its end-of-text token, at its budget, or when it repeats itself.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from evoxtral.transcript import Agreement


@dataclass(frozen=True)
class Decoding:
    """How text is decoded; the defaults are greedy.

    temperature: 0 for greedy, else that of sampling (RAFT samples at 0.7).
    top_p: nucleus, the smallest set of most likely tokens with at least this probability is sampled from
        (https://arxiv.org/abs/1904.09751); RAFT uses 0.9.
    seed: of the sampling; None differs from call to call. The same seed gives a clip the same samples,
        whatever else is in its batch.
    max_tokens: budget of one segment; None budgets by its duration.
    tokens_per_second, spare_tokens: that budget. Speech rarely passes 6 tokens/s of the published vocabulary;
        the rest is room for tags, and for smaller vocabularies.
    stop_loops: end a row that repeats itself.
    times: find when each word and tag sounds, and how well they agree with the sound, once a row has ended.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    max_tokens: int | None = None
    tokens_per_second: float = 12.5
    spare_tokens: int = 32
    stop_loops: bool = True
    times: bool = True

    def __post_init__(self):
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError(f"temperature {self.temperature} must be >= 0 and top_p {self.top_p} in (0, 1]")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"max_tokens {self.max_tokens} must be at least 1")

    def budget(self, duration: float) -> int:
        """Tokens that a segment of this duration in seconds may take."""
        if self.max_tokens is not None:
            return self.max_tokens
        return math.ceil(duration * self.tokens_per_second) + self.spare_tokens


@dataclass(eq=False)
class Row:
    """What one row has decoded: token ids, the model's probability of each, and how it ended.

    variant, decoding: by which adapter and how.  draws: (budget,), see `uniform_draws`; None where it is greedy.
    truncated: the text was ended by its budget or because it repeated itself, not by the model.
    looks: (T, audio tokens), where each token looked, once it has ended; None where no heads are known.
    times: start and end, in seconds from the start of the audio, of what each token is of; () while not known.
    heard: (T, symbols), log-probabilities of what the encoder has heard; None where the model has no head for it, and
    once `agreement` is known: of the words with that, see `inference/agreement.py`.
    slot: its row in the cache.
    """

    budget: int
    variant: str = ""
    decoding: Decoding = Decoding()
    draws: np.ndarray | None = None
    ids: list[int] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)
    done: bool = False
    truncated: bool = False
    looks: np.ndarray | None = None
    times: Sequence[tuple[float, float] | tuple[None, None]] = ()
    heard: np.ndarray | None = None
    agreement: Agreement | None = None
    slot: int | None = None

    def add(self, token: int, probability: float, eos_id: int, stop_loops: bool) -> None:
        if token == eos_id:
            self.done = True
            return
        self.ids.append(token)
        self.probabilities.append(probability)
        repeated = repeated_tail(self.ids) if stop_loops else 0
        if repeated:
            del self.ids[-repeated:], self.probabilities[-repeated:]
        if repeated or len(self.ids) >= self.budget:
            self.truncated = self.done = True  # `done` last: other threads read it


LOOP_UNIT = 32  # tokens: the longest phrase that is recognised as repeating
LOOP_REPEATS = 4  # the least number of repetitions at the end of the text, and
LOOP_TOKENS = 24  # the fewest tokens they cover: "no no no no" and "[laughs] [laughs]" are ordinary speech


def repeated_tail(ids: Sequence[int]) -> int:
    """The number of tokens at the end that only repeat those before them; 0 where the text is in no loop."""
    for unit in range(1, min(LOOP_UNIT, len(ids) // LOOP_REPEATS) + 1):
        span = max(LOOP_REPEATS * unit, LOOP_TOKENS)
        if len(ids) < span or ids[-1] != ids[-1 - unit]:
            continue
        if all(ids[-i] == ids[-i - unit] for i in range(1, span - unit + 1)):
            return span - unit
    return 0


def choose(logits: torch.Tensor, decoding: Decoding, uniform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The next token (B,) of every row and its log-probability (B,) under the model, temperature aside.

    logits: (B, vocabulary).  uniform: (B,) in [0, 1), the chance of each row: where it falls in the
    cumulated nucleus decides the token, so one number per row and step is all that sampling draws.
    """
    log_probabilities = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
    if decoding.temperature == 0:
        best = log_probabilities.max(dim=-1)
        return best.indices, best.values
    ordered, order = torch.softmax(logits.float() / decoding.temperature, dim=-1).sort(dim=-1, descending=True)
    cumulated = ordered.cumsum(dim=-1)
    kept = ordered * (cumulated - ordered < decoding.top_p)
    cumulated = kept.cumsum(dim=-1)
    rank = torch.searchsorted(cumulated, uniform[:, None] * cumulated[:, -1:], right=True)
    last = kept.count_nonzero(dim=-1)[:, None] - 1  # rounding must not step out of the nucleus
    token = order.gather(-1, rank.minimum(last))[:, 0]
    return token, log_probabilities.gather(-1, token[:, None])[:, 0]


def uniform_draws(seed: int | None, keys: Sequence[tuple[int, ...]], steps: int) -> np.ndarray:
    """Uniform numbers (len(keys), steps) in [0, 1): each row's from the seed and its own key alone."""
    root = np.random.SeedSequence(seed).entropy
    rows = [np.random.default_rng((root, *key)).random(steps, dtype=np.float32) for key in keys]
    return np.stack(rows)

"""What RL learns from its rollouts: the losses of `[rl] method = …`, on groups of attempts at one clip each.

- raft: the best attempt of a clip is a target (arXiv:2304.06767); a policy gradient whose advantages are 0 and 1.
- reinforce-rej: groups whose attempts are all right or all wrong teach nothing and are dropped (arXiv:2504.11343); of
  the others each attempt counts by its reward less the group's mean.
- pairs: the best attempt against the worst, by a margin over the model that sampled them (DPO, arXiv:2305.18290).
- gdpo: each reward is normalised within its group by itself, then they are added and normalised over the batch, which
  is all rollouts here (arXiv:2601.05242): added first, rewards can give attempts one advantage that differ in every one
  of them.

N groups of K attempts; R rewards of each.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from evoxtral import metrics

METHODS = ("raft", "reinforce-rej", "pairs", "gdpo")
REWARDS = ("words", "tags by place", "no invention", "emphasis")
RIGHT = 1.0 - 1e-6  # a reward from which an attempt is all right
EPSILON = 1e-6


def rewards(text: str, reference: str) -> list[float]:
    """REWARDS of one attempt, each in [0, 1]."""
    clip = metrics.count(text, reference)
    return [max(0.0, 1.0 - clip.words.rate), clip.placed.f1, 1.0 - clip.hallucination, clip.emphasis.f1]


def kept(rewards: np.ndarray, wrong: float = 0.0) -> np.ndarray:
    """Which groups Reinforce-Rej keeps, (N,) bool: neither all right nor all wrong. rewards: (N, K).

    wrong: the reward up to which an attempt is all wrong.
    """
    return ~((rewards >= RIGHT).all(axis=1) | (rewards <= wrong).all(axis=1))


def advantages(method: str, rewards: np.ndarray) -> np.ndarray:
    """How much each attempt counts, (N, K); 0 where it is not learned from.

    rewards: (N, K); for gdpo (N, K, R).  Of equals at the top, raft and pairs take the first.
    """
    if method == "gdpo":
        centred = rewards - rewards.mean(axis=1, keepdims=True)
        spread = rewards.std(axis=1, keepdims=True)
        alone = np.where(spread > EPSILON, centred / np.maximum(spread, EPSILON), 0.0).sum(axis=2)
        return (alone - alone.mean()) / max(float(alone.std()), EPSILON)
    out = np.zeros(rewards.shape)
    rows = np.arange(len(rewards))
    if method == "raft":
        out[rows, rewards.argmax(axis=1)] = 1.0
    elif method == "pairs":
        differs = np.ptp(rewards, axis=1) > EPSILON
        out[rows, rewards.argmax(axis=1)] += differs
        out[rows, rewards.argmin(axis=1)] -= differs
    elif method == "reinforce-rej":
        out = (rewards - rewards.mean(axis=1, keepdims=True)) * kept(rewards)[:, None]
    else:
        raise ValueError(f"method = {method!r} must be one of {', '.join(METHODS)}")
    return out


def log_probability(logits: Tensor, labels: Tensor, ignored: int = -100) -> tuple[Tensor, Tensor]:
    """Log-probability of each label (B, T), 0 where it is ignored, and their number (B,). logits: (B, T, V)."""
    counted = labels != ignored
    chosen = torch.log_softmax(logits.float(), dim=-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return chosen * counted, counted.sum(dim=-1)


def policy_loss(new: Tensor, old: Tensor, counts: Tensor, advantage: Tensor, clip: float = 0.2) -> Tensor:
    """PPO's clipped loss, the mean over all tokens of a batch. new, old: (B, T), see `log_probability`; old is fixed.

    Where new = old its gradient is that of REINFORCE: −advantage · log p (arXiv:1707.06347).
    """
    ratio = (new - old.detach()).exp()
    weight = advantage[:, None]
    limited = ratio.clamp(1 - clip, 1 + clip) * weight
    counted = torch.arange(new.shape[1], device=new.device) < counts[:, None]
    return -(torch.minimum(ratio * weight, limited) * counted).sum() / counts.sum().clamp(min=1)


def pair_loss(best: Tensor, worst: Tensor, best_old: Tensor, worst_old: Tensor, beta: float = 0.1) -> Tensor:
    """DPO's loss over pairs. Each (B,): the log-probability of a whole text; old: by the model that sampled them."""
    margin = (best - best_old.detach()) - (worst - worst_old.detach())
    return -F.logsigmoid(beta * margin).mean()

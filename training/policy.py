"""Fine-tuning on attempts that count differently: `[rl] method = …` other than raft; its losses are in `objectives`.

Attempts come from the SFT adapter, which training starts from: its own probabilities of them are computed before the
first step, and are the "old" ones of every loss.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor

from evoxtral.inference.prompt import Prompt
from training import loop, model, objectives
from training.dataset import Clips
from training.raft import Sampled
from training.sft import Finetuning, SftConfig

OLD_BATCH = 8  # attempts that go through at once for their old probabilities


@dataclass(frozen=True)
class RlConfig:
    """method: one of objectives.METHODS. clip: range of the probability ratio. beta: of the margin of pairs."""

    method: str = "raft"
    clip: float = 0.2
    beta: float = 0.1

    def __post_init__(self):
        if self.method not in objectives.METHODS:
            raise ValueError(f"method = {self.method!r} must be one of {', '.join(objectives.METHODS)}")
        if self.clip <= 0 or self.beta <= 0:
            raise ValueError(f"clip = {self.clip} and beta = {self.beta} must be above 0")


@dataclass(frozen=True)
class Attempts:
    """What is learned from: clip i is heard, texts[i] counts advantages[i]; for pairs, worst[i] is held against it."""

    clips: Clips
    texts: list[str]
    advantages: list[float]
    worst: list[str]
    config: RlConfig

    def task(self, tuned: PeftModel, prompt: Prompt, clips: Clips, texts: list[str], config: SftConfig) -> Finetuning:
        return PolicyTuning(tuned, prompt, self, config)


def attempts(samples: list[Sampled], clips: Clips, config: RlConfig) -> Attempts:
    """The attempts that a method learns from. clips: the first of them are those that were sampled, in their order."""
    if config.method == "gdpo":
        table = np.array([[objectives.rewards(text, s.reference) for text in s.texts] for s in samples])
    else:
        table = np.array([s.rewards for s in samples])
    weights = objectives.advantages(config.method, table)
    chosen: list[tuple[int, str, float, str]] = []
    for i, (sampled, row) in enumerate(zip(samples, weights, strict=True)):
        if config.method == "pairs":
            if row.any():
                chosen.append((i, sampled.texts[int(row.argmax())], 1.0, sampled.texts[int(row.argmin())]))
        else:
            chosen += [
                (i, text, float(w), "")
                for text, w in zip(sampled.texts, row, strict=True)
                if abs(w) > objectives.EPSILON
            ]
    places, texts, counts, worst = ([one[k] for one in chosen] for k in range(4))
    return Attempts(clips.at(places), texts, counts, worst, config)


class PolicyTuning(Finetuning):
    """The losses of `objectives` for `loop.fit`. A step's loss is the mean over its attempts' tokens (pairs: pairs)."""

    def __init__(self, tuned: PeftModel, prompt: Prompt, learned: Attempts, config: SftConfig):
        super().__init__(tuned, prompt, learned.clips, learned.texts, config)
        self.learned, self._beyond = learned, [0, 0]
        tuned.eval()
        self._old = self._probabilities(learned.texts)
        self._old_worst = self._probabilities(learned.worst) if learned.config.method == "pairs" else []
        tuned.train()

    @property
    def beyond(self) -> float:
        """Share of the tokens that it has learned from whose probability had left the clip range: how far the policy
        has moved from the one that sampled."""
        return self._beyond[0] / max(1, self._beyond[1])

    @torch.no_grad()
    def _probabilities(self, texts: list[str]) -> list[Tensor]:
        """Log-probabilities of each text's tokens, (T,), under the model as it is."""
        out = []
        for start in range(0, len(texts), OLD_BATCH):
            indices = list(range(start, min(start + OLD_BATCH, len(texts))))
            found, counts = self._forward(indices, [texts[i] for i in indices])
            out += [row[:count].cpu() for row, count in zip(found, counts.tolist(), strict=True)]
        return out

    def _forward(self, indices: list[int], texts: list[str]) -> tuple[Tensor, Tensor]:
        batch = self.collate(indices, self.prompt, texts, True, None).to(self.device)
        with loop.autocast(self.device):
            audio = model.project(self.base, model.encode(self.base, batch.mels))
            logits = model.text_logits(self.base, audio, batch.prompt, batch.text)
        return objectives.log_probability(logits, batch.labels, model.IGNORE)

    def losses(self, step: int) -> Iterator[dict[str, Tensor]]:
        processes, batch = loop.world()[1], self._batch(step)
        lengths = [len(old) for old in self._old]
        pairs = self.learned.config.method == "pairs"
        total = len(batch) if pairs else sum(lengths[i] for i in batch)
        for first, indices, counts in self._parts(step):
            self._seeded(step, first)
            part = len(indices) if pairs else sum(lengths[i] for i in indices)
            weight = processes * part / total if counts else 0.0
            yield {"loss": (self._pair_loss(indices) if pairs else self._policy_loss(indices)) * weight}

    def one_clip(self) -> None:
        longest = max(range(len(self.texts)), key=lambda i: len(self.texts[i]))
        (self._pair_loss if self.learned.config.method == "pairs" else self._policy_loss)([longest])

    def _policy_loss(self, indices: list[int]) -> Tensor:
        new, counts = self._forward(indices, [self.texts[i] for i in indices])
        old = torch.nn.utils.rnn.pad_sequence([self._old[i] for i in indices], batch_first=True)
        old = torch.nn.functional.pad(old, (0, new.shape[1] - old.shape[1])).to(self.device)
        advantage = torch.tensor([self.learned.advantages[i] for i in indices], device=self.device)
        limit = torch.tensor(1 + self.learned.config.clip).log()
        self._beyond[0] += int(((new.detach() - old).abs() > limit).sum())
        self._beyond[1] += int(counts.sum())
        return objectives.policy_loss(new, old, counts, advantage, self.learned.config.clip)

    def _pair_loss(self, indices: list[int]) -> Tensor:
        best, _ = self._forward(indices, [self.texts[i] for i in indices])
        worst, _ = self._forward(indices, [self.learned.worst[i] for i in indices])
        old = [torch.stack([some[i].sum() for i in indices]).to(self.device) for some in (self._old, self._old_worst)]
        return objectives.pair_loss(best.sum(1), worst.sum(1), *old, self.learned.config.beta)

"""RAFT (reward-ranked fine-tuning, arXiv:2304.06767): sample, score, keep the best, fine-tune on those.

The reward is the benchmark's own, `evoxtral.metrics.reward`. Everything that was sampled is kept in samples.jsonl.
Clips with their references can be learned from beside them, as "PPO-ptx" does (arXiv:2203.02155): what is kept of the
samples is what SFT can already write.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from evoxtral import audio, metrics
from evoxtral.inference.engine import Engine
from evoxtral.inference.sampling import Decoding
from training import loop
from training.dataset import Clips
from training.sft import SftConfig

CHUNK = 48  # clips between two writes: what an interruption can cost


@dataclass(frozen=True)
class RaftConfig:
    """The published recipe. drop: share of clips with the lowest best reward that is left out. supervised: how
    many of the clips, the last ones, are not sampled but learned from with their references.
    """

    samples: int = 4
    temperature: float = 0.7
    top_p: float = 0.9
    drop: float = 0.1
    supervised: int = 0
    seed: int = 42
    sft: SftConfig = field(default_factory=lambda: SftConfig(learning_rate=5e-5, warmup=20, epochs=1, neftune=0.0))

    def __post_init__(self):
        if self.samples < 1 or not 0 <= self.drop < 1 or self.supervised < 0:
            raise ValueError(
                f"samples = {self.samples} must be at least 1, drop = {self.drop} in [0, 1) and "
                f"supervised = {self.supervised} at least 0"
            )


@dataclass(frozen=True)
class Sampled:
    """What was sampled for one clip: `texts` and their rewards, in the same order."""

    id: str
    reference: str
    texts: list[str]
    rewards: list[float]

    @property
    def best(self) -> int:
        """Index of the highest merit; the first of equals."""
        return max(range(len(self.rewards)), key=self.merit)

    def merit(self, index: int) -> tuple[float, float]:
        """What attempts are ranked by: the reward, and among equals the F1 of stressed words, which it does not see."""
        return self.rewards[index], metrics.count(self.texts[index], self.reference).emphasis.f1


def sample(engine: Engine, variant: str, clips: Clips, config: RaftConfig, path: Path) -> list[Sampled]:
    """`config.samples` transcripts of every clip with their rewards, appended to `path`; what is there is kept."""
    from tqdm import tqdm

    done = [Sampled(**row) for row in loop.whole_chunks(path, CHUNK)]
    decoding = Decoding(temperature=config.temperature, top_p=config.top_p, seed=config.seed)
    with tqdm(total=len(clips), initial=len(done), desc="sample", unit="clip") as bar, path.open("a") as file:
        for start in range(len(done), len(clips), CHUNK):
            chunk = clips.clips[start : start + CHUNK]
            waveforms = [audio.load(clips.folder / clip.audio) for clip in chunk]
            results = engine.batch(waveforms, [variant], decoding=decoding, samples=config.samples)
            for clip, result in zip(chunk, results, strict=True):
                texts = [transcript.text for transcript in result[variant]]
                rewards = [round(metrics.reward(text, clip.text), 6) for text in texts]
                done.append(Sampled(clip.id, clip.text, texts, rewards))
                file.write(json.dumps(vars(done[-1])) + "\n")
            file.flush()
            bar.update(len(chunk))
    return done


def read(path: Path) -> list[Sampled]:
    """All samples of a finished file."""
    return [Sampled(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def curate(samples: Iterable[Sampled], drop: float) -> list[Sampled]:
    """The clips to learn from, in their order: all but the lowest `drop` by the merit of their best attempt.

    The threshold is a merit, and clips at the threshold are kept: when many tie at the top, a strict cut would throw
    out everything.
    """
    samples = list(samples)
    bests = [s.merit(s.best) for s in samples]
    threshold = sorted(bests)[int(drop * len(bests))]
    return [s for s, merit in zip(samples, bests, strict=True) if merit >= threshold]


def training_set(samples: list[Sampled], clips: Clips, drop: float) -> tuple[Clips, list[str]]:
    """What RL learns from, clips and texts: of the clips that were sampled, the curated with their best attempts, and
    the others, which follow them, with their references.
    """
    best = {s.id: s.texts[s.best] for s in curate(samples, drop)}
    texts = best | {clip.id: clip.text for clip in clips.clips[len(samples) :]}
    learned = clips.only([clip.id in texts for clip in clips.clips])
    return learned, [texts[clip.id] for clip in learned.clips]

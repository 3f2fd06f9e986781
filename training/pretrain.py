"""The scale base from nothing: what Voxtral-Mini is to the adapters.

It learns three tasks on the same clips. Asked to transcribe, it writes plain text: no tags, no capitals. Asked in words
how something was said, it lists the tags and the stressed words in order; asked in words for all of it, it writes both
together. The last two are what lets an adapter find delivery in the audio, and spell a rare word under stress or behind
a sound: a text model that was never asked about them does not look.
"""

import json
import logging
import random
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoConfig, VoxtralForConditionalGeneration

from evoxtral import tags
from evoxtral.inference.prompt import Prompt
from evoxtral.model import checkpoints, hub, phoneme_head
from evoxtral.speech.espeak import Espeak
from evoxtral.speech.notation import phonemes
from training import augment, bank, dataset, loop, model, tokenizer
from training.dataset import Clip, Clips, Collator
from training.muon import Muon

log = logging.getLogger(__name__)

QUESTION = "How is it said?"
NOTHING = "plain"  # the answer where there is neither tag nor stress
BOTH = "What is said, and how?"
UNKNOWN = 0  # the id that stands for a dropped text input


@dataclass(frozen=True)
class PretrainConfig:
    """start: a checkpoint whose base to go on from; "" is from nothing. frames: mel frames in one process's batch."""

    start: str = ""
    shape: model.Shape = field(default_factory=model.Shape)
    steps: int = 3600
    listening: float = 0.6  # share of the run that is mostly the encoder's: see `Pretraining.losses`
    hold: float = 0.7  # share of the run at the full rate
    frames: int = 3_000
    learning_rate: float = 1.5e-3
    warmup: int = 150
    weight_decay: float = 0.05
    both: float = 0.8  # share of the run that asks every other time for words and tags together; then for words alone
    text_dropout: float = 0.5  # of text inputs, falls to 0: a text model that can guess does not listen
    phoneme_ctc: float = 1.0  # weight of CTC on the encoder, falls to 0.3
    token_ctc: float = 0.5  # weight of CTC on the audio tokens through the text model's own head, falls to 0
    text_only: float = 0.2  # weight of plain language modelling
    features: float = 0.0  # weight of the teacher's features, with `distillation.TaughtPretraining`
    spread: float = augment.SPREAD  # of throat and pace, see `augment.vary`
    masks: float = 0.0  # share of clips with `augment.masked`, until four fifths of the run
    frozen: float = 0.0  # share of the run in which the encoder waits for the rest
    embedded_end: float = 0.0  # share of the run, its end, in which two clips of three are in the embedded voice
    keep: float = 0.0  # share of the weights of `start` in those that it ends with, see `mixed`
    short_share: float = 0.1  # of the run, twice, on clips under `short_frames`
    short_frames: int = 200
    seed: int = 0


def how_it_is_said(text: str) -> str:
    """The answer to QUESTION: tags and stressed words in their order, e.g. "[nervous] NEW [laughs]"."""
    parts = []
    for piece in tags.parse(text):
        if isinstance(piece, tags.Tag):
            parts.append(piece.raw)
        else:
            parts += tags.EMPHASIS.findall(piece.raw)
    return " ".join(parts) or NOTHING


def heard(clips: Iterable[Clip]) -> list[list[str]]:
    """The `phonemes` of each clip, with its own accent."""
    with Espeak() as engine:
        return [phonemes(engine, clip.text, bank.accent(clip.voice)) for clip in clips]


def ctc(logits: Tensor, targets: list[list[int]]) -> Tensor:
    """CTC loss, blank 0. logits: (B, T, S), the silence behind a clip included; targets: symbols of each row."""
    return F.ctc_loss(
        logits.float().log_softmax(-1).transpose(0, 1),
        torch.tensor([symbol for target in targets for symbol in target]),
        torch.full((len(targets),), logits.shape[1]),
        torch.tensor([len(target) for target in targets]),
        zero_infinity=True,
    )


def write_head(folder: Path, symbols: Sequence[str], head: nn.Linear) -> None:
    """Put the encoder's CTC head beside a base: `weight` (S + 1, D) and `bias` (S + 1,) in float16 for encoder states
    (after the last norm, 25 a second in the scale model); output 0 is the blank, and the others are the symbols, a JSON
    list in the file's metadata: espeak-ng's phonemes, marks of stress and melody, and tags in brackets.
    """
    tensors = {name: tensor.detach().half().contiguous() for name, tensor in head.state_dict().items()}
    save_file(tensors, folder / phoneme_head.FILE, {"symbols": json.dumps(list(symbols), ensure_ascii=False)})


class Pretraining:
    """The losses of one step, as `loop.fit` asks for them."""

    def __init__(
        self,
        base: VoxtralForConditionalGeneration,
        prompt: Prompt,
        clips: Clips,
        config: PretrainConfig,
        head: Path | None = None,
    ):
        """head: the folder of a base, whose CTC head is gone on with."""
        self.base, self.clips, self.config = base, clips, config
        known = phoneme_head.read(head) if head else None
        if known:  # what it knows is kept; what is new to it, it does not hear
            symbols, self.head = known[0], known[1].requires_grad_(True)
        else:
            symbols = sorted({symbol for row in heard(clips.clips[:2000]) for symbol in row})
            self.head = nn.Linear(base.config.audio_config.hidden_size, len(symbols) + 1)
        self.symbols = {symbol: k for k, symbol in enumerate(symbols, 1)}  # 0 is CTC's blank
        self.collate = Collator(clips, prompt)
        self.prompt = prompt
        self.transcribe = prompt.transcription_ids("en")
        self.describe, self.both = prompt.chat_ids(QUESTION), prompt.chat_ids(BOTH)
        self.short = [i for i, clip in enumerate(clips.clips) if clip.frames < config.short_frames]
        self.last = _mostly_embedded(clips) if config.embedded_end else []
        self._batches: dict[tuple[int, int], list[list[int]]] = {}

    def thrown_away(self) -> list[nn.Module]:
        """What learns beside the base and is no part of it; the CTC head is first."""
        return [self.head]

    def _batch(self, step: int) -> list[int]:
        """The clips of a step, over all processes; every epoch is shuffled anew from the seed.

        Each part of the run begins with short clips: encoder, then text model, learn there what follows what in sound.
        """
        early = int(self.config.steps * self.config.short_share)
        second = int(self.config.steps * self.config.listening)
        begun = [start for start in sorted({0, second}) if start <= step]  # the parts of the run, up to this one
        last = self.config.steps - int(self.config.steps * self.config.embedded_end)
        if step < begun[-1] + early:
            pool, place = self.short, step - begun[-1] + early * (len(begun) - 1)
        elif step >= last:
            pool, place = self.last, step - last
        else:
            pool, place = range(len(self.clips)), step - early * len(begun)
        epoch = 0
        while place >= len(made := self._epoch(pool, epoch)):
            place -= len(made)
            epoch += 1
        return made[place]

    def _epoch(self, pool: Sequence[int], epoch: int) -> list[list[int]]:
        key = (len(pool), epoch)
        if key not in self._batches:
            frames = self.config.frames * loop.world()[1]
            self._batches[key] = dataset.batches_of_frames(self.clips, frames, self.config.seed + epoch, pool)
        return self._batches[key]

    def losses(self, step: int) -> Iterator[dict[str, Tensor]]:
        config, base = self.config, self.base
        progress = step / config.steps
        rank, processes = loop.world()
        rng = random.Random(f"{config.seed}/{step}/{rank}")
        batch = self._batch(step)
        indices = batch[rank::processes] or batch[:1]  # the last of an epoch may be smaller than the processes are many
        # Windows are always full in use; mostly cropped ones are enough until late in the run. One decision for all
        # processes, and as many clips as fit the frames of a step: none waits for another.
        full_window = random.Random(f"{config.seed}/{step}").random() < (0.05 if progress < 0.8 else 0.4)
        if full_window:
            indices = indices[: max(1, config.frames // self.prompt.window_frames)]
        clips = [self.clips.clips[i] for i in indices]
        mels, targets = self._heard(indices, full_window, np.random.default_rng(rng.getrandbits(32)), progress < 0.8)
        # The text model costs twice what the encoder does and can learn little before the encoder hears phonemes: in
        # the first part of the run it takes part in every fourth step only.
        listening = progress < config.listening
        with loop.autocast():
            with torch.set_grad_enabled(progress >= config.frozen):
                states = model.encode(base, mels)
            audio = model.project(base, states)
            known = [[self.symbols[x] for x in row if x in self.symbols] for row in heard(clips)]
            loss = ctc(self.head(states), known)
            parts = {"phonemes": config.phoneme_ctc * max(0.3, 1 - progress) * loss}
            parts |= self._taught(states, targets)
            logits = base.lm_head(base.model.language_model.norm(audio))
            texts = [self.prompt.encode(tags.plain(clip.text)) for clip in clips]
            parts["tokens"] = config.token_ctc * (1 - progress**4) * ctc(logits, texts)
            if not listening or step % 4 == 1:
                drop = config.text_dropout * max(0.0, 1 - (progress / 0.92) ** 3) * (rng.random() < 0.7)
                if progress < config.both and (step // 4 if listening else step) % 2:
                    parts["both"] = self._text(audio, self.both, [clip.text for clip in clips], drop)
                else:
                    parts["transcribe"] = self._text(audio, self.transcribe, [tags.plain(c.text) for c in clips], drop)
            if step % (8 if listening else 4) == 3:
                parts["describe"] = self._text(audio, self.describe, [how_it_is_said(c.text) for c in clips], 0.0)
            if step % 8 == 1:
                texts = [clip.text for clip in rng.sample(self.clips.clips, min(12, len(self.clips)))]
                text, labels = self.collate.targets(texts)
                logits = model.text_logits(base, None, torch.tensor([tokenizer.BOS]), text)
                parts["text"] = config.text_only * model.cross_entropy(logits, labels)
        yield parts

    def _heard(
        self, indices: list[int], full_window: bool, rng: np.random.Generator, masks: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """Log-mels (B, 128, frames), each clip a little varied, and of each what `_taught` compares its states with."""
        varied, targets = [], []
        for index in indices:
            mel, frames = augment.vary(self.clips.mel(index), rng, self.prompt.window_frames, self.config.spread)
            if masks and rng.random() < self.config.masks:
                mel = augment.masked(mel, rng)
            varied.append(mel)
            targets.append(self._target(index, frames))
        return self.collate.padded(varied, full_window), targets

    def _target(self, index: int, frames: np.ndarray) -> Tensor:
        """What is to be learnt of a clip, whose frames are these now (see `augment.vary`): nothing here."""
        return torch.empty(0)

    def _taught(self, states: Tensor, targets: list[Tensor]) -> dict[str, Tensor]:
        """Losses of the encoder's states (B, T, D) beside those of this class."""
        return {}

    def _text(self, audio: Tensor, prompt: list[int], texts: list[str], drop: float) -> Tensor:
        text, labels = self.collate.targets(texts)
        if drop:
            text = torch.where(torch.rand(text.shape) < drop, UNKNOWN, text)
        ids = self.collate.cropped(prompt, audio.shape[1])
        return model.cross_entropy(model.text_logits(self.base, audio, ids, text), labels)


def _mostly_embedded(clips: Clips) -> list[int]:
    """Places of all clips in the embedded voice, and of half as many others."""
    own = [i for i, clip in enumerate(clips.clips) if ":" not in clip.voice]
    others = [i for i, clip in enumerate(clips.clips) if ":" in clip.voice]
    return sorted(own + random.Random(0).sample(others, min(len(others), len(own) // 2)))


def optimizers(modules: list[nn.Module], config: PretrainConfig) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) on the matrices inside the network, AdamW on embeddings, heads, convolutions, norms."""
    matrices, others = [], []
    for module in modules:
        for name, weight in module.named_parameters():
            if weight.requires_grad:
                inner = weight.ndim == 2 and "embed" not in name and "lm_head" not in name and module is modules[0]
                (matrices if inner else others).append(weight)
    decayed = [w for w in others if w.ndim > 1]
    plain = [w for w in others if w.ndim <= 1]
    rate, decay = config.learning_rate, config.weight_decay
    return [
        Muon(matrices, lr=rate, weight_decay=decay),
        torch.optim.AdamW(
            [{"params": decayed, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}],
            lr=rate, betas=(0.9, 0.98), fused=True,
        ),
    ]  # fmt: skip


def prepare(folder: Path, clips: Clips, config: PretrainConfig, distilled: Path | None = None) -> None:
    """Put the base to start from into `folder/start`: one of random weights, or a copy of the distilled one, or of
    `config.start`'s.
    """
    if (folder / "start").exists():
        return
    with checkpoints.atomic_folder(folder / "start") as out:
        if distilled or config.start:
            known = distilled or hub.fetch(checkpoints.resolve(config.start).base)
            shutil.copytree(known, out, dirs_exist_ok=True)
        else:
            texts = [text for clip in clips.clips[:20_000] for text in (clip.text, tags.plain(clip.text))]
            model.new_base(out, tokenizer.train_merges(texts, config.shape.merges), config.shape, config.seed)


def pretrain(
    folder: Path, clips: Clips, validation: Clips, config: PretrainConfig, kind: type[Pretraining] = Pretraining
) -> None:
    """Train the base in `folder/start` and write it to `folder/base`. Resumes; `folder` also takes log and state."""
    start = folder / "start"
    torch.manual_seed(config.seed)  # the head's weights, the same in every process
    base = VoxtralForConditionalGeneration.from_pretrained(start, dtype=torch.float32, attn_implementation="eager")
    base.model.audio_tower.embed_positions.requires_grad_(False)
    prompt = Prompt(start, AutoConfig.from_pretrained(start))
    task = kind(base, prompt, clips, config, start)
    modules = [base, *task.thrown_away()]
    loop.fit(
        modules,
        optimizers(modules, config),
        task.losses,
        loop.Schedule(config.learning_rate, config.warmup, config.steps, hold=config.hold),
        folder,
        "pretrain",
        config.seed,
        evaluate=partial(evaluate, base, prompt, validation),
        evaluate_every=600,
    )
    if loop.world()[0] == 0:
        with checkpoints.atomic_folder(folder / "base") as out:
            weights = shutil.ignore_patterns("*.safetensors*")  # but the processor's files
            shutil.copytree(start, out, ignore=weights, dirs_exist_ok=True)
            write_head(out, list(task.symbols), task.head)
            if config.keep:
                first = hub.fetch(checkpoints.resolve(config.start).base)  # before any distillation
                mixed(base, checkpoints.load_base(first, torch.float32), config.keep)
            base.to(torch.bfloat16).save_pretrained(out)


@torch.no_grad()
def mixed(base: nn.Module, other: nn.Module, share: float) -> None:
    """Move `base` to (1 - share) of its weights and `share` of another's, from which it was trained.

    What it heard well before, it hears nearly as well as before; and what it has learned, nearly as well as without
    (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models").
    """
    before = other.state_dict()
    for name, weight in base.state_dict().items():
        weight.lerp_(before[name].to(weight.dtype), share)


@torch.no_grad()
def evaluate(base, prompt: Prompt, clips: Clips, step: int, count: int = 64) -> dict[str, float]:
    """Greedy transcription of the first clips, and how well the second task is answered."""
    import jiwer

    collate = Collator(clips, prompt)
    indices = list(range(min(count, len(clips))))
    mels = collate.mels(indices)
    answers = {}
    for name, ids in (("wer", prompt.transcription_ids("en")), ("described", prompt.chat_ids(QUESTION))):
        rows = torch.tensor([ids] * len(indices))
        with loop.autocast():
            out = base.generate(
                input_ids=rows,
                attention_mask=torch.ones_like(rows),
                input_features=mels,
                max_new_tokens=90,
                do_sample=False,
            )
        answers[name] = [
            prompt.decode([i for i in row if i != tokenizer.PAD]) for row in out[:, rows.shape[1] :].tolist()
        ]
    pairs = [(tags.plain(c.text), a) for c, a in zip(clips.clips, answers["wer"], strict=False) if tags.plain(c.text)]
    described = [how_it_is_said(c.text) == a for c, a in zip(clips.clips, answers["described"], strict=False)]
    log.info("%s -> %s", *pairs[1])
    return {
        "wer": round(jiwer.wer([r for r, _ in pairs], [h for _, h in pairs]), 4),
        "described": round(sum(described) / len(described), 4),
    }

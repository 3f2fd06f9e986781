"""Supervised fine-tuning: LoRA on a base that transcribes plainly, until it writes tags as well."""

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from evoxtral import metrics
from evoxtral.inference.prompt import Prompt
from evoxtral.model import checkpoints
from evoxtral.model.lora import LoraRecipe
from training import dataset, loop, lora, model, noise, passes
from training.dataset import Batch, Clips, Collator
from training.passes import Need, Passes

log = logging.getLogger(__name__)

SPARE = 16  # tokens that a shown prediction may be longer than its reference


@dataclass(frozen=True)
class SftConfig:
    """The published recipe. batch: clips per step, over all processes; micro_batch: clips that go through at once, if
    memory holds so many (0: as many as are of use)."""

    learning_rate: float = 2e-4
    warmup: int = 50
    epochs: int = 3
    batch: int = 16
    micro_batch: int = 0
    weight_decay: float = 0.01
    clip: float = 1.0
    neftune: float = 5.0
    cropped: float = 0.0  # share of batches that end with their longest clip: quicker, but not as in use
    vary: bool = False  # speak each clip a little differently every time, see augment.vary
    language: str = "en"
    seed: int = 42

    def __post_init__(self):
        if min(self.epochs, self.batch) < 1 or self.micro_batch < 0:
            raise ValueError("epochs and batch must be at least 1, micro_batch at least 0")


class Finetuning:
    """The loss of one step, as `loop.fit` asks for it: a transcription request, then tagged text, then the end.

    texts: the target of each clip. model: a PEFT model. The loss is on the text and its end only.
    """

    def __init__(self, tuned: PeftModel, prompt: Prompt, clips: Clips, texts: list[str], config: SftConfig):
        self.base, self.config, self.texts = tuned.base_model.model, config, texts
        self.collate = Collator(clips, prompt)
        self.prompt = prompt.transcription_ids(config.language)
        self.device = next(self.base.parameters()).device
        self.most = passes.most(config.micro_batch, config.batch, prompt.window_frames // 2, self.device)
        self.passes = Passes(self.most)
        self.steps_per_epoch = -(-len(clips) // config.batch)
        self.steps = self.steps_per_epoch * config.epochs
        self._epoch: tuple[int, list[list[int]]] = (-1, [])

    def _batch(self, step: int) -> list[int]:
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch[0]:
            self._epoch = (
                epoch,
                dataset.batches(self.collate.clips, self.config.batch, self.config.seed + epoch),
            )
        return self._epoch[1][place]

    def losses(self, step: int) -> Iterator[dict[str, Tensor]]:
        """Micro-batches of this process's share; their gradients add up to those of the whole batch."""
        processes = loop.world()[1]
        whole = self._collated(self._batch(step), np.random.default_rng((self.config.seed, step)))
        total = int((whole.labels != model.IGNORE).sum())  # tokens with a loss
        for first, part, counts in self._parts(step):
            self._seeded(step, first)
            loss, count = self._loss(whole.rows(first, len(part)), self.config.neftune)
            yield {"loss": loss * count * (processes / total if counts else 0.0)}

    def run_as(self, chosen: Passes) -> None:
        self.passes = chosen
        if chosen.checkpointing:
            self.base.gradient_checkpointing_enable()

    def needed(self, parameters: int) -> Need:
        """The memory that training takes. parameters: that are trained."""
        longest = max(len(self.collate.prompt.encode(text)) for text in self.texts)
        positions = self.collate.prompt.window_frames // 2, len(self.prompt) + longest
        return passes.needed(self.base, parameters, self.one_clip, positions)

    def one_clip(self) -> None:
        """A pass of the clip with the longest text: none takes more memory."""
        longest = max(range(len(self.texts)), key=lambda i: len(self.texts[i]))
        self._loss(self._collated([longest]), self.config.neftune)

    def _collated(self, indices: list[int], rng: np.random.Generator | None = None) -> Batch:
        """Clips with their texts. rng: for what makes training harder; without it they are as in use."""
        full, varied = True, None
        if rng:
            full, varied = rng.random() >= self.config.cropped, rng if self.config.vary else None
        return self.collate(indices, self.prompt, [self.texts[i] for i in indices], full, varied)

    def _parts(self, step: int) -> list[tuple[int, list[int], bool]]:
        """This process's micro-batches: number in the batch of the first clip, clips, whether they count. Processes
        take turns, unless they are more than there are micro-batches."""
        (rank, processes), batch = loop.world(), self._batch(step)
        size = min(self.passes.micro_batch, max(1, self.config.batch // processes))
        parts = [(start, batch[start : start + size], True) for start in range(0, len(batch), size)]
        # A last batch may have fewer than there are processes: one without takes part in the exchange of gradients.
        return parts[rank::processes] or [(0, batch[:1], False)]

    def micro_batches(self, step: int) -> int:
        """How many micro-batches of a step this process has."""
        return len(self._parts(step))

    def _seeded(self, step: int, first: int) -> None:
        """Random numbers of a step: the same for a clip in whichever pass and process it goes through."""
        torch.manual_seed(self.config.seed * 1_000_003 + step)
        noise.begin_at(first)

    def _loss(self, batch: Batch, alpha: float = 0.0) -> tuple[Tensor, int]:
        """Mean cross-entropy over the labelled tokens, and their number. alpha: NEFTune's."""
        batch = batch.to(self.device)
        counts = (batch.labels != model.IGNORE).sum(dim=1)
        noisy = partial(noise.neftune, lengths=len(batch.prompt) + counts - 1, alpha=alpha) if alpha else None
        with loop.autocast(self.device):
            audio = model.project(self.base, model.encode(self.base, batch.mels))
            states = model.text_states(self.base, audio, batch.prompt, batch.text, noisy)
            loss = model.head_loss(self.base, states, batch.labels)
        return loss, int(counts.sum())

    @torch.no_grad()
    def validate(self, count: int = 96) -> float:
        """Mean loss over the first clips, nothing dropped and no noise."""
        self.base.eval()
        indices = range(min(count, len(self.texts)))
        parts = [self._loss(self._collated(list(indices[i : i + 8]))) for i in range(0, len(indices), 8)]
        self.base.train()
        return float(sum(loss * n for loss, n in parts) / sum(n for _, n in parts))

    @torch.no_grad()
    def predict(self, count: int) -> list[dict]:
        """What is written of the first clips, greedily, with all that tells which clips they are."""
        count = min(count, len(self.texts))
        longest = max(len(self.collate.prompt.encode(text)) for text in self.texts[:count])
        mels = self.collate.mels(list(range(count))).to(self.device)
        rows = torch.tensor([self.prompt] * count, device=self.device)
        self.base.eval()
        with loop.autocast(self.device):
            found = self.base.generate(
                input_ids=rows,
                attention_mask=torch.ones_like(rows),
                input_features=mels,
                max_new_tokens=longest + SPARE,
                do_sample=False,
            )
        self.base.train()
        clips = self.collate.clips
        return [
            {
                "id": clip.id,
                "reference": text,
                "prediction": self.collate.prompt.decode(ids),
                "voice": clip.voice,
                "seed": clip.seed,
                "audio": str(clips.folder / clip.audio) if clip.audio else None,
            }
            for clip, text, ids in zip(clips.clips, self.texts, found[:, rows.shape[1] :].tolist(), strict=False)
        ]


def adapted(base: Path, recipe: LoraRecipe, start: Path | None, device: torch.device) -> PeftModel:
    """The base with a LoRA to train: a new one, or the one saved in `start`."""
    plain = checkpoints.load_base(base, torch.float32 if device.type == "cpu" else torch.bfloat16).to(device)
    if device.type == "cpu" and loop.matmul_dtype(device) is torch.bfloat16:
        # The fused one's backward pass takes twice as long there. In float32 it takes no longer, and the unfused one's
        # sums were once found to hang on where memory lay; in bfloat16 they do not.
        plain.set_attn_implementation("eager")
    if start:
        # transformers' own loader, inside PeftModel, is only right for adapters of this transformers: they are.
        tuned = PeftModel.from_pretrained(plain, start, is_trainable=True)
    else:
        config = LoraConfig(
            r=recipe.r,
            lora_alpha=recipe.alpha,
            lora_dropout=recipe.dropout,
            target_modules=list(recipe.targets),
            task_type="CAUSAL_LM",
        )
        tuned = get_peft_model(plain, config)
    _dropping_by_clip(tuned)
    lora.multiply_at_once(tuned)
    if loop.matmul_dtype(device) is torch.bfloat16:
        _rounded_once(tuned)
    return tuned


def _rounded_once(tuned: PeftModel) -> None:
    """Puts weights that do not change in the precision in which they are multiplied: autocast would round them in every
    pass, and keep a copy for the gradients."""
    looked_up = tuned.get_input_embeddings().weight  # the output layer may have the same
    for module in tuned.modules():
        multiplied = isinstance(module, nn.Linear | nn.Conv1d) and module.weight is not looked_up
        if multiplied and not module.weight.requires_grad:
            module.to(torch.bfloat16)


def _dropping_by_clip(tuned: PeftModel) -> None:
    """Puts `noise.Dropout` in the place of the adapters' own."""
    for module in tuned.modules():
        for name, dropout in getattr(module, "lora_dropout", {}).items():
            if isinstance(dropout, nn.Dropout):
                module.lora_dropout[name] = noise.Dropout(dropout.p)


def train(
    folder: Path,
    name: str,
    base: Path,
    recipe: LoraRecipe,
    start: Path | None,
    clips: Clips,
    texts: list[str],
    validation: Clips,
    config: SftConfig,
    make_task: Callable[..., "Finetuning"] = Finetuning,
    shown: int = 0,
) -> None:
    """Train an adapter on clips with these texts and write it to `folder/NAME`. Resumes; log and state lie in `folder`.

    start: an adapter to go on from; None for a new one.  make_task: the loss, for RL other than RAFT.  shown: how many
    validation clips are transcribed at each evaluation, into `folder/NAME.predictions.jsonl`.
    """
    device = loop.device()
    torch.manual_seed(config.seed)
    tuned = adapted(base, recipe, start, device)
    tuned.train()
    prompt = Prompt(base, checkpoints.load_config(base))
    task = make_task(tuned, prompt, clips, texts, config)
    held = Finetuning(tuned, prompt, validation, [clip.text for clip in validation.clips], config)
    parameters = [p for p in tuned.parameters() if p.requires_grad]
    need = task.needed(sum(p.numel() for p in parameters))
    task.run_as(passes.decide(folder, name, need, device, task.most))
    watched = passes.Watched(name, task, need)
    loop.fit(
        [tuned],
        [torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)],
        watched.losses,
        loop.Schedule(config.learning_rate, config.warmup, task.steps),
        folder,
        name,
        seed=config.seed,
        clip=config.clip,
        evaluate=partial(_evaluate, held, folder / f"{name}.predictions.jsonl", shown),
        evaluate_every=max(1, task.steps // 6),
        clips=config.batch,
        micro_batches=watched.micro_batches,
    )
    if loop.world()[0] == 0:
        with checkpoints.atomic_folder(folder / name) as out:
            tuned.to(torch.bfloat16).save_pretrained(out, save_embedding_layers=False)
            _tidy(out, base)


def _evaluate(held: Finetuning, path: Path, shown: int, step: int) -> dict[str, float]:
    scores = {"validation_loss": round(held.validate(), 4)}
    if shown:
        predictions = held.predict(shown)
        found = metrics.score((row["prediction"], row["reference"]) for row in predictions).scores
        for score in ("wer", "tag_f1", "emphasis_f1"):
            if (value := getattr(found, score)) is not None:
                scores[f"shown_{score}"] = round(value, 4)
        loop.append(path, {"step": step, "predictions": predictions})
    return scores


def _tidy(adapter: Path, base: Path) -> None:
    """The same files from the same run, wherever it runs. PEFT writes the path the base was loaded from, of which the
    last part is kept, and a set of layers in whatever order it has.
    """
    path = adapter / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base.name
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")

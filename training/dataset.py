"""Clips: scripts spoken into shards of log-mels (and audio), and the one collator that turns them into batches.

A shard is two files, `NAME-0007.jsonl` (one clip a line) and `NAME-0007.npy` (their log-mels, one after another), plus
one FLAC a clip where the audio itself is needed. A shard depends on nothing but its name and the seed: an interrupted
build goes on with the shards that are missing, and the same seed gives the same files.
"""

import itertools
import json
import logging
import random
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch

from evoxtral import speech
from evoxtral.audio import SAMPLE_RATE, levelled
from evoxtral.audio.features import log_mel
from evoxtral.errors import RecipeError
from evoxtral.inference.prompt import Prompt
from evoxtral.speech import kokoro
from training import augment, bank, loop, splice, tagged_texts
from training.model import IGNORE
from training.tagged_texts import Slices, Sources

log = logging.getLogger(__name__)

SHARD = 500  # clips
SOURCES = ("embedded", "elevenlabs", "corpus")  # of clips
FRAMES, TOKENS = 64, 32  # what batches are rounded up to, in mel frames and text ids: few shapes occur
HELD_OUT = frozenset({"f4", "Annie", "m3", "edward", "max"})  # voice variants that training never hears
ACCENTS = {"en-us": 0.4, "en": 0.2, "en-gb-x-rp": 0.2, "en-gb-scotland": 0.2}
VARIANTS = speech.FEMALE + speech.MALE
# More for a base that is to follow anyone. None is nearer to a held-out voice than the nearest of the others is.
FURTHER = speech.FURTHER_FEMALE + speech.FURTHER_MALE


@dataclass(frozen=True)
class Clip:
    """One spoken script. text: tagged. frames: of its log-mel. audio: file name in the folder, if kept."""

    id: str
    text: str
    slice: str
    domain: str
    voice: str
    held_out_voice: bool
    seed: int
    seconds: float
    frames: int
    audio: str | None = None


@dataclass(frozen=True)
class DataConfig:
    """What to build. window_seconds, hop: the model's. stress: see `tagged_texts.write`. For training only: augment
    (room, tone, level and noise) and further_voices (besides those of the bench).

    source: where the clips come from; with "corpus" and "elevenlabs" that of `train` counts for every split.
    corpus: what `corpora.reading.read` takes, as are the two names of columns and the folder inside it.
    """

    clips: int = 1000
    split: str = "train"
    seed: int = 42
    window_seconds: int = 10
    hop: int = 320  # samples per mel frame
    held_out_share: float = 0.0  # of clips spoken by held-out voices
    augment: bool = False
    further_voices: bool = False
    natural: float = 0.0  # share of clips in natural voices, from the banks named
    banks: tuple[str, ...] = ()
    spliced: float = 0.0  # share of those in natural voices: phrases in a new order, see training/splice.py
    microphone: float = 0.0  # share of clips that go through `augment.microphone`, whatever their voice
    varied: bool = True  # natural voices: another pitch and vocal tract with every clip
    stress: float = 1.15
    long_pauses: float = 0.0  # share of clips with a pause between all sentences, half of them of 1.3 to 3 s
    keep_audio: bool = True
    source: str = "embedded"
    corpus: str = ""
    text_column: str = ""
    audio_column: str = ""
    subset: str = ""
    sources: Sources = field(default_factory=Sources)
    slices: Slices = field(default_factory=Slices)

    def __post_init__(self):
        if self.clips < 1 or self.split not in tagged_texts.SPLITS:
            splits = ", ".join(tagged_texts.SPLITS)
            raise ValueError(f"clips = {self.clips} must be at least 1 and split = {self.split!r} one of {splits}")
        if self.source not in SOURCES or (self.source == "corpus") != bool(self.corpus):
            raise ValueError(
                f"source = {self.source!r} must be one of {', '.join(SOURCES)}, and corpus names the folder or the Hub "
                "dataset where it is corpus"
            )
        if self.window_seconds < 6:
            raise ValueError(
                f"window_seconds = {self.window_seconds}: a script with eight tags takes six seconds or more"
            )


def build(folder: Path, name: str, config: DataConfig, workers: int | None = None) -> "Clips":
    """Speak `config.clips` scripts into `folder` as shards called `name`; those already there are kept."""
    from tqdm import tqdm

    folder.mkdir(parents=True, exist_ok=True)
    counts = [min(SHARD, config.clips - start) for start in range(0, config.clips, SHARD)]
    missing = [(k, n) for k, n in enumerate(counts) if not (folder / f"{name}-{k:04d}.jsonl").exists()]
    with (
        ProcessPoolExecutor(workers or loop.cores(), initializer=loop.end_with_parent) as pool,
        tqdm(
            total=config.clips,
            desc=f"speak {name}",
            unit="clip",
            initial=config.clips - sum(n for _, n in missing),
        ) as bar,
    ):
        jobs = [pool.submit(_build_shard, folder, name, k, n, config) for k, n in missing]
        for job in jobs:
            bar.update(job.result())
    return Clips.load(folder, name)


def _build_shard(folder: Path, name: str, index: int, count: int, config: DataConfig) -> int:
    rng = random.Random(f"{config.seed}/{name}/{index}")
    return write_shard(folder, f"{name}-{index:04d}", itertools.islice(_performances(rng, config), count), config)


@dataclass(frozen=True)
class Spoken:
    """What is known of a clip beside its waveform; see `Clip`."""

    text: str
    slice: str
    domain: str
    voice: str
    held_out_voice: bool
    seed: int


def write_shard(folder: Path, stem: str, spoken: Iterable[tuple[Spoken, np.ndarray]], config: DataConfig) -> int:
    """Write clips with their waveforms (T,) as the shard `stem`; how many there were."""
    import soundfile
    from transformers import WhisperFeatureExtractor

    torch.set_num_threads(1)  # the pool has a process for every core
    extractor = WhisperFeatureExtractor(feature_size=128, chunk_length=config.window_seconds, hop_length=config.hop)
    clips, mels = [], []
    for about, waveform in spoken:
        mel = log_mel([levelled(waveform)], config.window_seconds * SAMPLE_RATE, extractor)[0].numpy()  # (128, F)
        mel = mel[:, : len(waveform) // config.hop + 2].T.astype(
            np.float16
        )  # beyond the waveform there is only the floor
        identity = f"{stem}-{len(clips):03d}"
        audio = None
        if config.keep_audio:
            audio = f"{identity}.flac"
            soundfile.write(folder / audio, waveform, SAMPLE_RATE, subtype="PCM_16")
        seconds = round(len(waveform) / SAMPLE_RATE, 3)
        clips.append(Clip(identity, **vars(about), seconds=seconds, frames=len(mel), audio=audio))
        mels.append(mel)
    np.save(folder / f"{stem}.npy", np.concatenate(mels))
    # The manifest is written last and renamed into place: a shard with a manifest is whole.
    partial = folder / f"{stem}.partial"
    partial.write_text("".join(json.dumps(asdict(clip)) + "\n" for clip in clips), encoding="utf-8")
    partial.rename(folder / f"{stem}.jsonl")
    return len(clips)


def _performances(rng: random.Random, config: DataConfig) -> Iterator[tuple[Spoken, np.ndarray]]:
    """Scripts with their voices, and waveforms. What does not fit the window is drawn again, of the same slice and from
    the same kind of voice: shares hold, that of held-out voices to the clip."""
    for number in itertools.count():
        kind = config.slices.draw(rng)
        held_out = int((number + 1) * config.held_out_share) > int(number * config.held_out_share)
        while (performance := _performance(rng, kind, held_out, config)) is None:
            pass
        script, voice, seed, waveform = performance
        yield Spoken(script.text, script.slice, script.domain, voice, is_held_out(voice), seed), waveform


def _performance(
    rng: random.Random, kind: str, held_out: bool, config: DataConfig
) -> tuple[tagged_texts.Script, str, int, np.ndarray] | None:
    from_bank = config.natural > 0 and rng.random() < config.natural
    script, voice, seed, waveform = (
        _from_bank(rng, kind, config) if from_bank else _embedded(rng, kind, held_out, config)
    )
    if config.microphone and rng.random() < config.microphone:
        others = [rng.choice(_bank(config.banks).items).waveform() for _ in range(4)] if config.banks else ()
        waveform = augment.microphone(waveform, np.random.default_rng(seed), others)
    elif config.augment:
        waveform = augment.roomy(waveform, np.random.default_rng(seed))
    waveform = levelled(waveform)  # as the engine does in use
    fits = len(waveform) <= (config.window_seconds - 0.1) * SAMPLE_RATE
    return (script, voice, seed, waveform) if fits else None


@cache
def _bank(names: tuple[str, ...]) -> bank.Bank:
    found = bank.Bank.load(*names)
    if not found.items:
        raise RecipeError(f"There is no bank {', '.join(names)} in {bank.folder()}: run the stage `bank` first.")
    return found


def _from_bank(rng: random.Random, kind: str, config: DataConfig) -> tuple[tagged_texts.Script, str, int, np.ndarray]:
    """A script of sentences that the bank has in one voice."""
    voices = _bank(config.banks)
    if config.spliced and rng.random() < config.spliced:
        items = voices.of_like_voices(rng)
        text, waveform = splice.spliced(rng, items, config.window_seconds - 1.0)
        return tagged_texts.Script(text, "plain", "spliced"), items[0].voice, rng.getrandbits(31), waveform
    script, items = voices.script(rng, kind, config.window_seconds - 2.5, config.stress)
    paused = config.long_pauses > 0 and rng.random() < config.long_pauses
    script = tagged_texts.with_pauses(script) if paused else script
    seed = rng.getrandbits(31)
    waveform = voices.perform(script, items, seed, config.varied)
    return script, items[0].voice, seed, augment.longer_pauses(waveform, seed) if paused else waveform


def _embedded(
    rng: random.Random, kind: str, held_out: bool, config: DataConfig
) -> tuple[tagged_texts.Script, str, int, np.ndarray]:
    """A script in the embedded voice."""
    # Whispers and the pace of slow voices take room: about 11.5 characters fit into a second.
    paused = config.long_pauses > 0 and rng.random() < config.long_pauses
    room = int(11.5 * (config.window_seconds - 4 * paused))
    drawn = (tagged_texts.write(rng, kind, config.split, config.sources, room, config.stress) for _ in range(4))
    # Most scripts are too short to have several pauses: of four, the one with the most.
    script = max(map(tagged_texts.with_pauses, drawn), key=tagged_texts.pauses) if paused else next(drawn)
    known = VARIANTS + FURTHER if config.further_voices else VARIANTS
    accent = rng.choices(list(ACCENTS), list(ACCENTS.values()))[0]
    voice = f"{accent}+{rng.choice([v for v in known if (v in HELD_OUT) == held_out])}"
    seed = rng.getrandbits(31)
    waveform = speech.speak(script.text, voice, seed).waveform
    return script, voice, seed, augment.longer_pauses(waveform, seed) if paused else waveform


def is_held_out(voice: str) -> bool:
    """Whether a voice, or a part of its mixture, is one that training never hears."""
    kind, _, name = voice.partition(":")
    if name:
        return kind == "natural" and not kokoro.heard_in(name).isdisjoint(kokoro.HELD_OUT)
    return voice.partition("+")[2] in HELD_OUT


class Clips:
    """The clips of a folder, with their log-mels read from disk as they are asked for.

    shards: files of log-mels. places: per clip, its shard and first frame there. Cheap to send to another process.
    """

    def __init__(self, folder: Path, clips: list[Clip], places: list[tuple[int, int]], shards: list[Path]) -> None:
        self.folder, self.clips, self._places, self.shards = folder, clips, places, shards

    @classmethod
    def load(cls, folder: Path, name: str) -> "Clips":
        return cls.of_shards(folder, sorted(path.with_suffix(".npy") for path in folder.glob(f"{name}-*.jsonl")))

    @classmethod
    def of_shards(cls, folder: Path, shards: list[Path]) -> "Clips":
        clips, places = [], []
        for k, shard in enumerate(shards):
            start = 0
            for line in shard.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines():
                clip = Clip(**json.loads(line))
                clips.append(clip)
                places.append((k, start))
                start += clip.frames
        return cls(folder, clips, places, shards)

    @classmethod
    def joined(cls, parts: list["Clips"]) -> "Clips":
        """Several sets as one. They share a folder."""
        clips, places, shards = [], [], []
        for part in parts:
            places += [(shard + len(shards), start) for shard, start in part._places]
            clips += part.clips
            shards += part.shards
        return cls(parts[0].folder, clips, places, shards)

    def only(self, wanted: list[bool]) -> "Clips":
        """The clips whose entry is true."""
        pairs = [(c, p) for c, p, keep in zip(self.clips, self._places, wanted, strict=True) if keep]
        return Clips(self.folder, [c for c, _ in pairs], [p for _, p in pairs], self.shards)

    def at(self, indices: Sequence[int]) -> "Clips":
        """The clips at some places, in that order; one may be there several times."""
        return Clips(self.folder, [self.clips[i] for i in indices], [self._places[i] for i in indices], self.shards)

    def first(self, count: int) -> "Clips":
        """The first `count` of them, or all if there are fewer."""
        return Clips(self.folder, self.clips[:count], self._places[:count], self.shards)

    def __len__(self) -> int:
        return len(self.clips)

    def mel(self, index: int) -> np.ndarray:
        """(frames, 128) float16."""
        return self.beside(index, ".npy")

    def beside(self, index: int, suffix: str) -> np.ndarray:
        """The clip's frames of the array that lies beside the shard of its log-mels, which has a row for each."""
        shard, start = self._places[index]
        return _frames(self.shards[shard].with_suffix(suffix))[start : start + self.clips[index].frames]


@cache
def _frames(file: Path) -> np.ndarray:
    return np.load(file, mmap_mode="r")


@dataclass(frozen=True)
class Batch:
    """What one step reads.

    mels: (B, 128, frames) float32. prompt: (L,). text: (B, T) ids given to the model after the prompt.
    labels: (B, T + 1) ids to predict, IGNORE where there is nothing to learn.
    """

    mels: torch.Tensor
    prompt: torch.Tensor
    text: torch.Tensor
    labels: torch.Tensor

    def rows(self, first: int, count: int) -> "Batch":
        """Some clips of it; texts end with the longest of them, rounded up as before."""
        labels = self.labels[first : first + count]
        longest = int((labels != IGNORE).sum(dim=1).max()) - 1
        length = -(-longest // TOKENS) * TOKENS
        text = self.text[first : first + count, :length]
        return Batch(self.mels[first : first + count], self.prompt, text, labels[:, : length + 1])

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(tensor.to(device) for tensor in (self.mels, self.prompt, self.text, self.labels)))


class Collator:
    """The one place where clips become tensors.

    The loss is on the text and its end only.
    """

    def __init__(self, clips: Clips, prompt: Prompt) -> None:
        self.clips, self.prompt = clips, prompt

    def __call__(
        self,
        indices: list[int],
        prompt: list[int],
        texts: list[str],
        full_window: bool = True,
        rng: np.random.Generator | None = None,
    ) -> Batch:
        """indices: of the clips. prompt: ids for a full window, from Prompt. texts: the targets. Rest: see `mels`."""
        mels = self.mels(indices, full_window, rng)
        tokens = mels.shape[2] * self.prompt.audio_tokens // self.prompt.window_frames
        return Batch(mels, self.cropped(prompt, tokens), *self.targets(texts))

    def mels(
        self, indices: list[int], full_window: bool = True, rng: np.random.Generator | None = None
    ) -> torch.Tensor:
        """Log-mels (B, 128, frames), padded with what the processor makes of silence: the clip's maximum less 2.

        full_window: as in use; otherwise the batch ends with its longest clip, which costs about half.
        rng: speak each clip a little differently, see `vary`.
        """
        mels = [self.clips.mel(i) for i in indices]
        if rng:
            mels = [augment.vary(mel, rng, self.prompt.window_frames)[0] for mel in mels]
        return self.padded(mels, full_window)

    def padded(self, mels: Sequence[np.ndarray], full_window: bool) -> torch.Tensor:
        """As `mels`, of log-mels (F, 128) each."""
        window = self.prompt.window_frames
        longest = max(map(len, mels))
        frames = window if full_window else min(window, -(-longest // FRAMES) * FRAMES)
        out = np.empty((len(mels), frames, 128), np.float32)
        for row, mel in zip(out, mels, strict=True):
            mel = mel[:frames].astype(np.float32)
            floor = mel.max() - 2  # the extractor clamps at 8 decades under the maximum, then divides by 4
            row[len(mel) :] = floor
            np.maximum(mel, floor, out=row[: len(mel)])
        return torch.from_numpy(out).transpose(1, 2).contiguous()

    def cropped(self, prompt: list[int], tokens: int) -> torch.Tensor:
        """The prompt of a full window with only `tokens` audio ids in it."""
        first = prompt.index(self.prompt.audio_id)
        rest = prompt[first + self.prompt.audio_tokens :]
        return torch.tensor(prompt[:first] + [self.prompt.audio_id] * tokens + rest)

    def targets(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Text ids (B, T) and labels (B, T + 1) with the end of sequence."""
        rows = [self.prompt.encode(text) for text in texts]
        length = -(-max(len(row) for row in rows) // TOKENS) * TOKENS
        text = torch.full((len(rows), length), self.prompt.eos_id)
        labels = torch.full((len(rows), length + 1), IGNORE)
        for i, row in enumerate(rows):
            text[i, : len(row)] = torch.tensor(row, dtype=torch.long)
            labels[i, : len(row) + 1] = torch.tensor([*row, self.prompt.eos_id])
        return text, labels


def batches(clips: Clips, size: int, seed: int, indices: Sequence[int] | None = None) -> list[list[int]]:
    """One epoch in batches of `size` clips; like lengths together, order shuffled. indices: the clips, None for all."""
    rng = random.Random(seed)
    order = list(range(len(clips)) if indices is None else indices)
    rng.shuffle(order)
    pool = 40 * size  # sorted among themselves: never the same neighbours
    out: list[list[int]] = []
    for start in range(0, len(order), pool):
        alike = sorted(order[start : start + pool], key=lambda i: clips.clips[i].frames)
        out += [alike[i : i + size] for i in range(0, len(alike), size)]
    rng.shuffle(out)
    return out


def batches_of_frames(clips: Clips, frames: int, seed: int, indices: Sequence[int] | None = None) -> list[list[int]]:
    """One epoch in batches of about `frames` mel frames; like lengths together, order shuffled.

    Clips whose length rounds to the same multiple of FRAMES always make batches of the same size: a CPU compiles its
    products anew for every shape, which costs more than a step. What does not fill a batch goes to the next length.
    """
    rng = random.Random(seed)
    order = list(range(len(clips)) if indices is None else indices)
    rng.shuffle(order)
    alike: dict[int, list[int]] = {}
    for index in order:
        alike.setdefault(-(-clips.clips[index].frames // FRAMES), []).append(index)
    out: list[list[int]] = []
    rest: list[int] = []
    for length in sorted(alike):
        waiting = rest + alike[length]
        size = max(1, frames // (length * FRAMES))
        whole = len(waiting) // size * size
        out += [waiting[i : i + size] for i in range(0, whole, size)]
        rest = waiting[whole:]
    out += [rest] if rest else []
    rng.shuffle(out)
    return out

"""A bank of sentences in natural voices: spoken once, plainly, and performed many times.

Kokoro needs two thirds of a second of a core for a second of speech, the deliveries of `evoxtral.speech.deliveries` a
twentieth: so plain sentences are kept, and scripts are made of those of one voice, each time with another pitch, vocal
tract, delivery, sound and stress. A shard is `NAME-0007.npy` (int16 at 16 kHz, one sentence after another) and
`NAME-0007.jsonl` (a row each), and depends on its name and the seed alone. The bank lies in the user's
cache, where every run finds it.
"""

import json
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np

from evoxtral import speech
from evoxtral.audio import SAMPLE_RATE
from evoxtral.errors import SpeechError
from evoxtral.speech import deliveries, flite, kokoro, natural_voices, piper
from training import loop, tagged_texts
from training.lexicon import WORDS
from training.tagged_texts import Script, Sentence, Sources

SHARD = 50  # utterances, of one to four sentences
CHARACTERS = 95  # of an utterance: the silence around it is spoken too, and longer ones lose less to it
TRAINING = tuple(name for name in kokoro.VOICES if name not in kokoro.HELD_OUT)
HELD_OUT = tuple(sorted(kokoro.HELD_OUT))
SLOTS = ("plain", "light", "moderate", "dense", "edge")


@dataclass(frozen=True)
class BankConfig:
    """What to speak, in utterances by engine. name: of its files. split: of the sentences; "ordinary": those of
    words/ordinary.txt.

    held_out: the six voices that training never hears, instead of all others and mixtures of them.
    """

    name: str = "train"
    natural: int = 0
    piper: int = 0
    flite: int = 0
    split: str = "train"
    held_out: bool = False
    seed: int = 42
    sources: Sources = Sources(frames=0.5, open=0.42, words=0.08)  # noqa: RUF009 - frozen


@dataclass(frozen=True)
class Item:
    """A sentence as spoken. times: (words, 2) s. audio: shard and first sample there, and how many samples."""

    sentence: Sentence
    times: tuple[tuple[float, float], ...]
    voice: str
    female: bool
    accent: str
    domain: str
    audio: tuple[Path, int, int]

    @property
    def seconds(self) -> float:
        return self.audio[2] / SAMPLE_RATE

    def waveform(self) -> np.ndarray:
        """(T,) float32."""
        shard, first, count = self.audio
        return _samples(shard)[first : first + count].astype(np.float32) / 32768


@cache
def _samples(shard: Path) -> np.ndarray:
    return np.load(shard, mmap_mode="r")


def folder() -> Path:
    """Where the bank lies: beside the voices' own tables."""
    return kokoro.tables().parent / "bank"


# --- speaking ---------------------------------------------------------------------------------------------------------


def build(config: BankConfig, workers: int | None = None) -> "Bank":
    """Speak what is missing of a bank; what is there is kept. Raises SpeechError when a voice is not installed."""
    from tqdm import tqdm

    folder().mkdir(parents=True, exist_ok=True)
    jobs = []
    for engine in ("natural", "piper", "flite"):
        for k, start in enumerate(range(0, getattr(config, engine), SHARD)):
            stem = f"{config.name}-{engine}-{k:04d}"
            if not (folder() / f"{stem}.jsonl").exists():
                jobs.append((stem, engine, min(SHARD, getattr(config, engine) - start), k * SHARD))
    for engine in {engine for _, engine, _, _ in jobs}:
        if complaint := {"natural": kokoro, "piper": piper, "flite": flite}[engine].missing():
            raise SpeechError(complaint)
    with (
        ProcessPoolExecutor(workers or loop.cores(), initializer=loop.end_with_parent) as pool,
        tqdm(total=sum(count for _, _, count, _ in jobs), desc=f"speak bank {config.name}", unit="utterance") as bar,
    ):
        for done in [pool.submit(_build_shard, *job, config) for job in jobs]:
            bar.update(done.result())
    return Bank.load(config.name)


def _build_shard(stem: str, engine: str, count: int, first: int, config: BankConfig) -> int:
    rng = random.Random(f"{config.seed}/{stem}")
    rows, waveforms = [], []
    for number in range(first, first + count):
        domain, sentences = _utterance(rng, number, config)
        voice = _voice(rng, engine, number, config.held_out)
        read = natural_voices.reader(voice, rng.uniform(0.9, 1.25)).read
        waveform, times = read([word for sentence in sentences for word in sentence.words])
        for sentence, piece, spans in _cut(sentences, waveform, times):
            waveforms.append((np.clip(piece, -1, 1) * 32767).astype(np.int16))
            rows.append(
                {
                    "words": sentence.words, "stressable": sentence.stressable, "moods": sentence.moods,
                    "times": np.round(spans, 3).tolist(), "voice": voice, "female": _female(voice),
                    "accent": accent(voice), "n": len(piece), "domain": domain,
                }
            )  # fmt: skip
    np.save(folder() / f"{stem}.npy", np.concatenate(waveforms))
    partial_ = folder() / f"{stem}.partial"
    partial_.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    partial_.rename(folder() / f"{stem}.jsonl")
    return count


def _utterance(rng: random.Random, number: int, config: BankConfig) -> tuple[str, list[Sentence]]:
    if config.split == "ordinary":
        sentences = ordinary()
        return "ordinary", [sentences[(2 * number + k) % len(sentences)] for k in range(2)]
    domain, sentences = rng.choice(tagged_texts.domains()), []
    while sum(len(sentence.plain) for sentence in sentences) < CHARACTERS:
        sentences.append(tagged_texts.sentence_of(rng, config.split, domain, config.sources))
    return domain, sentences


@cache
def ordinary() -> tuple[Sentence, ...]:
    """Sentences that no generator of this project writes; never trained on."""
    lines = (WORDS / "ordinary.txt").read_text(encoding="utf-8").splitlines()
    return tuple(Sentence(tuple(line.split()), (), ()) for line in lines if not line.startswith("#"))


def _voice(rng: random.Random, engine: str, number: int, held_out: bool) -> str:
    """Six in ten of the natural voices are as they come, the others mixtures and swaps of two: new speakers."""
    if engine != "natural":
        return f"{engine}:{rng.choice(sorted((piper if engine == 'piper' else flite).VOICES))}"
    if held_out:
        return f"natural:{HELD_OUT[number % len(HELD_OUT)]}"
    one, other = rng.sample(TRAINING, 2)
    u = rng.random()
    if u < 0.6:
        return f"natural:{one}"
    if u < 0.85:
        share = rng.choice((0.3, 0.4, 0.5, 0.6, 0.7, 1.25))
        return f"natural:{one}@{share}+{other}@{round(1 - share, 2)}"
    return f"natural:{one}/{other}"


def accent(voice: str) -> str:
    """espeak-ng's name for the accent of any voice, for its phonemes."""
    kind, _, name = voice.partition(":")
    if not name:
        return voice.partition("+")[0]
    british = kokoro.BRITISH["female"] + kokoro.BRITISH["male"]
    return "en-gb-x-rp" if kind == "natural" and kokoro.first(name) in british else "en-us"


def _main(voice: str) -> str:
    """A voice without what is mixed into it."""
    kind, _, name = voice.partition(":")
    return f"natural:{kokoro.first(name)}" if kind == "natural" else voice


def _female(voice: str) -> bool:
    kind, _, name = voice.partition(":")
    if kind == "natural":
        return kokoro.first(name) in kokoro.AMERICAN["female"] + kokoro.BRITISH["female"]
    return (piper if kind == "piper" else flite).VOICES[name] == "female"


def _cut(
    sentences: list[Sentence], waveform: np.ndarray, times: np.ndarray
) -> Iterator[tuple[Sentence, np.ndarray, np.ndarray]]:
    """An utterance in its sentences, with times from the begin of each."""
    at = 0
    for sentence in sentences:
        end = at + len(sentence.words)
        before = times[at - 1, 1] if at else 0.0
        after = times[end, 0] if end < len(times) else len(waveform) / SAMPLE_RATE
        first = max(times[at, 0] - 0.05, (before + times[at, 0]) / 2)
        last = min(times[end - 1, 1] + 0.1, (times[end - 1, 1] + after) / 2)
        yield sentence, waveform[int(first * SAMPLE_RATE) : int(last * SAMPLE_RATE)], times[at:end] - first
        at = end


# --- performing -------------------------------------------------------------------------------------------------------


class Bank:
    """Sentences by voice. Cheap to send to another process."""

    def __init__(self, items: list[Item]) -> None:
        self.items = items
        self.by_voice: dict[str, list[Item]] = {}
        for item in items:
            self.by_voice.setdefault(item.voice, []).append(item)
        self._voices = list(self.by_voice)
        self._like: dict[str, list[Item]] = {}  # by the voice that a mixture begins with
        self._weights = [len(found) ** 0.5 for found in self.by_voice.values()]  # a rare voice is heard as well

    @classmethod
    def load(cls, *names: str) -> "Bank":
        """The banks of these names, as one."""
        items = []
        for name in names:
            for manifest in sorted(folder().glob(f"{name}-*.jsonl")):
                first = 0
                for line in manifest.read_text(encoding="utf-8").splitlines():
                    row = json.loads(line)
                    sentence = Sentence(tuple(row["words"]), tuple(row["stressable"]), tuple(row["moods"]))
                    times = tuple(map(tuple, row["times"]))
                    audio = manifest.with_suffix(".npy"), first, row["n"]
                    items.append(
                        Item(sentence, times, row["voice"], row["female"], row["accent"], row["domain"], audio)
                    )
                    first += row["n"]
        return cls(items)

    def of_one_voice(self, rng: random.Random) -> list[Item]:
        """All sentences of a voice that is drawn."""
        return self.by_voice[rng.choices(self._voices, self._weights)[0]]

    def of_like_voices(self, rng: random.Random) -> list[Item]:
        """All sentences of a voice and its mixtures: enough to make many others of, see training/splice.py."""
        if not self._like:
            for item in self.items:
                self._like.setdefault(_main(item.voice), []).append(item)
        weights = [len(items) ** 0.5 for items in self._like.values()]
        return self._like[rng.choices(list(self._like), weights)[0]]

    def script(self, rng: random.Random, kind: str, seconds: float, stress: float) -> tuple[Script, list[Item]]:
        """A tagged script of one slice in sentences that one voice has spoken, and those. seconds: most of words."""
        own = self.of_one_voice(rng)
        if kind == "edge" and rng.random() < 0.5:
            sounds = rng.sample(tagged_texts.SOUNDS[:-1], rng.randint(1, 2))
            return Script(" ".join(f"[{sound}]" for sound in sounds), kind, "open"), [rng.choice(own)]
        count = rng.randint(*tagged_texts.TAG_RANGE.get(kind, (0, 2)))
        chosen, left = [], seconds - 0.5 * count
        for item in rng.sample(own, min(len(own), 1 + (count > 4) + rng.choice((0, 0, 1, 1, 2)))):
            if not chosen or item.seconds < left:
                chosen.append(item)
                left -= item.seconds
        count = min(count, 4 * len(chosen))
        text = tagged_texts.tagged(rng, [item.sentence for item in chosen], count, stress)
        return Script(text, kind, chosen[0].domain), chosen

    def perform(self, script: Script, items: list[Item], seed: int, varied: bool) -> np.ndarray:
        """A script of `script`, (T,) float32. varied: another speaker with every seed, of the same voice."""
        rng = np.random.default_rng(seed)
        timbre = deliveries.Timbre()
        if varied and rng.random() < 0.7:  # pitch and tract go together, mostly (Patel et al. 2010)
            tract = rng.uniform(0.88, 1.14)
            timbre = deliveries.Timbre(float(tract ** rng.uniform(0.5, 2.5)), float(tract))
        reader = natural_voices.Reader(partial(_next, _Cursor(items)), items[0].female)
        return speech.perform(script.text, natural_voices.NaturalSpeaker(reader, rng, timbre), rng).waveform


class _Cursor:
    """The words of some sentences, taken one after another."""

    def __init__(self, items: list[Item]) -> None:
        self.items, self.item, self.word = items, 0, 0


def _next(at: _Cursor, words: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The next words' stretch of a sentence, and their times in it. Phrases never go beyond one."""
    item = at.items[at.item]
    times = np.array(item.times)
    first, last = at.word, at.word + len(words)
    begin = (times[first - 1, 1] + times[first, 0]) / 2 if first else 0.0
    end = (times[last - 1, 1] + times[last, 0]) / 2 if last < len(times) else item.seconds
    at.item, at.word = (at.item, last) if last < len(times) else (at.item + 1, 0)
    return item.waveform()[int(begin * SAMPLE_RATE) : int(end * SAMPLE_RATE)], times[first:last] - begin

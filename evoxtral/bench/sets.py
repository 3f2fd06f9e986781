"""The sets of the bench: ladders whose rungs are ever harder, texts that mislead, people, and controls.

Texts, voices and seeds of the embedded voice are in `assets/bench/texts.jsonl` (`training/ladders.py` writes it:
held-out sentences, half of them in held-out voices). What is done to a clip depends on the seed, the set and the
clip's number only: the rungs of a ladder have the same clips with the same noise, so that they compare in pairs.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np

from evoxtral import audio, speech
from evoxtral.audio import SAMPLE_RATE
from evoxtral.bench import recordings
from evoxtral.errors import EvoxtralError, RecipeError

TEXTS = Path(__file__).parents[1] / "assets" / "bench" / "texts.jsonl"
NATURAL = ("sky", "liam", "lily", "puck", "nova", "daniel")  # that no model of this project was trained on
GAP = 0.4  # s between two speakers who take turns
BABBLE = 5  # clips of others to draw a babble from
DISTANCE = 1.5  # m from the microphone, in rooms
Effect = Callable[[np.ndarray, np.random.Generator, int], np.ndarray]  # waveform, generator, number of the clip


class BenchError(EvoxtralError):
    """A set that does not exist, a folder that is none, or results of another run."""


@dataclass(frozen=True)
class Clip:
    """One clip of a rung. reference: tagged text.

    sound: a file, a function that gives the waveform (T,) at 16 kHz, or None where the model gets the text alone.
    """

    set: str
    rung: str
    number: int
    reference: str
    sound: Path | Callable[[], np.ndarray] | None

    @property
    def id(self) -> str:
        return f"{self.set}/{self.rung}/{self.number:04d}"


@dataclass(frozen=True)
class Set:
    """about: one sentence. rungs: the easiest first."""

    about: str
    rungs: tuple[str, ...]


SETS = {
    "clean": Set("scripts in the embedded voice, as they are", ("as spoken",)),
    "noise": Set("babble, street and fan in turns, at a ratio to the speech", ("20 dB", "10 dB", "5 dB", "0 dB")),
    "room": Set("a room that rings for so long (RT60), 1.5 m away", ("0.2 s", "0.4 s", "0.6 s", "0.8 s")),
    "telephone": Set("telephone lines and codecs", ("8 kHz", "GSM", "Opus 8 kb/s")),
    "pace": Set("faster and slower at the same pitch", ("0.8 ×", "0.9 ×", "1.1 ×", "1.2 ×", "1.3 ×")),
    "level": Set("quieter, and driven into clipping", ("−20 dB", "−40 dB", "−60 dB", "+12 dB, clipped")),
    "speakers": Set("two speakers in turns, or one behind the other", ("in turns", "10 dB below", "5 dB below")),
    "unusual": Set("tags inside sentences, before single words, two at once", ("unusual places",)),
    "contradict": Set("tags that contradict the words", ("against the words",)),
    "dense": Set("eight tags and more", ("8 or more",)),
    "pairs": Set("the same words twice with another tag", ("minimal pairs",)),
    "plain": Set("speech that must get no tag", ("plain",)),
    "natural": Set("the scripts of clean in six natural voices, held out", ("natural voices",)),
    "people": Set("recordings of people from Debian packages", ("one woman's prompts", "13 actors")),
    "controls": Set(
        "the clips of clean: what is left without hearing them", ("another clip's audio", "hiss", "text alone")
    ),
}
GROUPS = {"all": tuple(SETS), "ladders": tuple(name for name in SETS if name != "controls")}
OPTIONAL = ("natural", "people")  # they need packages; left out of a group where those are missing


@dataclass(frozen=True)
class Text:
    """A line of TEXTS: tagged text, a voice of the embedded speech, and its seed."""

    set: str
    text: str
    voice: str
    seed: int

    def spoken(self) -> np.ndarray:
        return speech.speak(self.text, self.voice, self.seed).waveform


@cache
def texts(name: str) -> tuple[Text, ...]:
    """Those of a set; of one without texts of its own, those of clean."""
    lines = [Text(**json.loads(line)) for line in TEXTS.read_text(encoding="utf-8").splitlines()]
    return tuple(t for t in lines if t.set == name) or tuple(t for t in lines if t.set == "clean")


def missing(name: str) -> str | None:
    """What a set needs and is not installed; None where it can be built."""
    if name == "natural":
        from evoxtral.speech import natural_voices

        return natural_voices.missing("natural:sky")
    if name == "people":
        try:
            recordings.prompts(least=1000), recordings.actors(1)
        except RecipeError as error:
            return str(error)
    return None


def clips(name: str, limit: int | None = None, seed: int = 0) -> Iterator[Clip]:
    """The clips of a set, rung by rung. limit: clips of each rung at most. Raises BenchError."""
    if complaint := missing(name):
        raise BenchError(f"The set {name} cannot be built. {complaint}")
    if name == "people":
        yield from _people(limit)
        return
    items = texts(name)[:limit]
    for rung in SETS[name].rungs:
        for number, item in enumerate(items):
            make = partial(_make, name, rung, number, seed)
            yield Clip(name, rung, number, _reference(name, rung, number, item), None if rung == "text alone" else make)


def _people(limit: int | None) -> Iterator[Clip]:
    found = recordings.prompts()[:limit], recordings.actors(300 if limit is None else limit)
    for rung, some in zip(SETS["people"].rungs, found, strict=True):
        for number, one in enumerate(some):
            yield Clip("people", rung, number, one.text, partial(np.asarray, one.waveform))


def _reference(name: str, rung: str, number: int, item: Text) -> str:
    return f"{item.text} {_other(name, number).text}" if rung == "in turns" else item.text


def _other(name: str, number: int, step: int = 0) -> Text:
    """Another clip of the same texts, in a voice that is another's where there is one."""
    every = texts(name)
    own = every[number].voice.partition("+")[2]
    start = number + len(every) // 2 + 7 * step
    candidates = (every[(start + k) % len(every)] for k in range(len(every) - 1))
    return next((one for one in candidates if one.voice.partition("+")[2] != own), every[start % len(every)])


def _make(name: str, rung: str, number: int, seed: int) -> np.ndarray:
    """The waveform (T,) float32 of one clip."""
    rng = np.random.default_rng([seed, int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest()), number])
    if name == "controls":
        every = texts(name)
        if rung.startswith("another"):
            return every[(number + len(every) // 2) % len(every)].spoken()
        return _hiss(rng, len(every[number].spoken()))
    if name == "natural":
        return _natural(texts(name)[number], NATURAL[number % len(NATURAL)])
    waveform = texts(name)[number].spoken()
    effect = EFFECTS.get(name)
    return np.clip(effect(waveform, rng, number, rung), -1, 1).astype(np.float32) if effect else waveform


def _hiss(rng: np.random.Generator, count: int) -> np.ndarray:
    """Noise of an open microphone, at −40 dBFS: digital silence never reaches a model."""
    return (0.01 * rng.standard_normal(count)).astype(np.float32)


def _natural(item: Text, voice: str) -> np.ndarray:
    """Spoken once, kept in the user's cache: a second of it costs two thirds of a second."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "evoxtral" / "bench"
    name = hashlib.blake2b(f"{item.text}|{voice}|{item.seed}".encode(), digest_size=12).hexdigest()
    path = home / f"{name}.wav"
    if not path.is_file():
        home.mkdir(parents=True, exist_ok=True)
        partial_path = home / f"{name}.{os.getpid()}.wav"
        audio.save(partial_path, speech.speak(item.text, f"natural:{voice}", item.seed).waveform)
        partial_path.replace(path)
    return audio.load(path)


# ------------------------------------------------------------------------------------------------- what is done


def _noisy(waveform, rng, number, rung):
    from evoxtral.speech import acoustics

    kind = ("babble", "street", "fan")[number % 3]
    if kind == "babble":
        others = [_other("clean", number % len(texts("clean")), step).spoken() for step in range(BABBLE)]
        other = acoustics.babble(rng, len(waveform), others)
    else:
        other = getattr(acoustics, kind)(rng, len(waveform))
    mixed = acoustics.mixed(waveform.astype(np.float64), other, float(rung.split()[0]))
    return mixed / max(1.0, float(np.abs(mixed).max()))


def _in_room(waveform, rng, number, rung):
    from evoxtral.speech import acoustics

    rung_out = acoustics.reverberant(waveform, acoustics.room(rng, float(rung.split()[0]), DISTANCE))
    return acoustics.peak(rung_out, float(np.abs(waveform).max()))


def _telephoned(waveform, rng, number, rung):
    from evoxtral.speech import acoustics

    if rung == "8 kHz":
        return acoustics.narrowband(waveform)
    return acoustics.gsm(waveform) if rung == "GSM" else acoustics.opus(waveform, 8, rng)


def _paced(waveform, rng, number, rung):
    from evoxtral.speech import acoustics

    return acoustics.paced(waveform, float(rung.split()[0]))


def _levelled(waveform, rng, number, rung):
    return waveform * 10 ** (float(rung.split()[0].replace("−", "-")) / 20)


def _with_another(waveform, rng, number, rung):
    from evoxtral.speech import acoustics

    other = _other("speakers", number).spoken()
    if rung == "in turns":
        return np.concatenate([waveform, np.zeros(int(GAP * SAMPLE_RATE), np.float32), other])
    mixed = acoustics.mixed(waveform, acoustics.fitted(other, len(waveform)), float(rung.split()[0]))
    return mixed / max(1.0, float(np.abs(mixed).max()))


EFFECTS = {
    "noise": _noisy, "room": _in_room, "telephone": _telephoned, "pace": _paced, "level": _levelled,
    "speakers": _with_another,
}  # fmt: skip


# ------------------------------------------------------------------------------------------------- folders


def folder(path: Path, limit: int | None = None) -> list[Clip]:
    """The clips of a folder: metadata.jsonl has a line {"file_name": "…", "text": "…"} for each. Raises BenchError."""
    listed = path / "metadata.jsonl"
    shape = 'a line {"file_name": "…", "text": "…"} for each recording'
    try:
        lines = listed.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        raise BenchError(f"{path} has no metadata.jsonl: it needs {shape}.") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise BenchError(f"{listed} cannot be read: {reason}.") from None
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            match json.loads(line):
                case {"file_name": str(name), "text": str(text)}:
                    pass
                case _:
                    raise ValueError
        except (ValueError, RecursionError):
            raise BenchError(f"{listed}, line {number} is not as it should be: {shape}.") from None
        if not (path / name).is_file():
            raise BenchError(f"{listed}, line {number} names {name}, which is not in {path}.")
        found.append(Clip(path.resolve().name, "all", len(found), text, path / name))
    if not found:
        raise BenchError(f"{listed} has no lines: it needs {shape}.")
    return found[:limit]


def resolve(names: Sequence[str], limit: int | None = None, seed: int = 0) -> tuple[list[Clip], dict[str, str]]:
    """The clips of sets, groups and folders, and which sets a group leaves out, and why. Raises BenchError."""
    found: list[Clip] = []
    left_out = {}
    for name in dict.fromkeys(one for asked in names for one in GROUPS.get(asked, (asked,))):
        if name in SETS:
            grouped = name not in names
            if name in OPTIONAL and grouped and (complaint := missing(name)):
                left_out[name] = complaint
                continue
            found += clips(name, limit, seed)
        elif Path(name).is_dir():
            found += folder(Path(name), limit)
        else:
            known = ", ".join((*SETS, *GROUPS))
            raise BenchError(f"There is no set and no folder {name!r}; the sets are {known}.")
    if len({clip.id for clip in found}) < len(found):
        raise BenchError("Two folders have the same name: rename one, or run them one by one.")
    return found, left_out

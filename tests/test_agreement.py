"""How well a text agrees with what the encoder heard by itself."""

import math

import numpy as np
import pytest
import torch

from evoxtral import confidence, speech
from evoxtral.errors import CheckpointError
from evoxtral.inference import agreement
from evoxtral.inference.engine import Engine
from evoxtral.inference.sampling import Decoding
from evoxtral.model import checkpoints, phoneme_head
from evoxtral.speech.espeak import Espeak
from evoxtral.speech.notation import phonemes
from evoxtral.transcript import Agreement, Cue, Token, Transcript

SYMBOLS = ["a", "b", "|.", "[laughs]"]
TEXT = "The old bridge shook in the storm."


def log_probabilities(*best: int, sure: float = 0.9) -> np.ndarray:
    """(T, 5): each state is of one output with probability `sure`, the rest shared by the others."""
    out = np.full((len(best), 5), (1 - sure) / 4, np.float32)
    out[np.arange(len(best)), best] = sure
    return np.log(out)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(checkpoints.resolve("tiny"))


def test_phonemes_are_compared_and_marks_and_tags_are_not():
    heard = log_probabilities(1, 1, 0, 2, 3)  # a b |.
    assert agreement.agreement(["a", "b", "|."], heard, SYMBOLS)[:2] == (0, 2)
    assert agreement.agreement(["a", "[laughs]", "b"], heard, SYMBOLS)[:2] == (0, 2)
    assert agreement.agreement(["b", "b", "b"], heard, SYMBOLS)[:2] == (2, 3)
    assert agreement.agreement([], heard, SYMBOLS) == (2, 2, 0.0, 0)


def test_surprise_is_how_much_less_likely_the_text_is_than_the_best_path():
    heard = log_probabilities(1, 2)
    paths = 0.9 * 0.9  # a b, the only path of two symbols in two states
    assert agreement.agreement(["a", "b"], heard, SYMBOLS).surprise == pytest.approx(0.0, abs=1e-3)
    found = agreement.agreement(["b", "a"], heard, SYMBOLS)
    assert found.surprise == pytest.approx(math.log(paths / 0.025**2), abs=1e-3) and found.symbols == 2
    assert agreement.agreement(["a"] * 9, heard, SYMBOLS).surprise > 100, "more symbols than states"


def test_confidence_reads_the_share_over_all_segments():
    cues = (
        Cue(0.0, 2.0, (Token("ab", 0.9),), agreement=Agreement(1, 4, 6.0, 4)),
        Cue(2.0, 4.0, (Token(" a", 0.9),), agreement=Agreement(3, 4, 2.0, 4)),
    )
    found = dict(zip(confidence.FEATURES, confidence.features(Transcript(cues, 4.0, 0.0)), strict=True))
    assert found["phonemes_wrong"] == 0.5 and found["phoneme_surprise"] == 1.0
    alone = Transcript((Cue(0.0, 2.0, (Token("ab", 0.9),)),), 2.0, 0.0)
    assert all(map(math.isnan, confidence.features(alone)[-2:]))
    weights = (0.0,) * (len(confidence.FEATURES) - 2)
    judge = confidence.Calibration((0.0,) * 12, (1.0,) * 12, (*weights, -4.0, 0.0), 1.0, 0.5, 0.8)
    assert judge.confidence(alone) == pytest.approx(1 / (1 + math.exp(-1))), "what is not known says nothing"
    assert judge.confidence(Transcript(cues, 4.0, 0.0)) == pytest.approx(1 / (1 + math.exp(1)))
    older = confidence.Calibration((0.0,) * 10, (1.0,) * 10, weights, 1.0, 0.5, 0.8)
    assert older.confidence(Transcript(cues, 4.0, 0.0)) == judge.confidence(alone)


def test_words_that_were_spoken_agree_and_others_do_not(engine):
    waveform = speech.speak(TEXT, "en-us+f3", 1).waveform
    (batched,) = engine.batch([waveform])
    for name, transcript in engine.compare((16_000, waveform)).items():
        (cue,) = transcript.cues
        assert cue.agreement.wrong < 0.2 * cue.agreement.phonemes and cue.agreement.symbols > 20
        assert batched[name][0].cues[0].agreement.wrong == cue.agreement.wrong
    log_mel = engine.prompt.log_mel([waveform], engine.device)
    with torch.inference_mode():
        engine._prompts(engine.prompt.transcription_ids("en"), log_mel, ("base",))
    heard = engine._encoder.heard[0].float().numpy()[: int(25 * len(waveform) / 16_000) + 1]
    with Espeak() as espeak:
        said, other = (phonemes(espeak, text, "en-us") for text in (TEXT, "Where are my green shoes, grandmother?"))
    right, wrong = (agreement.agreement(symbols, heard, engine.symbols) for symbols in (said, other))
    assert wrong.wrong > 0.6 * wrong.phonemes > 3 * right.wrong
    assert wrong.surprise / wrong.symbols > 1 + right.surprise / right.symbols


def test_what_was_heard_is_not_kept_and_not_asked_for_without_times(engine):
    waveform = speech.speak(TEXT, "en-us+f3", 1).waveform
    (found,) = engine.batch([waveform], ["base"], decoding=Decoding(times=False))
    assert found["base"][0].cues[0].agreement is None
    request = engine._request([waveform], ("base",))
    for _ in engine._decode(request):
        pass
    assert request.windows[0].rows[0].heard is None and request.windows[0].rows[0].agreement


def test_a_broken_head_is_one_sentence_and_a_missing_one_is_none(tmp_path):
    assert phoneme_head.read(tmp_path) is None
    (tmp_path / phoneme_head.FILE).write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match=r"phonemes.safetensors cannot be used .*: repair it"):
        phoneme_head.read(tmp_path)

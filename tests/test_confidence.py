"""Confidence: what it reads of a transcript, how it is fitted, and what a doubtful transcript hides."""

import math

import numpy as np
import pytest

from evoxtral import confidence
from evoxtral.confidence import FEATURES, UNTUNED, Calibration
from evoxtral.transcript import Cue, Token, Transcript
from evoxtral.ui import history, status_line, view
from evoxtral.ui.view import Filter
from training import confidence as training


def transcript(*tokens: tuple[str, float | None], seconds: float = 4.0, cut: bool = False) -> Transcript:
    cues = (Cue(0.0, seconds, tuple(Token(*token) for token in tokens), cut),) if tokens else ()
    return Transcript(cues, seconds, 0.1)


SURE = transcript(("Hello", 0.99), (" wor", 0.98), ("ld", 0.99), (".", 0.99))
UNSURE = transcript(("HE", 0.2), (" wro", 0.5), ("b", 0.4), (" [laughs]", 0.3), (" so", 0.4), cut=True)
# A calibration that looks at the mean probability alone: 0.5 at a mean of one half.
PLAIN = Calibration(
    means=(0.0, 0.5, *[0.0] * (len(FEATURES) - 2)),
    scales=(1.0,) * len(FEATURES),
    weights=(0.0, 10.0, *[0.0] * (len(FEATURES) - 2)),
    bias=0.0,
    warn=0.5,
    tag=0.5,
)


def test_a_words_probability_is_the_product_of_its_tokens():
    assert confidence.word_probabilities(SURE) == pytest.approx([0.99, 0.98 * 0.99 * 0.99])
    assert confidence.word_probabilities(UNSURE) == pytest.approx([0.2, 0.2, 0.4])  # the tag is no word
    assert confidence.word_probabilities(transcript(("[sighs]", 0.7))) == pytest.approx([0.7])


def test_features_have_the_values_their_names_promise():
    found = dict(zip(FEATURES, confidence.features(UNSURE), strict=True))
    assert found["mean_probability"] == pytest.approx((0.2 + 0.2 + 0.4) / 3)
    assert found["mean_log_probability"] == pytest.approx((2 * math.log(0.2) + math.log(0.4)) / 3)
    assert found["lowest_tenth"] == pytest.approx(0.2) and found["unsure"] == 1
    assert found["words_a_second"] == 3 / 4 and found["tags_a_word"] == 1 / 4 and found["stressed"] == 1 / 4
    assert found["cut"] == 1 and found["log_seconds"] == pytest.approx(math.log(4))


def test_empty_or_typed_text_has_no_confidence():
    assert confidence.features(transcript()) is None and UNTUNED.confidence(transcript()) is None
    assert PLAIN.confidence(transcript(("Hello", None))) is None
    assert PLAIN.judged(transcript()) == transcript()


def test_without_calibration_confidence_is_the_mean_over_words():
    assert UNTUNED.confidence(SURE) == pytest.approx((0.99 + 0.98 * 0.99 * 0.99) / 2)
    assert UNTUNED.judged(UNSURE).doubtful and not UNTUNED.judged(SURE).doubtful


def test_only_a_doubtful_transcript_hides_its_less_likely_tags():
    judged = PLAIN.judged(UNSURE)
    assert judged.doubtful and judged.confidence < 0.5 and judged.hide_below == 0.5
    assert judged.text == UNSURE.text and Filter().apply(judged).tags == ()
    assert Filter(min_probability=0.01).apply(judged).tags == UNSURE.tags  # the slider shows them
    likely = PLAIN.judged(transcript(("So", 0.9), (" [laughs]", 0.3), (" well", 0.9)))
    assert not likely.doubtful and Filter().apply(likely).text == "So [laughs] well"


def test_the_page_warns_about_a_doubtful_text_until_it_is_edited():
    judged = PLAIN.judged(UNSURE)
    column = view.Column("rl", view.heading("rl"), judged, judged)
    assert status_line.doubt([column], Filter()).startswith(confidence.WARNING)
    assert "At least % sure" in status_line.doubt([column], Filter())
    assert status_line.doubt([column], Filter(min_probability=0.2)) == confidence.WARNING
    edited = history.with_texts(judged, ["He was wrong so"])
    assert not edited.doubtful and edited.confidence is None
    assert status_line.doubt([view.Column("rl", view.heading("rl"), edited, edited)], Filter()) == ""


def test_a_calibration_survives_its_file_and_a_model_without_one_is_untuned(tmp_path):
    PLAIN.save(tmp_path)
    assert confidence.load(tmp_path) == PLAIN
    assert confidence.load(tmp_path / "elsewhere") == UNTUNED


def test_fitting_recovers_accuracies_from_features():
    rng = np.random.default_rng(0)
    features = rng.normal(2, 3, (2000, len(FEATURES)))
    expected = 1 / (1 + np.exp(-(0.5 * features[:, 1] - features[:, 4] + 0.3)))
    fitted = training.fit(features, np.clip(expected + rng.normal(0, 0.02, 2000), 0, 1))
    found = [training._score(fitted, row) for row in features]
    assert np.abs(found - expected).max() < 0.05


def test_auc_is_the_chance_that_a_bad_clip_scores_lower():
    scores, bad = np.array([0.1, 0.4, 0.4, 0.9]), np.array([True, True, False, False])
    assert training.auc(scores, bad) == (1 + 1 + 0.5 + 1) / 4
    assert training.auc(scores, np.zeros(4, bool)) is None


def row(reference: str, text: str, p: float, name: str = "ordinary") -> dict:
    tokens = [[f" {word}", p] for word in text.split()]
    return {
        "set": name, "id": "x", "reference": reference, "seconds": 3.0,
        "variants": {"rl": {"text": text, "tokens": tokens, "cut": False}},
    }  # fmt: skip


def test_calibrating_and_judging_end_to_end():
    rows = [row("we all went home", "we all went home", 0.9 + 0.001 * k) for k in range(60)]
    rows += [row("we all went home", "BEE OLD [laughs] bent", 0.3 + 0.001 * k) for k in range(60)]
    rows += [row("", "HUM [laughs]", 0.3, "nonspeech"), row("", "", 0.0, "nonspeech")]
    found = training.calibrated(rows)
    assert 0.05 < found.warn <= 0.9
    judged = training.judged(found, rows)["rl"]
    assert judged["auc_wer_above_half"] == 1 and judged["false_alarms"] <= 0.02 and judged["warned_of_bad"] == 1
    assert judged["nonspeech"] == judged["nonspeech_silent_or_warned"] == 2
    assert judged["calibration_error"] < 0.15

"""Whether probabilities are true: what is right of a transcript, and the expected calibration error, by hand."""

import pytest

from evoxtral import words
from evoxtral.metrics import reliability, tag_positions
from evoxtral.metrics.reliability import Judged


@pytest.mark.parametrize(
    ("prediction", "reference", "right"),
    [
        ("So [laughs] there, it IS.", "So [laughs] there. It is.", [1, 1, 1, 1, 1]),
        ("[laughs] So it was — now", "So it [laughs] is", [0, 1, 1, 0, 0]),
        ("[sad] I am so tired.", "I am [sad] so tired.", [0.5, 1, 1, 1, 1]),
        ("[laughs] a [laughs] b", "a [laughs] b", [0, 1, 1, 1]),
        ("[sad] One. [sad] Two.", "One. [sad] Two.", [0, 1, 1, 1]),
        ("x y", "", [0, 0]),
        ("[laughs]", "", [0]),
        ("", "so", []),
    ],
)
def test_every_word_and_tag_of_a_transcript_is_judged_in_its_place(prediction, reference, right):
    found = tag_positions.right_one_by_one(prediction, reference)
    assert [share for _, share in found] == right
    assert [text[0] == "[" for text, _ in found] == [kind == "tag" for *_, kind in words.split(prediction)]


def test_a_tag_belongs_to_its_category_and_one_without_a_probability_is_left_out():
    found = reliability.judge("[sad] Oh, [laughs] [ no]", [0.5, None, 0.75, 0.25], "[sad] oh [laughs]")
    assert found == [Judged("emotion", 0.5, 1), Judged("non-verbal", 0.75, 1), Judged("other", 0.25, 0)]
    with pytest.raises(ValueError, match="argument 2"):
        reliability.judge("a b", [0.5], "a b")


def test_the_calibration_error_is_that_of_its_definition():
    clips = [
        [Judged("words", 0.95, 1), Judged("words", 0.95, 0)],  # 0.95 promised, 0.5 kept
        [Judged("words", 0.25, 0), Judged("pause", 1.0, 1)],
        [],
    ]
    found = reliability.reliability(clips, resamples=200)
    word, pause = found["words"], found["pause"]
    assert (word.n, word.probability, word.right) == (3, pytest.approx(2.15 / 3), pytest.approx(1 / 3))
    assert word.error == pytest.approx((2 * 0.45 + 0.25) / 3) and word.low <= word.error <= word.high
    assert word.bins == ((1, 0.25, 0.0), (2, pytest.approx(0.95), 0.5))
    assert (pause.error, pause.low, pause.high, pause.bins) == (0, 0, 0, ((1, 1.0, 1.0),))


def test_promises_that_are_kept_have_no_error():
    clips = [[Judged("words", 0.8, float(k % 5 > 0))] for k in range(50)]
    assert reliability.reliability(clips, resamples=50)["words"].error == pytest.approx(0)
    assert reliability.reliability([], resamples=50) == {}

"""Scores that see place, and WER after Whisper's normaliser."""

import subprocess
import sys
from functools import cache

import jiwer
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evoxtral import metrics
from evoxtral.metrics import english, tag_positions
from evoxtral.metrics.tag_positions import align, right_tags


def right(prediction: str, reference: str, tolerance: int = 0) -> dict[str, float]:
    return right_tags(prediction, reference, [tolerance])[0]


WORDS = st.lists(st.sampled_from("abc"), max_size=7).map(tuple)


@cache
def errors_and_hits(truth: tuple, hypothesis: tuple) -> tuple[int, int]:
    """Fewest errors, and minus the most hits of such an alignment, straight from the definition."""
    if not truth or not hypothesis:
        return len(truth) + len(hypothesis), 0
    equal = truth[0] == hypothesis[0]
    opposite, missed, added = (
        errors_and_hits(truth[1:], hypothesis[1:]),
        errors_and_hits(truth[1:], hypothesis),
        errors_and_hits(truth, hypothesis[1:]),
    )
    return min((opposite[0] + (not equal), opposite[1] - equal), (missed[0] + 1, missed[1]), (added[0] + 1, added[1]))


@given(WORDS, WORDS)
def test_the_alignment_has_the_fewest_errors_and_of_those_the_most_equal_words(truth, hypothesis):
    pairs = align(truth, hypothesis)
    assert all(before[0] < after[0] and before[1] < after[1] for before, after in zip(pairs, pairs[1:], strict=False))
    hits = sum(truth[i] == hypothesis[j] for i, j in pairs)
    assert (len(truth) + len(hypothesis) - len(pairs) - hits, -hits) == errors_and_hits(truth, hypothesis)


def test_jiwer_has_fewer_equal_words_at_the_same_error_rate():
    truth, hypothesis = "a b c d".split(), "b x c d e".split()
    found = jiwer.process_words(" ".join(truth), " ".join(hypothesis))
    pairs = align(truth, hypothesis)
    assert sum(truth[i] == hypothesis[j] for i, j in pairs) == 3 > found.hits


def test_very_long_texts_are_aligned_by_jiwer(monkeypatch):
    monkeypatch.setattr(tag_positions, "MAX_CELLS", 3)
    assert align("a b c".split(), "a x b c".split()) == [(0, 0), (1, 2), (2, 3)]


@pytest.mark.parametrize(
    ("prediction", "reference", "exact", "near"),
    [
        ("I knew it. [laughs]", "I knew it. [laughs]", 1, 1),
        ("[laughs] I knew it.", "I knew it. [laughs]", 0, 0),
        ("I knew [laughs] it.", "I knew it. [laughs]", 0, 1),
        ("I [laughs] knew it.", "I knew it. [laughs]", 0, 0),
        ("I knew it. [laughs] [laughs]", "I knew it. [laughs] [laughs]", 2, 2),
        ("I knew it. [laughs] [laughs]", "I [laughs] knew it. [laughs]", 1, 1),
        ("[laughs] I knew it. [laughs]", "I knew it. [laughs] [laughs]", 1, 1),
        ("i NEW it, [ Laughs ] too", "I knew it. [laughs] Too!", 1, 1),  # a wrong word is no wrong place
        ("I it [laughs] too", "I knew it [laughs] too", 1, 1),  # nor is a missing one
        ("I really knew it [laughs] too", "I knew it [laughs] too", 1, 1),  # nor one too many
        ("one [laughs] four", "one [laughs] two three four", 1, 1),  # between the same aligned words
        ("one four [laughs]", "one two [laughs] three four", 0, 1),
        ("no - [laughs] never", "no [laughs] - never", 1, 1),  # a dash is no word
        ("[laughs]", "I knew it [laughs]", 0, 0),  # no word is aligned: its place is not known
    ],
)
def test_a_sound_is_right_at_its_slot_between_aligned_words(prediction, reference, exact, near):
    assert right(prediction, reference) == {"laughs": exact}
    assert right(prediction, reference, 1) == {"laughs": near}


@pytest.mark.parametrize(
    ("prediction", "reference", "share"),
    [
        ("[sad] I am so tired.", "[sad] I am so tired.", 1),
        ("I am [sad] so tired.", "[sad] I am so tired.", 2 / 4),
        ("[sad] I am so tired.", "Well. [sad] I am so tired.", 1),  # a missed word before it moves nothing
        ("[sad] I am. So tired.", "[sad] I am so tired.", 2 / 4),  # up to the end of the sentence
        ("[sad] I am [calm] so tired.", "[sad] I am so tired.", 2 / 4),  # or to the next delivery
        ("[sad] [calm] I am so tired.", "[sad] I am so tired.", 1),  # two in a row share their extent
        ("[sad] I am [sighs] so tired.", "[sad] I am so tired.", 1),  # a sound inside ends nothing
        ("[sad] I am... so tired.", "[sad] I am so tired.", 1),  # nor does an ellipsis
        ("I am so tired. [sad]", "[sad] I am so tired.", 0),
        ("[sad] One. [sad] Two.", "[sad] One. [sad] Two.", 2),
        ("One. [sad] Two.", "[sad] One. [sad] Two.", 1),
    ],
)
def test_a_delivery_is_right_by_the_share_of_words_that_both_extents_have(prediction, reference, share):
    assert right(prediction, reference)["sad"] == pytest.approx(share)


def test_a_stammer_counts_as_a_point():
    assert right("Well, [stammers] I did.", "[stammers] Well, I did.") == {"stammers": 0}
    assert right("I [stammers] did", "I [stammers] did not, no") == {"stammers": 1}


def test_an_extent_off_by_a_word_at_each_end_is_near():
    assert right("I [sad] am so tired.", "[sad] I am so tired.", 1) == {"sad": 1}


def test_scores_by_place_beside_the_scores_that_ignore_it():
    pairs = [("[laughs] It is late", "It is late [laughs]"), ("It is late", "It is late")]
    found = metrics.summary(metrics.score(pairs), resamples=50)
    assert (found["tag_f1"], found["placed_tag_f1"]) == (1, 0.5)
    assert (found["tagged_tag_f1"], found["tagged_placed_tag_f1"], found["pooled_placed_tag_f1"]) == (1, 0, 0)
    assert {"placed_tag_f1", "tagged_placed_tag_f1", "near_placed_tag_f1"} <= found["intervals"].keys()
    untagged = metrics.summary(metrics.score([("a", "a")]), resamples=50)
    assert untagged["placed_tag_f1"] == 1
    assert "tagged_tag_f1" not in untagged  # no clip counts in it


@given(st.lists(st.sampled_from(["a.", "b", "[laughs]", "[sad]", "[calm]"]), max_size=9).map(" ".join))
def test_a_text_has_all_its_tags_in_place(text):
    clip = metrics.count(text, text)
    assert clip.placed == clip.nearly_placed == clip.tags


TAGGED = st.lists(st.sampled_from(["a.", "b", "c", "[laughs]", "[sad]", "[calm]"]), max_size=9).map(" ".join)


@given(TAGGED, TAGGED)
def test_scores_by_position_are_lower_and_grow_with_tolerance(prediction, reference):
    clip = metrics.count(prediction, reference)
    assert clip.placed.common <= clip.nearly_placed.common + 1e-9
    assert clip.nearly_placed.common <= clip.tags.common + 1e-9


# What WESR-Bench (arXiv 2601.04508) publishes of its protocol: discrete events stand at positions between words,
# continuous events cover words, and errors of recognition are kept apart from errors of detection.
def test_published_properties_of_wesr_hold():
    reference = "that was [laughs] the funniest thing ever"
    for misheard in ("that wuz [laughs] the funniest thing ever", "was [laughs] the funny thing", reference.upper()):
        assert right(misheard, reference) == {"laughs": 1}
    assert right("that was the [laughs] funniest thing ever", reference) == {"laughs": 0}
    spoken = "[whispers] do not wake him. Fine."
    assert right("[whispers] do not wake. Fine.", spoken) == {"whispers": 1}
    assert right("do not [whispers] wake him. Fine.", spoken) == {"whispers": 0.5}


def test_the_example_of_wesrs_figure_has_its_counts():
    """Of "[laughter] Please tell … <whisper> if you know it </whisper>" and what is drawn below it: laughter 1 FN and
    1 FP, whisper 2 TP and 2 FN. A whisper ends here with a sentence."""
    reference = "[laughs] Please tell me the answer [whispers] if you know it."
    prediction = "Please [laughs] tell me the answer [whispers] if you. Know it."
    assert tag_positions.places(prediction, reference) == {"laughs": (0, 1, 1), "whispers": (2, 2, 4)}
    found = metrics.summary(metrics.score([(prediction, reference)]), resamples=20)
    assert found["wesr_f1"] == pytest.approx(2 * 2 / (3 + 5))


@pytest.mark.parametrize(
    ("prediction", "reference", "counts"),
    [
        ("[laughs] [laughs] Oh", "[laughs] Oh", {"laughs": (1, 1, 1)}),  # a place counts once
        ("[sad] One. [sad] Two.", "[sad] One Two.", {"sad": (2, 2, 2)}),  # two extents cover what one does
        ("[sad] a x c", "[sad] a b c", {"sad": (3, 3, 3)}),  # misheard, but covered
        ("[laughs] a", "a [sighs]", {"laughs": (0, 1, 0), "sighs": (0, 0, 1)}),
        ("[sad] Gone", "[sad] Never. Mind", {"sad": (0, 1, 1)}),  # covered by one of them only
        ("[sad] Gone", "[sad]", {"sad": (0, 1, 1)}),
        ("[laughs]", "you said [laughs] what?", {"laughs": (0, 1, 1)}),
        ("a", "a", {}),
    ],
)
def test_places_are_counted_as_wesrs_own_evaluation_does(prediction, reference, counts):
    assert tag_positions.places(prediction, reference) == counts


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("[laughs]", "you said [laughs] what?", {"laughs": 0}),  # no word of the reference is aligned: a miss
        ("[laughs] hello", "[laughs]", {"laughs": 1}),  # the reference has one slot only
        ("[sad]", "[sad] Never mind.", {"sad": 0}),
        ("[sad] Never. Yes, it is.", "Never. [sad] Gone.", {"sad": 0}),
        ("Fine.", "[sad] Fine.", {}),
    ],
)
def test_a_tag_whose_place_cannot_be_compared_is_a_miss(prediction, reference, expected):
    assert right(prediction, reference) == expected


def test_the_normaliser_is_transformers_own_and_needs_no_import_of_transformers():
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    text = "Oh, Dr. O'Neil's twenty-one colour-coded files — mhm, it's 20%, ok?"
    assert english.normalised(text) == EnglishTextNormalizer({})(text).strip()
    code = "import sys; from evoxtral import metrics; metrics.summary(metrics.score([('a', 'b')], normalised=True))"
    loaded = subprocess.run(
        [sys.executable, "-c", f"{code}; print(*sys.modules)"], capture_output=True, text=True, check=True
    ).stdout.split()
    assert {"transformers", "torch"}.isdisjoint(loaded) and "jiwer" in loaded


def test_wer_after_whispers_normaliser_ignores_case_punctuation_and_tags():
    report = metrics.score([("[sad] I DON'T know", "i do not know. [laughs]"), ("A b", "A c")], normalised=True)
    found = metrics.summary(report, resamples=50)
    assert (found["normalised_wer"], found["normalised_corpus_wer"]) == (0.25, pytest.approx(1 / 6))
    assert "normalised_wer" in found["intervals"]
    assert found["normaliser"] == english.version()
    assert "normalised_wer" not in metrics.summary(metrics.score([("a", "a")]), resamples=50)


def test_tags_are_removed_before_normalisation():
    assert english.normalised("[whispers softly] the [unclosed word") == "the unclosed word"
    assert english.normalised("so [laughs] it is 20%") == "so it is 20%"


def test_every_further_score_is_defined_and_computed():
    report = metrics.score([("[sad] a", "[sad] a")], normalised=True)
    assert {metric.name for metric in metrics.FURTHER} <= report.terms.keys()
    assert all(metric.label and metric.definition for metric in metrics.FURTHER)

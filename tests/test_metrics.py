import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import evoxtral
from evoxtral import metrics, tags
from evoxtral.errors import EvoxtralError
from evoxtral.metrics import Difference, Interval, Overlap, TagScore, count, score

PUBLISHED = json.loads((Path(evoxtral.__file__).parent / "assets/results/published.json").read_text("utf-8"))

WORDS = st.sampled_from(["so", "NO", "well,", "[laughs]", "[sighs]", "[Pause]", "[unclosed", "fine."])
TEXTS = st.lists(WORDS, max_size=8).map(" ".join)
PAIRS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=8)


def references_like_the_published() -> list[str]:
    """50 references, 11 without a tag and 21 without emphasis, as in Evoxtral-Bench."""
    names = ("nervous", "laughs", "pause", "clears throat")
    return [
        ("" if i < 11 else f"[{names[i % 4]}] ") + f"I said it {i} " + ("times." if i % 50 < 21 else "TIMES.")
        for i in range(50)
    ]


def test_a_system_without_tags_and_emphasis_gets_exactly_the_published_base_row():
    references = references_like_the_published()
    scores = score((tags.plain(reference), reference) for reference in references).scores
    base = PUBLISHED["variants"]["base"]
    for name in ("tag_f1", "tag_precision", "tag_recall", "emphasis_f1", "tag_hallucination"):
        assert getattr(scores, name) == base[name], name
    assert (scores.n, scores.tag_f1, scores.emphasis_f1, scores.tag_hallucination) == (50, 0.22, 0.42, 0.0)
    assert scores.wer == scores.cer == 0


def test_the_published_figures_are_complete_and_consistent():
    assert list(PUBLISHED["variants"]) == ["base", "sft", "rl"]
    for figures in PUBLISHED["variants"].values():
        assert all(0 <= figures[metric.name] <= 1 for metric in metrics.METRICS)
        assert figures["n"] == PUBLISHED["n"] == 50
    sft, rl = (PUBLISHED["variants"][variant]["per_tag"] for variant in ("sft", "rl"))
    assert {name: row["support"] for name, row in sft.items()} == {n: row["support"] for n, row in rl.items()}
    assert sum(row["support"] for row in sft.values()) == PUBLISHED["clips"]["tags"] == 130
    changes = [np.sign(rl[name]["f1"] - sft[name]["f1"]) for name in sft]
    assert [changes.count(sign) for sign in (1, 0, -1)] == [8, 6, 3]


@pytest.mark.parametrize(
    ("prediction", "reference", "precision", "recall", "f1", "hallucination"),
    [
        ("a", "a", 1, 1, 1, 0),
        ("a", "[sad] a", 0, 0, 0, 0),
        ("[sad] a", "a", 0, 0, 0, 1),
        ("[sad] a", "[ SAD ] a", 1, 1, 1, 0),
        ("[sad] a [sad]", "[sad] a", 0.5, 1, 2 / 3, 0),
        ("[sad] a", "[sad] [sad] [pause] a", 1, 1 / 3, 0.5, 0),
        ("[sad] [calm] a [calm] [pause]", "[pause] a [sad]", 0.5, 1, 2 / 3, 0.5),
        ("[chuckles] a", "[laughs] a", 0, 0, 0, 1),
    ],
)
def test_tag_scores_of_one_clip(prediction, reference, precision, recall, f1, hallucination):
    scores = score([(prediction, reference)]).scores
    assert scores.tag_precision == pytest.approx(precision)
    assert scores.tag_recall == pytest.approx(recall)
    assert scores.tag_f1 == pytest.approx(f1)
    assert scores.tag_hallucination == pytest.approx(hallucination)


@pytest.mark.parametrize(
    ("prediction", "reference", "f1"),
    [
        ("no", "no", 1),
        ("no", "NO", 0),
        ("NO", "no", 0),
        ("NO NO", "NO no", 2 / 3),
        ("[LAUGHS] no", "[laughs] no", 1),
    ],
)
def test_emphasis_is_scored_like_tags_and_not_inside_them(prediction, reference, f1):
    assert score([(prediction, reference)]).scores.emphasis_f1 == pytest.approx(f1)


def test_wer_counts_case_and_punctuation_but_neither_tags_nor_emphasis():
    assert score([("[sad] i SAID it.", "I said it [pause]")]).scores.wer == pytest.approx(2 / 3)


@pytest.mark.parametrize("space", ["\n", "\t", "\r\n", "\u00a0", "\u2028", "\u3000", "  ", " \n "])
def test_white_space_of_any_kind_divides_words(space):
    reference = f"[nervous] So... maybe.{space}[laughs] I mean it."
    scores = score([("[nervous] So... maybe. [laughs] I mean it.", reference)]).scores
    assert scores.wer == scores.cer == 0
    missed = count("I mean", f"I{space}mean{space}it")
    assert (missed.words.errors, missed.words.length) == (1, 3)
    assert score([("[clears throat] a", f"[clears{space}throat] a")]).scores.tag_f1 == 1
    (point,) = metrics.pr_curve([([(f"clears{space}throat", 0.5)], f"[clears{space} throat] a")])
    assert point.f1 == 1


def test_a_letter_is_the_same_however_it_is_composed():
    scores = score([("[cre\u0301dule] caf\u00e9 CAFE\u0301", "[cr\u00e9dule] cafe\u0301 CAF\u00c9")]).scores
    assert (scores.wer, scores.cer, scores.tag_f1, scores.emphasis_f1) == (0, 0, 1, 1)


def test_wer_is_the_mean_of_clips_and_corpus_wer_the_rate_of_all_words():
    report = score([("x", "a"), ("a b c d e f g h i", "a b c d e f g h i")])
    assert report.scores.wer == 0.5
    assert report.corpus_wer == 0.1


def test_a_clip_without_reference_words_counts_in_no_error_rate():
    report = score([("uh oh", "[laughs]"), ("a b", "a c")])
    assert report.scores.wer == report.corpus_wer == 0.5
    assert report.scores.tag_f1 == 0.5
    wordless = score([("[laughs]", "[laughs]")])
    assert (wordless.scores.wer, wordless.scores.cer, wordless.corpus_wer) == (None, None, None)
    assert wordless.scores.tag_f1 == 1


def test_an_empty_prediction_misses_every_word():
    clip = count("", "[sad] two words")
    assert (clip.words.errors, clip.words.length, clip.words.rate) == (2, 2, 1.0)
    assert clip.characters.errors == len("two words")


def test_per_tag_pools_counts_over_clips():
    report = score([("[sad] [sad] a", "[sad] a [pause]"), ("[sad] [calm] b", "[sad] [sad] b"), ("c", "c")])
    assert report.per_tag == {
        "sad": TagScore(precision=2 / 3, recall=2 / 3, f1=2 / 3, support=3),
        "pause": TagScore(precision=0, recall=0, f1=0, support=1),
        "calm": TagScore(precision=0, recall=0, f1=0, support=0),
    }
    assert metrics.score([("[sad] a", "[sad] a")]).per_tag == {"sad": TagScore(1, 1, 1, 1)}


def test_pooled_f1_takes_tags_by_name_or_by_category():
    pairs = [("[sad] [laughs] a", "[sad] [pause] a"), ("[whispers] b [moonwalks]", "[whispers] b")]
    assert metrics.score(pairs).pooled(names={"laughs", "pause"}) == TagScore(0, 0, 0, support=1)
    assert metrics.score(pairs).pooled(categories=("emotion", "delivery")) == TagScore(1, 1, 1, support=2)
    assert metrics.score(pairs).pooled(categories=tags.CATEGORIES).f1 == pytest.approx(2 * 2 / (4 + 3))


def test_grouped_f1_counts_synonyms_as_equal():
    report = score([("[chuckles] [sad] a", "[laughs] [sad] a"), ("[laughs] [giggles] b", "[chuckles] b")])
    assert report.scores.tag_f1 == pytest.approx(0.25)
    assert metrics.summary(report, resamples=10)["grouped_tag_f1"] == pytest.approx((1 + 2 / 3) / 2)


def test_reward_weighs_wer_tag_f1_and_hallucination():
    assert metrics.reward("[sad] a b", "[sad] a b") == pytest.approx(1.0)
    assert metrics.reward("a b", "[sad] a b") == pytest.approx(0.4 + 0.2)
    assert metrics.reward("[sad] [calm] a b c d", "[sad] a b") == pytest.approx(0.4 * 2 / 3 + 0.2 * 0.5)
    assert metrics.reward("[laughs]", "[laughs]") == pytest.approx(1.0)
    assert metrics.reward("[laughs] you know", "[laughs]") == pytest.approx(0.6)


def test_no_clips_is_an_error():
    with pytest.raises(EvoxtralError, match="nothing to score"):
        score([])


def test_json_has_the_shape_that_programs_rely_on():
    assert score([("[sad] a", "[sad] a")]).to_dict() == {
        "n": 1,
        "wer": 0.0,
        "cer": 0.0,
        "tag_precision": 1.0,
        "tag_recall": 1.0,
        "tag_f1": 1.0,
        "emphasis_f1": 1.0,
        "tag_hallucination": 0.0,
        "per_tag": {"sad": {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 1}},
    }


def test_every_metric_has_a_score_a_label_and_a_definition():
    named = {metric.name for metric in metrics.METRICS}
    assert named == set(score([("a", "a")]).to_dict()) - {"n", "per_tag"}
    assert all(metric.label and metric.definition for metric in metrics.METRICS)


@given(TEXTS)
def test_a_text_matches_itself(text):
    clip = count(text, text)
    assert clip.words.errors == clip.characters.errors == clip.hallucination == 0
    assert clip.tags.f1 == clip.emphasis.f1 == 1
    assert clip.reward == pytest.approx(1)


@given(st.text(), st.text())
def test_any_two_texts_can_be_compared(prediction, reference):
    clip = count(prediction, reference)
    assert 0 <= clip.reward <= 1
    json.dumps(score([(prediction, reference)]).to_dict(), allow_nan=False)


@given(TEXTS, TEXTS)
def test_swapping_the_texts_swaps_precision_and_recall(one, other):
    there, back = count(one, other), count(other, one)
    assert there.tags.precision == back.tags.recall
    assert there.tags.f1 == pytest.approx(back.tags.f1)


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5))
def test_f1_is_the_harmonic_mean_of_precision_and_recall(common, more_predicted, more_expected):
    overlap = Overlap(common, common + more_predicted, common + more_expected)
    total = overlap.precision + overlap.recall
    assert overlap.f1 == pytest.approx(2 * overlap.precision * overlap.recall / total if total else 0)


@given(PAIRS)
def test_scores_do_not_depend_on_the_order_of_clips(pairs):
    there, back = score(pairs).to_dict(), score(pairs[::-1]).to_dict()
    assert there.pop("per_tag") == back.pop("per_tag")
    assert there == pytest.approx(back)


@given(PAIRS)
def test_pooling_all_tags_adds_up_to_the_pooled_term(pairs):
    report = score(pairs)
    pooled = report.pooled(categories=tags.CATEGORIES)
    numerators, denominators = report.terms["pooled_tag_f1"].sum(axis=1)
    assert pooled.f1 == (pytest.approx(numerators / denominators) if denominators else 1)
    assert pooled.support == sum(tag.support for tag in report.per_tag.values())


def noisy_pairs(n: int, miss: float, seed: int) -> list[tuple[str, str]]:
    """One tag and five words a clip; a share `miss` of the tags and of the last words is missed."""
    missed = np.random.default_rng(seed).random((n, 2)) < miss
    return [
        (
            ("" if tag else "[sad] ") + "we said it was " + ("oven" if word else "over"),
            "[sad] we said it was over",
        )
        for tag, word in missed.tolist()
    ]


def test_an_interval_holds_the_score_and_agrees_with_the_normal_approximation():
    report = score(noisy_pairs(400, miss=0.3, seed=1))
    interval = metrics.intervals(report)["tag_f1"]
    standard_error = (interval.value * (1 - interval.value) / 400) ** 0.5
    assert interval.value == report.scores.tag_f1
    assert interval.low == pytest.approx(interval.value - 1.96 * standard_error, abs=0.01)
    assert interval.high == pytest.approx(interval.value + 1.96 * standard_error, abs=0.01)


def test_intervals_cover_every_term_and_repeat_with_the_seed(monkeypatch):
    report = score(noisy_pairs(40, miss=0.3, seed=1))
    found = metrics.intervals(report)
    assert list(found) == list(report.terms)
    monkeypatch.setattr(metrics.bootstrap, "RESAMPLE_BLOCK", 100)
    assert metrics.intervals(report) == found
    assert metrics.intervals(report, seed=1) != found


def test_intervals_of_single_tags_and_of_texts_that_have_none():
    report = score([*noisy_pairs(40, miss=0.3, seed=1), ("a", "[calm] a")])
    by_tag = metrics.intervals(report, by_tag=True)
    assert list(by_tag) == ["sad", "calm"]
    assert by_tag["calm"] == Interval(0.0, 0.0, 0.0)
    assert metrics.intervals(score([("a", "a")]), by_tag=True) == {}
    untagged = metrics.intervals(score([("a", "a")]))
    assert untagged["pooled_tag_f1"] is None
    assert untagged["tag_f1"] == Interval(1.0, 1.0, 1.0)


def test_the_same_system_twice_differs_by_nothing():
    report = score(noisy_pairs(40, miss=0.3, seed=1))
    assert metrics.compare(report, report)["tag_f1"] == Difference(0.0, 0.0, 0.0, p=1.0)


def test_a_clearly_better_system_is_found_better_and_a_slightly_better_one_is_not():
    worse, better = (score(noisy_pairs(400, miss, seed=2)) for miss in (0.3, 0.1))
    difference = metrics.compare(worse, better)["tag_f1"]
    assert difference.value == pytest.approx(better.scores.tag_f1 - worse.scores.tag_f1)
    assert 0 < difference.low < difference.value < difference.high
    assert difference.p < 0.01
    assert metrics.compare(worse, better, by_tag=True)["sad"].low > 0
    few, few_more = (score(noisy_pairs(50, 0.3, seed)) for seed in (3, 4))
    assert metrics.compare(few, few_more)["tag_f1"].p > 0.05


def test_pairing_makes_the_interval_of_a_difference_narrower_than_independent_ones():
    worse, better = (score(noisy_pairs(400, miss, seed=2)) for miss in (0.3, 0.25))
    paired = metrics.compare(worse, better)["tag_f1"]
    widths = [i.high - i.low for i in (metrics.intervals(r)["tag_f1"] for r in (worse, better))]
    assert paired.high - paired.low < 0.7 * float(np.hypot(*widths))


def test_systems_scored_on_different_clips_are_not_compared():
    with pytest.raises(EvoxtralError, match="different clips"):
        metrics.compare(score([("a", "a")]), score([("a", "a b")]))


def test_the_curve_goes_from_the_most_probable_tag_to_all_tags():
    items = [
        ([("laughs", 0.8), ("laughs", 0.9), ("sad", 0.9)], "[laughs] [pause] a"),
        ([], "[sad] b"),
        ([("sad", 0.2)], "[sad] c"),
    ]
    curve = metrics.pr_curve(items)
    assert [(point.threshold, point.kept) for point in curve] == [(0.9, 2), (0.8, 3), (0.2, 4)]
    assert [point.precision for point in curve] == pytest.approx([1 / 2, 1 / 3, 2 / 4])
    assert [point.recall for point in curve] == pytest.approx([1 / 4, 1 / 4, 2 / 4])
    assert metrics.pr_curve([([], "[sad] a")]) == []


CONFIDENT = st.lists(st.tuples(st.sampled_from(["laughs", "sighs", "pause"]), st.floats(0, 1)), max_size=6)


@given(st.lists(st.tuples(CONFIDENT, TEXTS), max_size=5))
def test_each_point_of_the_curve_is_the_pooled_score_of_the_tags_kept(items):
    for point in metrics.pr_curve(items):
        kept = [
            (" ".join(f"[{name}]" for name, p in predicted if p >= point.threshold), reference)
            for predicted, reference in items
        ]
        pooled = metrics.score(kept).pooled(categories=tags.CATEGORIES)
        assert (point.precision, point.recall, point.f1) == pytest.approx((pooled.precision, pooled.recall, pooled.f1))


def test_a_long_curve_is_thinned_and_keeps_its_ends():
    curve = metrics.pr_curve([([("sad", i / 1000) for i in range(1000)], "[sad] a")], points=11)
    assert len(curve) == 11
    assert (curve[0].threshold, curve[-1].threshold) == (0.999, 0.0)

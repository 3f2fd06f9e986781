"""The Metrics tab shows what its files say, and says plainly when there is nothing to show."""

import json

import pytest

from evoxtral.metrics import METRICS
from evoxtral.ui import metrics_tab
from evoxtral.ui.metrics_tab import RESULTS, Results

MEASURED = {
    "n": 400,
    "seed": 7,
    "date": "2026-01-02",
    "commit": "abc1234",
    "model": "<b>tiny</b>",
    "ordinary_sentences": {"n": 100, "base": 0.357, "sft": 0.383, "rl": 0.389},
    "variants": {
        "base": {"wer": 0.05, "tag_f1": 0.25, "pooled": {}, "intervals": {}, "per_tag": {}},
        "sft": {
            "wer": 0.0449,
            "tag_f1": 0.9,
            "pooled": {"sound_pause_f1": 0.985},
            "intervals": {"tag_f1": [0.88, 0.92]},
            "per_tag": {"laughs": {"precision": 1.0, "recall": 0.9, "f1": 0.947, "support": 31}},
        },
        "rl": {
            "wer": 0.0449,
            "tag_f1": 0.91,
            "pooled": {"sound_pause_f1": 0.985},
            "intervals": {"tag_f1": [0.89, 0.93]},
            "per_tag": {"laughs": {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 31}},
        },
    },
    "differences": {
        "sft - base": {"tag_f1": {"value": 0.65, "low": 0.6, "high": 0.7, "p": 0.0}},
        "rl - sft": {
            "tag_f1": {"value": 0.01, "low": -0.005, "high": 0.024, "p": 0.2},
            "wer": {"value": -0.02, "low": -0.03, "high": -0.01, "p": 0.0},
        },
    },
}


@pytest.fixture
def published() -> Results:
    return Results.read(RESULTS / "published.json")


@pytest.fixture
def measured(tmp_path) -> Results:
    (tmp_path / "measured.json").write_text(json.dumps(MEASURED), encoding="utf-8")
    return Results.read(tmp_path / "measured.json")


def test_the_published_table_has_every_metric_of_every_variant(published):
    html = metrics_tab.table("Published", published)
    assert all(metric.label in html for metric in METRICS)
    for name, system in published.systems.items():
        assert set(system.scores) == {metric.name for metric in METRICS}, name
        assert all(f"{100 * share:.1f}" in html for share in system.scores.values())
    assert "n = 50" in html


def test_the_best_of_a_row_is_marked_and_a_tie_is_not(measured):
    html = metrics_tab.table("Measured", measured)
    assert html.count("<b>") == 2  # Tag F1, and WER on ordinary sentences
    assert "<b>91.0</b><small>89.0–93.0</small>" in html


def test_a_difference_has_its_interval_or_is_called_noise(measured):
    html = metrics_tab.table("Measured", measured)
    assert "RL − SFT" in html and "SFT − Base" not in html  # only the step that is in question
    assert "<td>+1.0<small>within noise</small></td>" in html
    assert "<td>−2.0<small>−3.0 to −1.0</small></td>" in html


def test_pooled_scores_have_rows_where_they_were_measured(published, measured):
    assert "98.5" in metrics_tab.table("Measured", measured)
    assert "pooled" not in metrics_tab.table("Published", published)


def test_the_words_that_the_lexicon_did_not_write_have_a_row(measured):
    assert "WER on ordinary sentences" in metrics_tab.table("Measured", measured)


def test_every_figure_has_its_origin(measured):
    assert metrics_tab.origin(measured) == "<b>tiny</b> · n = 400 · seed 7 · 2026-01-02 · commit abc1234"
    assert "&lt;b&gt;tiny&lt;/b&gt;" in metrics_tab.table("Measured", measured)


def test_the_chart_has_a_bar_for_each_variant_that_writes_the_tag_and_its_support(measured):
    html = metrics_tab.tag_chart("Measured", measured)
    assert html.count('class="ev-bar"') == 2
    assert "94.7" in html and "100.0" in html and "<td>31</td>" in html
    assert "Base" not in html


def test_without_a_measurement_the_tab_says_so_in_words(published, tmp_path):
    assert Results.read(tmp_path / "measured.json") is None
    assert "Nothing has been measured" in metrics_tab.report(published, None)


def test_the_tab_says_what_the_numbers_hide_and_what_they_mean(published, measured):
    html = metrics_tab.report(published, measured)
    assert "one that never writes a tag scores 22\u00a0% Tag F1" in html
    assert html.count("<dt>") == len(METRICS)

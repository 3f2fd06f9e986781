"""The Metrics tab shows what its files say, and says plainly when there is nothing to show."""

import html
import json
import re
from dataclasses import replace
from urllib.parse import unquote

import pytest

from evoxtral import metrics
from evoxtral.bench import sets
from evoxtral.errors import EvoxtralError
from evoxtral.metrics import METRICS
from evoxtral.ui import charts, ladders, metrics_tab, reliability, report, results_file, theme, training_report
from evoxtral.ui.charts import Axis, Series
from evoxtral.ui.metrics_tab import RESULTS
from evoxtral.ui.results_file import Results

HOSTILE = "<img src=x onerror=alert(1)>"
PUBLISHED = json.loads((RESULTS / "published.json").read_text(encoding="utf-8"))
TRAINING = json.loads((RESULTS / "training.json").read_text(encoding="utf-8"))
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
            "per_tag": {
                "laughs": {"precision": 1.0, "recall": 0.9, "f1": 0.947, "support": 31},
                "sad": {"precision": 1.0, "recall": 0.9, "f1": 0.5, "support": 40},
            },
        },
        "rl": {
            "wer": 0.0449,
            "corpus_wer": 0.039,
            "tag_f1": 0.91,
            "pooled": {"sound_pause_f1": 0.985},
            "intervals": {"tag_f1": [0.89, 0.93]},
            "per_tag": {
                "laughs": {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 31},
                "sad": {"precision": 1.0, "recall": 0.9, "f1": 0.48, "support": 40},
            },
        },
    },
    "differences": {
        "sft - base": {"tag_f1": {"value": 0.65, "low": 0.6, "high": 0.7, "p": 0.0}},
        "rl - sft": {
            "tag_f1": {"value": 0.01, "low": -0.005, "high": 0.025, "p": 0.2},
            "wer": {"value": -0.02, "low": -0.03, "high": -0.01, "p": 0.0},
        },
    },
}
# What training/publish.py adds.
DETAILS = {
    "tag_differences": {
        "rl - sft": {
            "laughs": {"value": 0.053, "low": 0.01, "high": 0.1, "p": 0.01},
            "sad": {"value": -0.02, "low": -0.1, "high": 0.06, "p": 0.6},
        },
    },
    "confidence": {
        "sft": [
            {"threshold": 0.9, "precision": 1.0, "recall": 0.5, "f1": 0.667, "kept": 35},
            {"threshold": 0.2, "precision": 0.8, "recall": 0.9, "f1": 0.847, "kept": 80},
        ],
        "rl": [
            {"threshold": 0.9, "precision": 0.95, "recall": 0.8, "f1": 0.869, "kept": 60},
            {"threshold": 0.1, "precision": 0.7, "recall": 0.95, "f1": 0.806, "kept": 96},
        ],
    },
}


@pytest.fixture
def published() -> Results:
    return Results.read(RESULTS / "published.json")


def written(tmp_path, content: dict) -> Results:
    (tmp_path / "measured.json").write_text(json.dumps(content), encoding="utf-8")
    return Results.read(tmp_path / "measured.json")


@pytest.fixture
def measured(tmp_path) -> Results:
    return written(tmp_path, MEASURED)


@pytest.fixture
def detailed(tmp_path) -> Results:
    return written(tmp_path, MEASURED | DETAILS)


# ------------------------------------------------------------------------------------- tables


def test_the_published_table_has_every_metric_of_every_variant(published):
    shown = report.table(published, "published")
    assert all(metric.label in shown for metric in METRICS)
    for name, system in published.systems.items():
        assert set(system.scores) == {metric.name for metric in METRICS}, name
        assert all(f"{100 * share:.1f}" in shown for share in system.scores.values())


def bold(results: Results) -> list[str]:
    return re.findall(r"<td><b>(.*?)</b>", report.table(results, "here"))


def test_a_best_figure_is_bold_only_if_significant(published, tmp_path):
    assert bold(published) == []  # nothing is known
    for lead, clear in (([0.005, 0.02], ["91.0"]), ([-0.005, 0.025], [])):
        step = {"value": 0.01, "low": lead[0], "high": lead[1], "p": 0.1}
        assert bold(written(tmp_path, MEASURED | {"differences": {"rl - sft": {"tag_f1": step}}})) == clear
    assert bold(written(tmp_path, MEASURED | {"differences": {}})) == []  # intervals meet: 88 to 92, and 89 to 93
    variants = json.loads(json.dumps(MEASURED["variants"]))
    variants["sft"]["intervals"]["tag_f1"] = [0.87, 0.88]
    assert bold(written(tmp_path, MEASURED | {"differences": {}, "variants": variants})) == ["91.0"]


def test_a_table_has_a_note_on_how_to_read_it(published, measured):
    assert "Small: 95 % intervals. Bold: better than the next best" in report.table(measured, "measured")
    assert "<b>" not in report.table(published, "published") and "Bold" not in report.table(published, "published")
    assert "Without intervals" in report.table(published, "published")


def test_a_difference_shows_its_interval_or_within_noise(measured):
    shown = report.table(measured, "measured")
    assert "RL − SFT" in shown and "SFT − Base" not in shown  # only the step that is in question
    assert '<td>+1.0<small class="ev-verdict">within noise</small></td>' in shown
    assert '<td>−2.0<small class="ev-verdict">−3.0 to −1.0</small></td>' in shown
    assert "<td>91.0<small>89.0–93.0</small></td>" in shown


def test_rows_are_there_where_they_were_measured(published, measured):
    for label in ("F1 of sounds and pauses, pooled", "WER over all words", "WER on ordinary sentences"):
        assert label in report.table(measured, "measured")
        assert label not in report.table(published, "published")


def test_every_metric_opens_its_definition_in_a_row_below_its_own(published, measured):
    page = report.results_page(published, measured)
    opened = re.findall(r'popovertarget="(.*?)"', page)
    assert len(opened) == len(set(opened)) > len(METRICS)
    assert sorted(opened) == sorted(re.findall(r'popover id="(.*?)"', page))
    heard = re.findall(r'popover id=".*?" class="ev-unseen">(.*?)</span>', page)
    seen = re.findall(r'</tr><tr class="ev-definition" aria-hidden="true"><td colspan="[45]">(.*?)</td></tr>', page)
    assert heard == seen and len(seen) == len(opened)
    for metric in METRICS:
        assert metric.definition.replace("'", "&#39;") in page


def test_the_jump_list_leads_to_cards_that_are_there(published, measured, detailed):
    for results in (None, measured, detailed):
        page = report.results_page(published, results)
        targets, cards = re.findall(r'href="#(.*?)"', page), re.findall(r'class="ev-card" id="(.*?)"', page)
        assert len(set(cards)) == len(cards) and len(set(targets)) == len(targets) and set(targets) <= set(cards)
        assert ("Over the confidence threshold</a>" in page) == (results is detailed)
    assert page.index("</nav>") < page.index("ev-card")


def test_figures_have_an_origin_with_unstated_fields_listed(published, measured):
    assert results_file.origin(measured) == "<b>tiny</b> · n = 400 · seed 7 · 2026-01-02 · commit abc1234"
    assert "&lt;b&gt;tiny&lt;/b&gt;" in report.results_page(published, measured)
    assert results_file.origin(published).endswith("n = 50 · seed, date and commit not stated")


# ------------------------------------------------------------------------------------- charts


def test_each_metric_has_a_bar_for_each_variant_and_a_whisker_where_its_interval_is_known(published, measured):
    assert report.metric_chart(published).count('class="ev-bar"') == 3 * len(METRICS)
    assert "Without intervals" in report.metric_chart(published)
    assert report.metric_chart(measured).count('class="ev-whisker"') == 2


def test_an_error_rate_above_one_fills_its_bar_and_keeps_its_figure():
    drawn = charts.bar(1.95, Series("Score", 2), "195.0", (0.5, 5.85))
    assert "--ev-value:1.0000;--ev-extent:1.0000" in drawn and "--ev-from:0.5000;--ev-to:1.0000" in drawn
    assert "195.0" in drawn


def test_the_tag_chart_has_a_bar_for_each_variant_that_writes_the_tag_and_its_support(measured):
    shown = report.tag_chart(measured)
    assert shown.count('class="ev-bar"') == 4
    assert "94.7" in shown and "100.0" in shown and "<td>31</td>" in shown
    assert shown.index("sad") < shown.index("laughs")  # by support
    assert "Base" not in shown


def test_a_tags_difference_is_filled_only_if_its_interval_excludes_zero(detailed):
    shown = report.change_chart(detailed)
    sad, laughs = shown.split('title="laughs"')
    assert (
        "ev-significant" in laughs and "<b>+5.3</b><small>+1.0 to +10.0</small>" in laughs and "<td>31</td>" in laughs
    )
    assert "ev-not-significant" in sad and "−2.0<small>−10.0 to +6.0</small>" in sad
    assert "as for 1 of 2 tags" in shown


def test_a_difference_without_interval_is_hollow_with_a_note(published):
    shown = report.change_chart(published)
    assert "ev-significant" not in shown and "Without intervals" in shown
    assert "+20.0" in shown  # [calm], from 20 to 40


def test_the_confidence_chart_marks_what_the_page_shows_by_default(detailed):
    shown = report.confidence_chart(detailed)
    assert re.findall(r'class="ev-ring".*?title="(.*?)"', shown) == ["SFT, every tag shown", "RL, every tag shown"]
    assert "RL: every tag shown, 70.0\u00a0% of 96 tags are right and 95.0\u00a0% are found." in shown
    assert "F1 rises from 80.6\u00a0% to 86.9\u00a0% with only those that are at least 90\u00a0% sure" in shown
    assert "Hiding the less sure ones makes F1 (84.7\u00a0%) no higher." in shown  # SFT


def test_a_chart_without_data_is_left_out(published, measured, detailed):
    assert "confidence threshold" not in report.results_page(published, measured)
    assert "confidence threshold" in report.results_page(published, detailed)


def test_without_a_measurement_the_tab_has_a_sentence(published, tmp_path):
    assert Results.read(tmp_path / "measured.json") is None
    assert "Nothing has been measured" in report.results_page(published, None)


def test_axes_have_round_ends_and_contain_every_value():
    for values in ([0.3, 0.346], [3, 97], [0, 2960], [0.42], [7.0, 0.06], [0.0, 0.0], [88.2, 100.0]):
        axis = Axis.fitting("", values)
        assert all(axis.low <= value <= axis.high for value in values)
        assert [axis.fraction(axis.low), axis.fraction(axis.high)] == [0, 1]
        assert 2 <= len(axis.ticks) <= 12
        assert all(len(name) <= 5 for _, name in axis.ticks)
    assert Axis.fitting("", [7.0, 0.06], ratio=20).log and not Axis.fitting("", [1.4, 0.2], ratio=20).log


def test_a_chart_has_a_summary_for_screen_readers():
    axis = Axis("x", 0, 1, [(0, "0"), (1, "1")])
    drawn = charts.line_chart(HOSTILE, axis, axis, [(Series(HOSTILE, 1), [(0, 0.5), (1, 1)])])
    assert 'role="img" aria-label="&lt;img' in drawn and "<img" not in drawn
    assert 'points="0.00,50.00 100.00,0.00"' in drawn


# ------------------------------------------------------------------------------------- words


def test_limitations_are_computed_from_the_results(published, measured):
    words = html.unescape(report.caveats(published, measured))
    assert "11 of the 50 published clips have no tags" in words and "a Tag F1 of 22\u00a0%" in words
    assert "ignores where a tag stands" in words
    assert "Over all words together, RL's measured 4.5\u00a0% is 3.9\u00a0%." in words
    assert "measured" not in report.caveats(published, None).split("The two tables")[0]


def test_the_published_gain_is_tested_on_published_figures_only(published, measured):
    words = "2.2 points of Tag F1, is as much as 1.1 of 50 clips give"
    chance = "F1 rose for 8 tags and fell for 3, and chance alone is as uneven 23\u00a0% of the time"  # 2 × 232 / 2¹¹
    for results in (None, measured):
        assert words in report.caveats(published, results) and chance in report.caveats(published, results)
    everywhere = {tag: f1 + 0.1 for tag, f1 in published.systems["sft"].tag_f1.items()}
    better = replace(published.systems["rl"], tag_f1=everywhere)
    steady = report.caveats(replace(published, systems={**published.systems, "rl": better}), measured)
    assert words in steady and "chance" not in steady and "is not known" in steady


# ------------------------------------------------------------------------------------- training


def test_the_training_page_has_every_stage_of_the_committed_run_and_its_rewards():
    page = training_report.training(TRAINING)
    assert set(TRAINING["stages"]) == {"pretrain", "sft", "rl"}
    assert page.count('class="ev-plot"') == 4
    for words in ("transcription", "validation clips", "learned from", "steps in", "mean reward"):
        assert words in page


def test_the_committed_curves_add_up():
    raft = TRAINING["raft"]
    assert sum(raft["histogram"]["sampled"]) == raft["clips"] * raft["samples"]
    assert sum(raft["histogram"]["curated"]) == raft["kept"] <= raft["clips"]
    assert raft["mean_reward"] <= raft["mean_best_reward"] <= raft["mean_curated_reward"] <= 1
    for stage in TRAINING["stages"].values():
        for points in stage["series"].values():
            steps = [step for step, _ in points]
            assert steps == sorted(set(steps)) and steps[-1] <= stage["steps"]


def test_a_curve_of_one_point_has_one_value_in_its_summary():
    stage = {"steps": 840, "seconds": 60, "series": {"loss": [[600, 0.5]], "wer": [[600, 0.0355]]}}
    shown = training_report.stage_chart(stage)
    assert "WER on validation clips: 3.5\u00a0% at step 600." in shown and "training clips 0.50." in shown
    shown = training_report.stage_chart(
        stage | {"series": {"loss": [[20, 1.5], [600, 0.5]], "wer": [[1, 0.2], [600, 0.1]]}}
    )
    assert "20.0\u00a0% at step 1, 10.0\u00a0% at step 600." in shown and "training clips 1.50 to 0.50." in shown


def test_the_note_on_averaged_losses_needs_several_losses():
    several = {"transcribe": [[20, 0.5]], "phonemes": [[20, 2.0]], "describe": [[20, 0.1]]}
    for series, said in (({"loss": [[20, 0.5]]}, False), (several, True)):
        assert (
            "at a quarter of its loss" in training_report.stage_chart({"steps": 9, "seconds": 9, "series": series})
        ) == said


@pytest.mark.parametrize(
    ("sampled", "ticks", "left_out"),
    [
        ([10, *[0] * 29, 90, *[0] * 18, 900], "1 0.9 0.8 0.7 0.6", "10 samples with less than 0.6"),
        ([20, *[0] * 48, 80], "1 0.9 0.8 0.7 0.6 0.5 0.4 0.3 0.2 0.1 0", None),
        ([*[0] * 49, 100], "1 0.9 0.8", None),
    ],
)
def test_the_rewards_chart_omits_its_empty_lower_end(sampled, ticks, left_out):
    histogram = {"sampled": sampled, "curated": [*[0] * 49, 50]}
    shown = training_report.rewards_chart(TRAINING["raft"] | {"histogram": histogram})
    assert re.findall(r'class="ev-tick-x".*?>(.*?)</span>', shown) == ticks.split()
    assert f"Not drawn: {left_out}." in shown if left_out else "Not drawn" not in shown
    assert shown.count("<rect") == 2 * 5 * (len(ticks.split()) - 1)  # two series, and five parts from tick to tick


def test_the_rewards_chart_mentions_supervised_clips():
    for supervised, said in ((0, False), (4500, True)):
        shown = training_report.rewards_chart(TRAINING["raft"] | {"supervised": supervised})
        assert ("; and 4,500 other clips, with their references." in shown) == said


# ------------------------------------------------------------------------------------- score your own


def upload(tmp_path, *pairs: tuple[str, str], name: str = "mine.jsonl") -> str:
    lines = (json.dumps({"prediction": p, "reference": r}) + "\n" for p, r in pairs)
    (tmp_path / name).write_text("".join(lines), encoding="utf-8")
    return str(tmp_path / name)


def downloads(shown: str) -> dict[str, str]:
    """Name of each file that a report carries → what is in it."""
    links = re.findall(r'<a download="(.*?)" href="data:.*?,(.*?)"', shown)
    return {name: unquote(content) for name, content in links}


def test_a_file_of_pairs_gives_the_report_of_the_command_line_on_screen_and_to_download(tmp_path):
    pairs = [("[sighs] so it is", "[sighs] so it IS [laughs]"), ("a b", "a b")]
    status, shown = metrics_tab.score(upload(tmp_path, *pairs))
    assert "2 pairs scored." in status
    assert "<h2>Scores of mine.jsonl</h2>" in shown and "n = 2" in shown
    assert "WER over all words" in shown and "<small>" in shown and 'title="laughs"' in shown
    assert json.loads(downloads(shown)["mine.scores.json"]) == metrics.summary(metrics.score(pairs, normalised=True))
    assert metrics_tab.score_file(upload(tmp_path, *pairs)) == metrics.summary(metrics.score(pairs, normalised=True))


def test_the_report_on_a_file_has_a_bar_for_each_metric_and_tag_and_no_legend(tmp_path):
    _, shown = metrics_tab.score(upload(tmp_path, ("[sighs] so it is", "[sighs] so it IS")))
    assert shown.count('class="ev-bar"') == len(METRICS) + 1 and 'class="ev-key"' not in shown


def test_the_downloaded_report_is_self_contained_and_equals_the_page(tmp_path):
    _, shown = metrics_tab.score(upload(tmp_path, ("[sighs] so it is", "[sighs] so it IS"), name=f"{HOSTILE}.jsonl"))
    (page,) = (content for name, content in downloads(shown).items() if name.endswith(".scores.html"))
    assert page.startswith("<!doctype html>") and "<title>Scores of &lt;img" in page and "<img" not in page
    assert shown.partition('<div class="ev-report">')[2] in page
    assert theme.css() in page and theme.css_variables("dark") in page.partition("prefers-color-scheme: dark")[2]
    assert not re.search(r"<script|<link|@import|url\(\"?(?!\"?data:)", page)


def test_a_file_without_any_tag_is_scored_and_has_no_empty_chart(tmp_path):
    _, shown = metrics_tab.score(upload(tmp_path, ("a b", "a c")))
    assert "50.0" in shown and "Per metric" in shown and "Per tag" not in shown


def test_an_invalid_line_is_named_and_the_last_report_stays(tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"prediction": "a", "reference": "a"}\n{"prediction": "b"}\n')
    status, shown = metrics_tab.score(str(tmp_path / "bad.jsonl"))
    assert 'bad.jsonl, line 2 has no "reference"' in html.unescape(status) and 'role="alert"' in status
    assert str(tmp_path) not in status
    assert shown["__type__"] == "update" and "value" not in shown


@pytest.mark.parametrize(
    ("pairs", "complaint"),
    [
        ([("word " * 5_000, "a")], "25,000 characters"),
        ([("a", "a")] * 5_001, "5,001 pairs"),
        ([("word " * 3_000, "a")] * 200, "3.0 MB"),
        ([(" ".join(f"[t{i}]" for i in range(400)), "a")], "400 different tags"),
    ],
)
def test_a_file_that_is_too_large_is_refused_in_one_sentence(tmp_path, pairs, complaint):
    with pytest.raises(EvoxtralError, match=complaint) as refused:
        metrics_tab.score_file(upload(tmp_path, *pairs))
    assert "\n" not in str(refused.value) and "python -m evoxtral score" in str(refused.value)


def test_markup_in_a_file_name_and_in_tags_is_escaped(tmp_path):
    status, shown = metrics_tab.score(upload(tmp_path, (f"[{HOSTILE}] a", "a"), name=f"{HOSTILE}.jsonl"))
    assert "<img" not in status + shown and "&lt;img" in shown


def test_removing_the_file_keeps_its_report():
    status, shown = metrics_tab.score(None)
    assert metrics_tab.HINT in status and "value" not in shown


# ------------------------------------------------------------------------------------- ladders

LADDERS = json.loads((RESULTS / "ladders.json").read_text(encoding="utf-8"))


def test_the_committed_ladders_have_every_set_their_origin_and_no_path():
    assert {*sets.SETS} - {*sets.OPTIONAL} <= {*LADDERS["sets"]} <= {*sets.SETS}
    for name, entry in LADDERS["sets"].items():
        assert tuple(entry["rungs"]) == sets.SETS[name].rungs
    shown = ladders.page(LADDERS)
    for stated in (LADDERS["weights"], LADDERS["date"], LADDERS["normaliser"], "clips of each rung", "seed 0"):
        assert stated in shown
    assert "/root" not in json.dumps(LADDERS) and "/home" not in json.dumps(LADDERS)


def rung(value: float, n: int = 300) -> dict:
    figures = {"tagged_placed_tag_f1": [value, value - 0.1, value + 0.1]}
    change = {"tagged_placed_tag_f1": [value - 0.5, value - 0.52, value - 0.48]}
    return {"n": n, "variants": {"sft": figures, "rl": figures}, "differences": {"rl - sft": change}}


def ladder_results(n: int = 300) -> dict:
    noise = {"10 dB": rung(0.8, n), "0 dB": rung(0.5, n), HOSTILE: rung(0.3, n)}
    made = {
        "clean": {"about": "as spoken", "rungs": {"as spoken": rung(0.9, n)}},
        "noise": {"about": "n", "rungs": noise},
    }
    origin = {"model": HOSTILE, "weights": "abc", "seed": 0, "date": "2026-01-02", "commit": "d", "normaliser": "x"}
    return origin | {"variants": ["sft", "rl"], "left_out": ["people"], "sets": made}


def test_a_ladder_begins_with_the_clean_clips_and_has_a_bar_for_each_variant():
    shown = ladders.page(ladder_results())
    card = shown.partition('id="ev-noise"')[2].partition("</section>")[0]
    assert card.count('class="ev-bar"') == 8 and card.index("clean") < card.index("10 dB") < card.index("0 dB")
    assert "90.0" in card and "50.0" in card and "<summary>Tag F1 by place, tagged clips</summary>" in card
    assert "<img" not in shown and "Not installed where this was measured: people." in shown


def test_what_rl_changed_names_the_rungs_whose_interval_leaves_zero_out():
    shown = ladders.page(ladder_results())
    card = shown.partition("RL − SFT by rung")[2].partition("</section>")[0]
    assert "Better: Clean, Noise, 10 dB." in card and "Worse: Noise, &lt;img" in card
    assert card.count("ev-significant") == 3 and card.count("ev-not-significant") == 1


def test_few_clips_are_said_to_be_few():
    assert "too narrow" in ladders.page(ladder_results(5)) and "too narrow" not in ladders.page(ladder_results())


# ------------------------------------------------------------------------------------- confidence


def reliable(error: float, n: int = 400) -> dict:
    bins = [[5, 0.05, 0.6], [n, 0.85, 0.75], [n, 0.98, 0.97]]
    return {"n": 2 * n + 5, "probability": 0.9, "right": 0.85, "error": error, "low": 0.01, "high": 0.09, "bins": bins}


def test_every_category_has_its_curve_and_its_calibration_error():
    base = {"words": reliable(0.0432)}
    pool = {"base": base, "rl": base | {"non-verbal": reliable(0.0321), "emotion": reliable(0.02, n=3)}}  # 11: too few
    content = ladder_results() | {"variants": ["base", "rl"], "calibration": {"clean": pool, "every set": pool}}
    shown = reliability.page(content)
    assert "<img" not in shown and shown.count('role="img"') == 2
    words = shown.partition("<h2>Words</h2>")[2].partition("</section>")[0]
    assert words.count("4.3<small>1.0–9.0</small>") == 4 and words.count("<polyline") == 2
    assert "75 % right at 85 %" in words and "60 % right" not in words  # of five words: too few to draw
    sounds = shown.partition("<h2>Sounds</h2>")[2].partition("</section>")[0]
    assert sounds.count("3.2<small>") == 2 and sounds.count("<polyline") == 1
    assert "<h2>Emotions" not in shown and "<h2>Pauses" not in shown


def test_the_committed_figures_have_the_curves_of_words_and_of_tags():
    shown = reliability.page(LADDERS)
    for title in ("Words", "Sounds", "Pauses", "Deliveries", "Emotions"):
        assert f"<h2>{title}</h2>" in shown

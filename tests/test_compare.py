"""The Compare tab while text streams: the visitor's controls hold, and nothing that was written is lost."""

from pathlib import Path

import gradio as gr
import pytest
from conftest import spoken

from evoxtral import audio, tags
from evoxtral.ui import compare_events, compare_tab, decoder, history, view
from evoxtral.ui.compare_events import ViewState
from evoxtral.ui.comparison import Comparison
from evoxtral.ui.model import Model

SKIPPED = gr.skip()


@pytest.fixture(scope="module")
def tab(checkpoint) -> compare_tab.CompareTab:
    model = Model(str(Path(checkpoint.base).parent))
    model.engine()
    with gr.Blocks():
        return compare_tab.CompareTab(model, ())


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("clips") / "tone.wav"
    audio.save(path, spoken(6.0))
    return str(path)


def decoding(tab: compare_tab.CompareTab, view_state: ViewState, clip: str, reference: str = ""):
    return tab.decode("2026-11-22 14:32:05", "en", decoder.EVERYTHING, *controls(view_state, clip, reference))


def controls(view_state: ViewState, clip: str | None, reference: str = "", tags_on: bool = True) -> tuple:
    return view_state, tags_on, list(tags.CATEGORIES), 0, reference, clip


def test_the_last_step_shows_the_result_and_adds_it_to_the_history(tab, clip):
    (first, *_, last), view_state = list(decoding(tab, ViewState(), clip, "[sad] So.")), ViewState()
    assert first[:2] == (SKIPPED, SKIPPED) and "Decoding" in first[2]
    comparison, changes, _, columns = last
    assert comparison.done and comparison.clip == clip and changes == history.additions(*comparison.results)
    assert columns == compare_events.draw(comparison, view_state.tag_filter, "[sad] So.")


def test_a_slow_model_shows_one_text_before_the_others_and_says_that_they_follow(tab, clip, monkeypatch):
    monkeypatch.setitem(vars(tab.model.engine()), "seconds", 42.0)
    _, *steps, (last, _, _, columns) = decoding(tab, ViewState(), clip)
    told = [(comparison.results[0].written["rl"].done, status, drawn) for comparison, _, status, drawn in steps]
    assert {done for done, _, _ in told} >= {True}
    for done, status, drawn in told:
        assert ("RL is complete" if done else "RL comes first") + "; Base and SFT follow…" in status
        assert "data-edit" not in drawn, "an edit would be lost when the next text comes"
        assert ("data-speak" in drawn) <= done
    assert last.done and 'aria-busy="true"' not in columns


def test_a_control_changed_during_decoding_takes_effect_at_once(tab, clip):
    view_state = ViewState()
    steps = decoding(tab, view_state, clip)
    comparison = next(step[0] for step in steps if step[0] != SKIPPED)
    status, _ = compare_events.redraw(comparison, *controls(view_state, clip, tags_on=False))
    assert status == SKIPPED, "the line is the decoder's until it is done"
    for comparison, _, _, columns in steps:
        assert (
            columns == compare_events.draw(comparison, view_state.tag_filter, "") and view_state.tag_filter.words_alone
        )
    status, _ = compare_events.redraw(comparison, *controls(view_state, clip, tags_on=False))
    assert "ev-working" not in status


def test_of_two_clips_at_once_the_later_is_shown_and_both_are_in_the_history(tab, clip):
    view_state = ViewState()
    earlier = decoding(tab, view_state, clip)
    next(earlier), next(earlier)
    *_, (later, kept, _, _) = decoding(tab, view_state, clip)
    *drawn, (comparison, changes, status, columns) = earlier
    assert {item for step in drawn for item in map(str, step)} <= {str(SKIPPED)}
    assert (comparison, status, columns) == (SKIPPED,) * 3
    assert [change["add"]["id"] for change in changes] != [change["add"]["id"] for change in kept]
    assert kept == history.additions(*later.results) and not view_state.decoding
    ids = [result[0]["add"]["id"] for result in (changes, kept)]
    assert ids == sorted(ids), "the history knows the order, within a second too"


def test_text_before_a_failure_is_kept_and_marked_truncated(tab, clip):
    view_state = ViewState()
    steps = decoding(tab, view_state, clip)
    partial = next(step[0] for step in steps if step[0] != SKIPPED and all_begun(step[0]))
    steps.close()
    assert not view_state.decoding
    comparison, changes, status, columns = compare_events.decode_failed(False, partial, *controls(view_state, clip))
    assert comparison.done and 'aria-busy="true"' not in columns and "Cut short" in columns
    assert changes == history.additions(*comparison.results) and compare_events.INTERRUPTED in status
    assert [t.text for t in texts(comparison)] == [t.text for t in texts(partial)]
    assert all(t.truncated for t in texts(comparison))


def test_the_status_line_shows_waiting_until_decoding_or_failure(tab, clip):
    view_state = ViewState()
    *_, (comparison, *_) = decoding(tab, view_state, clip)
    ends = [
        lambda: list(decoding(tab, view_state, clip)),
        lambda: compare_events.decode_failed(True, None, *controls(view_state, clip)),
    ]
    for end in ends:
        assert compare_events.WAITING in compare_events.enqueue(*controls(view_state, clip))
        assert compare_events.redraw(comparison, *controls(view_state, clip))[0] == SKIPPED
        end()
        assert compare_events.redraw(comparison, *controls(view_state, clip))[0] != SKIPPED


def test_a_queued_clip_does_not_replace_the_status_of_the_current_one(tab, clip):
    view_state = ViewState()
    steps = decoding(tab, view_state, clip)
    next(steps)
    assert compare_events.enqueue(*controls(view_state, clip)) == SKIPPED
    steps.close()


def test_compare_without_a_clip_is_an_error_at_once():
    view_state = ViewState()
    assert decoder.NO_CLIP in compare_events.enqueue(*controls(view_state, None)) and not view_state.decoding


def test_a_new_clip_clears_the_error_of_the_last_one(tab, clip):
    view_state = ViewState()
    assert compare_events.READY in compare_events.reset_status(None, *controls(view_state, None))
    *_, (comparison, *_) = decoding(tab, view_state, clip)
    assert (
        compare_events.reset_status(comparison, *controls(view_state, "new.wav"))
        == compare_events.redraw(comparison, *controls(view_state, clip))[0]
    )
    compare_events.enqueue(*controls(view_state, clip))
    assert compare_events.reset_status(comparison, *controls(view_state, "new.wav")) == SKIPPED


def test_an_unusable_clip_clears_the_columns_unless_a_later_one_is_shown(tab, clip):
    view_state = ViewState()
    *_, (comparison, changes, status, columns) = decoding(tab, view_state, "gone.wav")
    assert (comparison, changes, columns) == (None, [], view.draw_empty_columns()) and decoder.CLIP_DELETED in status
    earlier = decoding(tab, view_state, "gone.wav")
    next(earlier)
    later = decoding(tab, view_state, clip)
    next(later)
    comparison, changes, status, columns = next(earlier)
    assert (comparison, changes, columns) == (SKIPPED, [], SKIPPED) and decoder.CLIP_DELETED in status
    later.close()


def test_a_full_queue_keeps_the_clip_in_progress_on_the_screen(tab, clip):
    view_state = ViewState()
    steps = decoding(tab, view_state, clip)
    partial = next(step[0] for step in steps if step[0] != SKIPPED)
    comparison, changes, status, columns = compare_events.decode_failed(True, partial, *controls(view_state, clip))
    assert (comparison, changes, columns) == (SKIPPED, [], SKIPPED) and compare_events.QUEUE_FULL in status
    steps.close()


@pytest.mark.parametrize(
    ("full", "sentence"), [(True, compare_events.QUEUE_FULL), (False, compare_events.DECODE_FAILED), (None, "again")]
)
def test_a_clip_that_was_never_decoded_keeps_the_last_result_on_the_screen(full, sentence):
    comparison, changes, status, columns = compare_events.decode_failed(full, None, *controls(ViewState(), "tone.wav"))
    assert (comparison, changes, columns) == (SKIPPED, [], SKIPPED) and sentence in status


def texts(comparison: Comparison) -> list:
    (result,) = comparison.results
    return list(result.written.values())


def all_begun(comparison: Comparison) -> bool:
    return not comparison.done and all(transcript.text for transcript in texts(comparison))

"""The Compare tab while text streams: the visitor's controls hold, and nothing that was written is lost."""

from pathlib import Path

import gradio as gr
import pytest
from conftest import tone

from evoxtral import audio, tags
from evoxtral.ui import compare, history, view
from evoxtral.ui.compare import ViewState
from evoxtral.ui.model import Model

SKIPPED = gr.skip()


@pytest.fixture(scope="module")
def tab(checkpoint) -> compare.CompareTab:
    model = Model(str(Path(checkpoint.base).parent))
    model.engine()
    with gr.Blocks():
        return compare.CompareTab(model, ())


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("clips") / "tone.wav"
    audio.save(path, tone(6.0))
    return str(path)


def decoding(tab: compare.CompareTab, view_state: ViewState, clip: str, reference: str = ""):
    return tab.decode("2026-11-22 14:32:05", "en", *controls(view_state, clip, reference))


def controls(view_state: ViewState, clip: str | None, reference: str = "", tags_on: bool = True) -> tuple:
    return view_state, tags_on, list(tags.CATEGORIES), 0, reference, clip


def test_the_last_step_puts_the_result_on_the_screen_and_into_the_history(tab, clip):
    (first, *_, last), view_state = list(decoding(tab, ViewState(), clip, "[sad] So.")), ViewState()
    assert first[:2] == (SKIPPED, SKIPPED) and "Decoding" in first[2]
    comparison, changes, _, columns = last
    assert comparison.done and comparison.clip == clip and changes == history.additions(*comparison.results)
    assert columns == compare.draw(comparison, view_state.tag_filter, "[sad] So.")


def test_a_control_that_is_moved_while_text_streams_holds_from_then_on(tab, clip):
    view_state = ViewState()
    steps = decoding(tab, view_state, clip)
    comparison = next(step[0] for step in steps if step[0] != SKIPPED)
    status, _ = compare.redraw(comparison, *controls(view_state, clip, tags_on=False))
    assert status == SKIPPED, "the line is the decoder's until it is done"
    for comparison, _, _, columns in steps:
        assert columns == compare.draw(comparison, view_state.tag_filter, "") and view_state.tag_filter.words_alone
    status, _ = compare.redraw(comparison, *controls(view_state, clip, tags_on=False))
    assert "ev-working" not in status


def test_of_two_clips_at_once_the_later_has_the_screen_and_the_earlier_goes_to_the_history(tab, clip):
    view_state = ViewState()
    earlier = decoding(tab, view_state, clip)
    next(earlier), next(earlier)
    *_, (tag_filter, kept, _, _) = decoding(tab, view_state, clip)
    *drawn, (comparison, changes, status, columns) = earlier
    assert {item for step in drawn for item in map(str, step)} <= {str(SKIPPED)}
    assert (comparison, status, columns) == (SKIPPED,) * 3
    assert [change["add"]["id"] for change in changes] != [change["add"]["id"] for change in kept]
    assert kept == history.additions(*tag_filter.results) and not view_state.decoding
    ids = [result[0]["add"]["id"] for result in (changes, kept)]
    assert ids == sorted(ids), "the history knows the order, within a second too"


def test_what_was_written_before_a_break_is_kept_and_said_to_be_cut(tab, clip):
    view_state = ViewState()
    steps = decoding(tab, view_state, clip)
    partial = next(step[0] for step in steps if step[0] != SKIPPED and all_begun(step[0]))
    steps.close()
    assert not view_state.decoding
    comparison, changes, status, columns = compare.decode_failed(False, partial, *controls(view_state, clip))
    assert comparison.done and 'aria-busy="true"' not in columns and "Cut short" in columns
    assert changes == history.additions(*comparison.results) and compare.INTERRUPTED in status
    assert [t.text for t in texts(comparison)] == [t.text for t in texts(partial)]
    assert all(t.truncated for t in texts(comparison))


def test_the_line_says_that_a_clip_waits_until_it_is_decoded_or_cannot_be(tab, clip):
    view_state = ViewState()
    *_, (comparison, *_) = decoding(tab, view_state, clip)
    ends = [
        lambda: list(decoding(tab, view_state, clip)),
        lambda: compare.decode_failed(True, None, *controls(view_state, clip)),
    ]
    for end in ends:
        assert compare.WAITING in compare.enqueue(*controls(view_state, clip))
        assert compare.redraw(comparison, *controls(view_state, clip))[0] == SKIPPED
        end()
        assert compare.redraw(comparison, *controls(view_state, clip))[0] != SKIPPED


def test_a_clip_that_is_sent_while_another_is_decoded_leaves_the_line_to_that_one(tab, clip):
    view_state = ViewState()
    steps = decoding(tab, view_state, clip)
    next(steps)
    assert compare.enqueue(*controls(view_state, clip)) == SKIPPED
    steps.close()


def test_without_a_clip_nobody_waits_to_be_told_so():
    view_state = ViewState()
    assert compare.NO_CLIP in compare.enqueue(*controls(view_state, None)) and not view_state.decoding


def test_a_new_clip_takes_away_what_was_wrong_with_the_last_one_and_no_other_line(tab, clip):
    view_state = ViewState()
    assert compare.READY in compare.reset_status(None, *controls(view_state, None))
    *_, (comparison, *_) = decoding(tab, view_state, clip)
    assert (
        compare.reset_status(comparison, *controls(view_state, "new.wav"))
        == compare.redraw(comparison, *controls(view_state, clip))[0]
    )
    compare.enqueue(*controls(view_state, clip))
    assert compare.reset_status(comparison, *controls(view_state, "new.wav")) == SKIPPED


def test_a_clip_that_cannot_be_used_takes_the_screen_only_while_no_later_one_has_it(tab, clip):
    view_state = ViewState()
    *_, (comparison, changes, status, columns) = decoding(tab, view_state, "gone.wav")
    assert (comparison, changes, columns) == (None, [], view.draw_empty_columns()) and compare.CLIP_DELETED in status
    earlier = decoding(tab, view_state, "gone.wav")
    next(earlier)
    later = decoding(tab, view_state, clip)
    next(later)
    comparison, changes, status, columns = next(earlier)
    assert (comparison, changes, columns) == (SKIPPED, [], SKIPPED) and compare.CLIP_DELETED in status
    later.close()


def test_a_full_queue_leaves_a_clip_that_is_being_decoded_on_the_screen(tab, clip):
    view_state = ViewState()
    steps = decoding(tab, view_state, clip)
    partial = next(step[0] for step in steps if step[0] != SKIPPED)
    comparison, changes, status, columns = compare.decode_failed(True, partial, *controls(view_state, clip))
    assert (comparison, changes, columns) == (SKIPPED, [], SKIPPED) and compare.QUEUE_FULL in status
    steps.close()


@pytest.mark.parametrize(
    ("full", "sentence"), [(True, compare.QUEUE_FULL), (False, compare.DECODE_FAILED), (None, "again")]
)
def test_a_clip_that_was_never_begun_leaves_the_result_before_on_the_screen(full, sentence):
    comparison, changes, status, columns = compare.decode_failed(full, None, *controls(ViewState(), "tone.wav"))
    assert (comparison, changes, columns) == (SKIPPED, [], SKIPPED) and sentence in status


def texts(comparison: compare.Comparison) -> list:
    (result,) = comparison.results
    return list(result.written.values())


def all_begun(comparison: compare.Comparison) -> bool:
    return not comparison.done and all(transcript.text for transcript in texts(comparison))

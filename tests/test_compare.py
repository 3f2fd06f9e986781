"""The Compare tab while text streams: the visitor's controls hold, and nothing that was written is lost."""

from pathlib import Path

import gradio as gr
import pytest
from conftest import tone

from evoxtral import audio, tags
from evoxtral.ui import compare, history, view
from evoxtral.ui.compare import Look
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


def decoding(tab: compare.CompareTab, look: Look, clip: str, reference: str = ""):
    return tab.decode("2026-11-22 14:32:05", "en", *controls(look, clip, reference))


def controls(look: Look, clip: str | None, reference: str = "", tags_on: bool = True) -> tuple:
    return look, tags_on, list(tags.CATEGORIES), 0, reference, clip


def test_the_last_step_puts_the_result_on_the_screen_and_into_the_history(tab, clip):
    (first, *_, last), look = list(decoding(tab, Look(), clip, "[sad] So.")), Look()
    assert first[:2] == (SKIPPED, SKIPPED) and "Decoding" in first[2]
    on_screen, changes, _, columns = last
    assert on_screen.done and on_screen.clip == clip and changes == history.added(*on_screen.results)
    assert columns == compare.draw(on_screen, look.shown, "[sad] So.")


def test_a_control_that_is_moved_while_text_streams_holds_from_then_on(tab, clip):
    look = Look()
    steps = decoding(tab, look, clip)
    on_screen = next(step[0] for step in steps if step[0] != SKIPPED)
    status, _ = compare.redraw(on_screen, *controls(look, clip, tags_on=False))
    assert status == SKIPPED, "the line is the decoder's until it is done"
    for on_screen, _, _, columns in steps:
        assert columns == compare.draw(on_screen, look.shown, "") and look.shown.words_alone
    status, _ = compare.redraw(on_screen, *controls(look, clip, tags_on=False))
    assert "ev-working" not in status


def test_of_two_clips_at_once_the_later_has_the_screen_and_the_earlier_goes_to_the_history(tab, clip):
    look = Look()
    earlier = decoding(tab, look, clip)
    next(earlier), next(earlier)
    *_, (shown, kept, _, _) = decoding(tab, look, clip)
    *drawn, (on_screen, changes, status, columns) = earlier
    assert {item for step in drawn for item in map(str, step)} <= {str(SKIPPED)}
    assert (on_screen, status, columns) == (SKIPPED,) * 3
    assert [change["add"]["id"] for change in changes] != [change["add"]["id"] for change in kept]
    assert kept == history.added(*shown.results) and not look.decoding
    ids = [result[0]["add"]["id"] for result in (changes, kept)]
    assert ids == sorted(ids), "the history knows the order, within a second too"


def test_what_was_written_before_a_break_is_kept_and_said_to_be_cut(tab, clip):
    look = Look()
    steps = decoding(tab, look, clip)
    partial = next(step[0] for step in steps if step[0] != SKIPPED and all_begun(step[0]))
    steps.close()
    assert not look.decoding
    on_screen, changes, status, columns = compare.not_decoded(False, partial, *controls(look, clip))
    assert on_screen.done and 'aria-busy="true"' not in columns and "Cut short" in columns
    assert changes == history.added(*on_screen.results) and compare.BROKEN_OFF in status
    assert [t.text for t in texts(on_screen)] == [t.text for t in texts(partial)]
    assert all(t.truncated for t in texts(on_screen))


def test_the_line_says_that_a_clip_waits_until_it_is_decoded_or_cannot_be(tab, clip):
    look = Look()
    *_, (on_screen, *_) = decoding(tab, look, clip)
    ends = [lambda: list(decoding(tab, look, clip)), lambda: compare.not_decoded(True, None, *controls(look, clip))]
    for end in ends:
        assert compare.WAITING in compare.send(*controls(look, clip))
        assert compare.redraw(on_screen, *controls(look, clip))[0] == SKIPPED
        end()
        assert compare.redraw(on_screen, *controls(look, clip))[0] != SKIPPED


def test_a_clip_that_is_sent_while_another_is_decoded_leaves_the_line_to_that_one(tab, clip):
    look = Look()
    steps = decoding(tab, look, clip)
    next(steps)
    assert compare.send(*controls(look, clip)) == SKIPPED
    steps.close()


def test_without_a_clip_nobody_waits_to_be_told_so():
    look = Look()
    assert compare.NO_CLIP in compare.send(*controls(look, None)) and not look.decoding


def test_a_new_clip_takes_away_what_was_wrong_with_the_last_one_and_no_other_line(tab, clip):
    look = Look()
    assert compare.READY in compare.begin(None, *controls(look, None))
    *_, (on_screen, *_) = decoding(tab, look, clip)
    assert compare.begin(on_screen, *controls(look, "new.wav")) == compare.redraw(on_screen, *controls(look, clip))[0]
    compare.send(*controls(look, clip))
    assert compare.begin(on_screen, *controls(look, "new.wav")) == SKIPPED


def test_a_clip_that_cannot_be_used_takes_the_screen_only_while_no_later_one_has_it(tab, clip):
    look = Look()
    *_, (on_screen, changes, status, columns) = decoding(tab, look, "gone.wav")
    assert (on_screen, changes, columns) == (None, [], view.empty_cards()) and compare.CLEANED in status
    earlier = decoding(tab, look, "gone.wav")
    next(earlier)
    later = decoding(tab, look, clip)
    next(later)
    on_screen, changes, status, columns = next(earlier)
    assert (on_screen, changes, columns) == (SKIPPED, [], SKIPPED) and compare.CLEANED in status
    later.close()


def test_a_full_queue_leaves_a_clip_that_is_being_decoded_on_the_screen(tab, clip):
    look = Look()
    steps = decoding(tab, look, clip)
    partial = next(step[0] for step in steps if step[0] != SKIPPED)
    on_screen, changes, status, columns = compare.not_decoded(True, partial, *controls(look, clip))
    assert (on_screen, changes, columns) == (SKIPPED, [], SKIPPED) and compare.FULL in status
    steps.close()


@pytest.mark.parametrize(("full", "sentence"), [(True, compare.FULL), (False, compare.NOT_DECODED), (None, "again")])
def test_a_clip_that_was_never_begun_leaves_the_result_before_on_the_screen(full, sentence):
    on_screen, changes, status, columns = compare.not_decoded(full, None, *controls(Look(), "tone.wav"))
    assert (on_screen, changes, columns) == (SKIPPED, [], SKIPPED) and sentence in status


def texts(on_screen: compare.Shown) -> list:
    (result,) = on_screen.results
    return list(result.written.values())


def all_begun(on_screen: compare.Shown) -> bool:
    return not on_screen.done and all(transcript.text for transcript in texts(on_screen))

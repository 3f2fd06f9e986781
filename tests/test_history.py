"""What clips gave: kept in the browser and read back whatever is found there, changed by hand, exported together."""

import io
import json
import zipfile
from dataclasses import replace

import gradio as gr
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evoxtral import tags
from evoxtral.transcript import Cue, Token, Transcript
from evoxtral.ui import history, history_tab
from evoxtral.ui.compare_events import Controls, ViewState, edit, redraw, save_draft, set_reference
from evoxtral.ui.comparison import Comparison
from evoxtral.ui.history import Result, with_texts

HOSTILE = '<img src=x onerror=alert(1)> ${1} [<b>] "&\n'
PIECES = st.sampled_from(["[laughs]", "[sad]", "[", "]", " ", "so", "NO", ",", "\n"])
TEXTS = st.lists(PIECES, max_size=8).map(lambda pieces: "".join(pieces).strip())


def transcript(*texts: str, probability: float = 0.5) -> Transcript:
    """Segments of two seconds; each tag and each stretch of text is one token."""
    cues = (
        Cue(2.0 * i, 2.0 * i + 2, tuple(Token(piece.raw, probability) for piece in tags.parse(text)))
        for i, text in enumerate(texts)
    )
    return Transcript(tuple(cues), duration=2.0 * len(texts), elapsed=0.25)


def result(number: str = "a", file: str = "clip.wav", **written: Transcript) -> Result:
    return Result(number, file, "tiny", "2026-11-22 14:32:05", written or {"rl": transcript("[sad] It is over.")})


def browser(*results: Result) -> object:
    """What comes back from the browser for what was sent to it."""
    return json.loads(json.dumps([change["add"] for change in history.additions(*results)]))


def written(kept: object, changes: list[dict]) -> tuple[Result, ...]:
    """What the browser has after changes to what it had, as `page.js` makes them."""
    stored = {entry["id"]: entry for entry in json.loads(json.dumps(kept))}
    for change in json.loads(json.dumps(changes)):
        entry = stored[change.pop("id")]
        entry["edits"].update(change.pop("edits", {}))
        entry["edits"] = {variant: texts for variant, texts in entry["edits"].items() if texts is not None}
        entry.update(change)
    return history.parse_stored(list(stored.values()))


# ------------------------------------------------------------------------------------- storage


def test_a_result_survives_the_browsers_storage():
    first = result(
        "a", HOSTILE, base=transcript("It is over.", "So."), rl=transcript("[sad] It is OVER.", "[sighs] So.")
    )
    second = replace(first, id="b", reference=HOSTILE).with_edit("rl", ["[sad] It is over!", HOSTILE])
    assert history.parse_stored(browser(first, second)) == (first, second)


def test_no_more_results_are_read_than_the_limit():
    many = [result(str(number)) for number in range(history.MAX_RESULTS + 3)]
    assert history.parse_stored(browser(*many)) == tuple(many[3:])


def test_only_changes_are_sent_to_the_browser():
    before = result(sft=transcript("So."), rl=transcript("So.")).with_edit("sft", ["Well."])
    after = replace(before.without_edit("sft").with_edit("rl", ["Oh."]), reference="So.")
    changes = history.updates([before], [after])
    assert changes == [{"id": "a", "reference": "So.", "edits": {"sft": None, "rl": ["Oh."]}}]
    assert written(browser(before), changes) == (after,)
    assert history.updates([after], [after]) == []


def test_half_an_hour_in_three_variants_fits_the_storage_with_the_times_of_all_words():
    def times(cue: int, token: int) -> tuple[float, float]:
        return 30 * cue + 0.25 * token + 0.1, 30 * cue + 0.25 * token + 0.3  # with all the digits that sums have

    speech = transcript(*["[sighs] " + "Every word of it is written down here, and here. " * 9] * 60)
    long = Transcript(
        tuple(
            replace(cue, tokens=tuple(Token(f"{i % 977:04}", 0.12345678, *times(k, i)) for i in range(120)))
            for k, cue in enumerate(speech.cues)
        ),
        1800.0,
        60.0,
    )
    stored = browser(result(base=long, sft=long, rl=long))
    assert len(json.dumps(stored)) < history.MAX_CHARACTERS
    (found,) = history.parse_stored(stored)
    token = found.written["rl"].cues[59].tokens[119]
    assert token == Token("0119", 0.1235, 1799.85, 1800.05)


@pytest.mark.parametrize(
    "stored",
    [None, "", "text", 7, {}, {"id": "a"}, [None, 1, "x", [], {}], [{"id": 1}], [[[[]]]], [{"written": {"rl": {}}}]],
)
def test_invalid_storage_is_an_empty_history(stored):
    assert history.parse_stored(stored) == ()
    assert "Nothing yet" in history_tab.list_results(stored, [], None)[0]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("id",), 5),
        (("file",), None),
        (("written",), {}),
        (("written", "rl", "cues", 0, "tokens", 0, 1), 1.5),
        (("written", "rl", "cues", 0, "tokens", 0), ["only text"]),
        (("written", "rl", "cues", 0, "end"), 1e300),
        (("written", "rl", "cues", 0, "start"), -1),
        (("written", "rl", "duration"), float("nan")),
        (("written", "rl", "done"), False),
        (("edits",), {"sft": ["not there"]}),
        (("edits",), {"rl": ["one", "too many"]}),
    ],
)
def test_a_damaged_result_is_skipped(place, value):
    damaged, sound = browser(result("damaged"), result("sound"))
    part = damaged
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    assert [kept.id for kept in history.parse_stored([damaged, sound])] == ["sound"]


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_whatever_is_stored_can_be_read(stored):
    assert history.parse_stored(stored) == ()


# ------------------------------------------------------------------------------------- edits


def test_kept_tags_keep_their_probability_and_typed_ones_have_none():
    written = transcript("[sad] It is over. [sighs]", probability=0.5)
    edited = with_texts(written, ["[sad] It is NOT over. [laughs] [sighs]"])
    assert edited.edited and edited.text == "[sad] It is NOT over. [laughs] [sighs]"
    assert [(span.name, span.probability) for span in edited.tags] == [("sad", 0.5), ("laughs", None), ("sighs", 0.5)]
    moved = with_texts(written, ["It is over. [sad]"])
    assert [(span.name, span.probability) for span in moved.tags] == [("sad", None)]


def test_each_segment_is_edited_by_itself_and_keeps_its_times():
    written = transcript("[sad] One.", "Two.", "[sighs] Three.")
    edited = with_texts(written, ["[sad] One.", "", "[sighs] Three, at last."])
    assert edited.cues[0] == written.cues[0]
    assert [(cue.start, cue.text) for cue in edited.cues] == [
        (0.0, "[sad] One."),
        (2.0, ""),
        (4.0, "[sighs] Three, at last."),
    ]
    assert [span.probability for span in edited.tags] == [0.5, 0.5]
    assert edited.to_srt().count("-->") == 2


@given(st.lists(TEXTS, min_size=1, max_size=3), st.data())
def test_any_edit_is_exported_as_it_was_typed(before, data):
    typed = data.draw(st.lists(TEXTS, min_size=len(before), max_size=len(before)))
    written = transcript(*before)
    edited = with_texts(written, typed)
    assert edited.text == " ".join(text for text in typed if text)
    assert all(span.probability in (None, 0.5) or span.probability < 0.5 for span in edited.tags)
    same = with_texts(written, [cue.text for cue in written.cues])
    assert (same.text, same.tags) == (written.text, written.tags)


def test_undoing_an_edit_restores_the_models_text():
    before = result()
    after = before.with_edit("rl", ["[laughs] It is OVER!"])
    assert after.transcripts["rl"].text == "[laughs] It is OVER!" and after.written == before.written
    assert after.without_edit("rl") == before
    assert before.with_edit("rl", ["  [sad] It is over. "]) == before  # nothing has changed: not an edit


# ------------------------------------------------------------------------------------- exports


def test_the_json_list_is_that_of_the_command_line_and_marks_edits():
    (entry,) = json.loads(history.to_json([result(base=transcript("It is over."), rl=transcript("[sad] It is over."))]))
    assert list(entry) == ["file", "duration", "model", "variants", "incomplete", "notes", "track", "channel"]
    names = ["text", "plain", "tags", "elapsed", "truncated", "confidence", "doubtful", "segments", "cues", "words"]
    assert list(entry["variants"]["rl"]) == names
    (tag,) = entry["variants"]["rl"]["tags"]
    assert tag["name"] == "sad" and tag["probability"] == entry["variants"]["rl"]["words"][0]["probability"] == 0.5
    (changed,) = json.loads(history.to_json([result().with_edit("rl", ["[laughs] It is over."])]))
    assert changed["variants"]["rl"]["edited"] and changed["variants"]["rl"]["text"] == "[laughs] It is over."


def test_the_archive_has_every_text_in_every_format_under_harmless_names():
    packed = history.to_zip(
        [result("a", "../../etc/x <b>.wav", **{"../rl": transcript("[sad] It is over.")}), result("b")]
    )
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        names = archive.namelist()
        assert names[:3] == ["results.json", "01-x-b/rl.txt", "01-x-b/rl.json"]
        assert {name.rsplit(".")[-1] for name in names} == {"json", "txt", "srt", "vtt"}
        assert not [name for name in names if ".." in name or name.startswith("/")]
        assert archive.read("02-clip/rl.txt").decode() == "[sad] It is over."


# ------------------------------------------------------------------------------------- on the page

EVERYTHING = Controls(ViewState(), True, list(tags.CATEGORIES), 0, "", None)


def button(action: str, comparison: Comparison, column: str, *texts: str) -> gr.EventData:
    """A button of a column's editor, and the texts in it where it is open."""
    place = {"column": column, "result": comparison.cells()[column][0].id}
    return gr.EventData(None, {"action": action, **place, "draft": {**place, "texts": list(texts)} if texts else None})


def left_editor(comparison: Comparison, column: str, *texts: str) -> gr.EventData:
    """The editor of a column, left for another place of the page."""
    return gr.EventData(None, button("", comparison, column, *texts).draft)


def test_an_edit_is_shown_marked_stored_and_can_be_undone():
    comparison, kept = Comparison((result(),)), browser(result("other"), result())
    comparison, changes, _, drawn = edit(button("open", comparison, "rl"), comparison, *EVERYTHING)
    assert changes == []
    assert "<textarea" in drawn
    done = button("done", comparison, "rl", "[sad] <b>No.</b>")
    comparison, changes, _, drawn = edit(done, comparison, *EVERYTHING)
    assert "edited</span>" in drawn and "&lt;b&gt;No.&lt;/b&gt;" in drawn and "<textarea" not in drawn
    assert written(kept, changes)[1].transcripts["rl"].text == "[sad] <b>No.</b>"
    comparison, undone, _, drawn = edit(button("undo", comparison, "rl"), comparison, *EVERYTHING)
    assert written(kept, changes + undone) == (result("other"), result()) and "edited</span>" not in drawn


def test_a_draft_is_stored_when_its_editor_loses_the_focus():
    comparison, kept = Comparison((result(),)), browser(result())
    comparison, changes = save_draft(left_editor(comparison, "rl", HOSTILE), comparison)
    assert written(kept, changes)[0].edits == {"rl": (HOSTILE.strip(),)}
    comparison, more = save_draft(left_editor(comparison, "rl", "[sad] It is over."), comparison)
    assert written(kept, changes + more)[0].edits == {}, "what is put right by hand is the model's again"
    assert save_draft(left_editor(comparison, "rl", "[sad] It is over."), comparison) == (comparison, [])


def test_opening_another_editor_stores_the_draft_of_the_first():
    comparison = Comparison((result(sft=transcript("So."), rl=transcript("So.")),), editing="sft")
    opening = button("open", comparison, "rl")
    opening._data["draft"] = left_editor(comparison, "sft", "Well.")._data
    comparison, *_ = edit(opening, comparison, *EVERYTHING)
    assert (comparison.editing, comparison.results[0].edits) == ("rl", {"sft": ("Well.",)})


def test_an_edit_of_columns_that_have_new_results_changes_nothing():
    late = Comparison((result("a"),))
    now = Comparison((result("b"),))
    assert edit(button("done", late, "rl", "of the clip before"), now, *EVERYTHING)[:2] == (now, [])
    assert save_draft(left_editor(late, "rl", "of the clip before"), now) == (now, [])


def test_a_reference_entered_later_is_stored_with_its_result():
    comparison, changes = set_reference(Comparison((result(),), clip="clip.wav"), "[sad] Over.", "clip.wav")
    assert written(browser(result()), changes) == comparison.results
    assert comparison.results[0].reference == "[sad] Over."


@pytest.mark.parametrize("recorder", ["another.wav", None])
def test_a_reference_for_the_next_clip_is_not_stored_with_the_last(recorder):
    shown = Comparison((replace(result(), reference="[sad] It is over."),), clip="clip.wav")
    assert set_reference(shown, "Of the next clip.", recorder) == (gr.skip(), [])
    _, of_this = redraw(shown, *EVERYTHING[:-2], "Of the next clip.", "clip.wav")
    _, drawn = redraw(shown, *EVERYTHING[:-2], "Of the next clip.", recorder)
    assert "ev-missing" in of_this and "ev-missing" not in drawn and "ev-scores" in drawn


def test_a_single_result_is_shown_with_its_reference():
    old = replace(result("a"), reference="[sad] Over.")
    comparison, reference, _ = history_tab.chosen_results(browser(old, result("b")), ["a"], "rl", None)
    assert comparison.results == (old,) and reference == "[sad] Over."
    assert [column.key for column in comparison.columns()] == ["rl"]


def test_the_reference_box_belongs_to_the_clip_in_the_recorder():
    old = replace(result("a"), reference="[sad] Over.")
    comparison, reference, _ = history_tab.chosen_results(browser(old), ["a"], "rl", "clip.wav")
    assert reference == gr.skip()
    (column,) = comparison.columns()
    assert column.reference == "[sad] Over."
    assert (
        set_reference(comparison, "of the clip in the recorder", "clip.wav")
        == set_reference(comparison, "", None)
        == (gr.skip(), [])
    )
    status, columns = redraw(comparison, *EVERYTHING._replace(reference="of another", clip="clip.wav"))
    assert columns == redraw(comparison, *EVERYTHING)[1] and "ev-scores" in columns


def test_several_results_are_compared_in_one_variant_and_edited_separately():
    three = result("a", "one.wav"), result("b", "two.wav", base=transcript("So.")), result("c", "three.wav")
    comparison, reference, _ = history_tab.chosen_results(browser(*three), ["a", "b", "c"], "rl", None)
    assert [column.heading.title for column in comparison.columns()] == ["1. one.wav", "3. three.wav"]
    assert reference == ""
    comparison, *_ = edit(button("done", comparison, "3.rl", "[laughs] So."), comparison, *EVERYTHING)
    assert [column.transcript.text for column in comparison.columns()] == ["[sad] It is over.", "[laughs] So."]


def test_showing_results_deleted_in_another_tab_changes_nothing():
    assert history_tab.chosen_results(browser(result()), ["gone"], "rl", None) == (gr.skip(),) * 3


def test_a_missing_variant_is_replaced_by_an_existing_one():
    two = result("a"), result("b")
    comparison, *_ = history_tab.chosen_results(browser(*two), ["a", "b"], "of a model before", None)
    assert [column.key for column in comparison.columns()] == ["1.rl", "2.rl"]


def test_downloads_have_the_chosen_results_or_all():
    kept = browser(result("a", "one.wav"), result("b", "two.wav"))
    assert "all results" in history_tab.downloads(kept, []) and "two.wav" in history_tab.downloads(kept, [])
    chosen = history_tab.downloads(kept, ["a"])
    assert "1 chosen result" in chosen and "one.wav" in chosen and "two.wav" not in chosen


def test_a_result_stays_ticked_until_it_is_deleted():
    kept = browser(result("a"), result("b"))
    _, _, same, variant = history_tab.list_results(kept, ["a"], "rl")
    assert "value" not in same.constructor_args and "value" not in variant.constructor_args
    _, _, fewer, variant = history_tab.list_results(kept, ["a", "gone"], "sft")
    assert fewer.value == ["a"] and variant.value == "rl"

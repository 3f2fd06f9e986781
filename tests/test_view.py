"""Transcripts on the screen: what is shown and marked, and that nothing a model writes becomes markup."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evoxtral import metrics, tags
from evoxtral.transcript import Cue, Token, Transcript
from evoxtral.ui import diff, markup, status_line, view, wording
from evoxtral.ui.view import Column, Filter

HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '[laughs" onmouseover="alert(1)] hello',
    "[<b>bold</b>] </p></div></article>",
    "${alert(1)} {{constructor}} `${1}`",
    "&lt;script&gt; &amp; \"quotes\" 'single'",
    "[javascript:alert(1)] ]] [[ [] [ ]",
)
TAGGED_TEXT = st.lists(
    st.sampled_from(["[laughs]", "[ Sad ]", "[nonsense]", "[", "]", "[]", " ", "NO", "so", "<b>", '"', "&", "…", "\n"])
).map("".join)
ELEMENTS = {"p", "span", "em", "mark", "del"}
ATTRIBUTES = {"class", "tabindex", "role", "aria-label", "style", "data-tip"}


def test_notes_on_the_recording_follow_the_text():
    written = Transcript((Cue(0.0, 1.0, (Token("So.", 1.0),)),), 1.0, 0.1, incomplete="ends after 1.0 of 3.0 s")
    html = str(view._about_recording(replace(written, notes=("track 2 is left out: it is silent",))))
    assert "incomplete: it ends after 1.0 of 3.0 s. Track 2 is left out: it is silent." in html
    assert not view._about_recording(replace(written, done=False))


class Page(HTMLParser):
    """The elements, attributes and text of some HTML, as a browser would read them."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(str(html))
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def named(self, name: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.elements if tag == name]

    def of_class(self, name: str) -> list[dict[str, str]]:
        return [attributes for _, attributes in self.elements if name in (attributes.get("class") or "").split()]


def transcript(text: str, probability: float | None = 0.9, done: bool = True, truncated: bool = False) -> Transcript:
    """One cue of four seconds, one token for each tag and each stretch of text, decoded in two seconds."""
    tokens = tuple(Token(piece.raw, probability) for piece in tags.parse(text))
    return Transcript((Cue(0.0, 4.0, tokens, truncated),), duration=4.0, elapsed=2.0, done=done)


def column(made: Transcript, variant: str = "rl", stem: str = "transcript") -> Column:
    return Column(variant, view.heading(variant), made, made, stem)


def clip(said: str = "", **transcripts: Transcript) -> list[Column]:
    """The columns of one clip, by variant. said: its reference."""
    return [replace(column(made, variant), reference=said) for variant, made in transcripts.items()]


def sure(text: str, probability: float | None) -> dict[int, float | None]:
    """The same probability for every tag of a text, by its position."""
    return {span.offset: probability for span in transcript(text).tags}


def shown_text(html: str) -> str:
    """What a reader sees in the text of a column, white space aside."""
    inner = html.split('class="ev-text"', 1)[1].split(">", 1)[1].split("</div>", 1)[0]
    return " ".join(Page(inner).text.split())


# ------------------------------------------------------------------------------------- escaping


@given(TAGGED_TEXT | st.text())
def test_any_text_is_escaped(text):
    marks = diff.mark_against_reference("quite another [sad] reference <b>", text)
    page = Page(markup.tagged_text(text, {}))
    assert " ".join(page.text.split()) == " ".join(text.split())
    for html in (page, Page(markup.tagged_text(text, sure(text, 0.5), marks))):
        assert {name for name, _ in html.elements} <= ELEMENTS
        assert {key for _, attributes in html.elements for key in attributes} <= ATTRIBUTES


@pytest.mark.parametrize("text", HOSTILE)
def test_markup_in_a_transcript_is_escaped_in_every_part_of_its_column(text):
    scores = dict.fromkeys((metric.name for metric in metrics.METRICS), text)
    card = view.draw_column(column(transcript(text), stem=view.file_stem(text)), scores=scores)
    allowed = {
        "article",
        "header",
        "h2",
        "div",
        "footer",
        "button",
        "a",
        "details",
        "summary",
        "dl",
        "dt",
        "dd",
    } | ELEMENTS
    page = Page(card)
    assert {name for name, _ in page.elements} <= allowed
    assert not [key for _, attributes in page.elements for key in attributes if key.startswith("on")]
    assert shown_text(card) == " ".join(text.split())
    assert all(link["href"].startswith("data:") for link in page.named("a"))


@pytest.mark.parametrize("message", HOSTILE)
def test_markup_in_a_message_is_escaped(message):
    for html in (status_line.status(message), status_line.error(message)):
        assert Page(html).text == message


# ------------------------------------------------------------------------------------- tags and words


@pytest.mark.parametrize(
    ("text", "category"),
    [
        ("[nervous]", "emotion"),
        ("[laughs]", "non-verbal"),
        ("[whispers]", "delivery"),
        ("[pause]", "pause"),
        ("[levitates]", "other"),
    ],
)
def test_a_tag_has_the_class_and_the_label_of_its_category(text, category):
    (chip,) = Page(markup.tagged_text(text, {0: 0.875})).of_class("ev-tag")
    assert f"ev-{category}" in chip["class"].split()
    assert chip["data-tip"] == f"{text[1:-1]} · {category} · 88\u00a0% sure"
    assert chip["aria-label"] == f"{text[1:-1]}, {category}, 88\u00a0% sure"
    assert chip["tabindex"] == "0"


def test_a_synonym_is_shown_as_written_and_its_tooltip_names_its_group():
    page = Page(markup.tagged_text("[Chuckles] well", {}))
    assert page.text.split() == ["[Chuckles]", "well"]
    assert page.of_class("ev-tag")[0]["data-tip"] == "chuckles · like laughs · non-verbal"


def test_capitals_are_emphasis_and_capitals_inside_a_tag_are_not():
    page = Page(markup.tagged_text("[LAUGHS] I NEVER said O'NEIL", {}))
    assert len(page.of_class("ev-emphasis")) == 2


def test_percent_never_rounds_up_to_100():
    assert wording.percent(0.9999) == "99\u00a0%"
    assert wording.percent(1.0) == "100\u00a0%"


# ------------------------------------------------------------------------------------- a column


def test_a_finished_column_shows_time_speed_token_rate_and_tags():
    page = Page(view.draw_column(column(transcript("[sighs] well [laughs]"))))
    assert "2.0 s" in page.text and "2.0× real time" in page.text
    assert "2 tokens/s" in page.text and "2 tags" in page.text


def test_each_score_has_a_definition_and_the_direction_that_is_better():
    page = Page(
        view.draw_column(column(transcript("hi")), scores={metric.name: "12\u00a0%" for metric in metrics.METRICS})
    )
    cells = [attributes for attributes in page.named("div") if "data-tip" in attributes]
    assert [cell["data-tip"].split(".")[0] for cell in cells] == [metric.definition for metric in metrics.METRICS]
    assert "WER ↓12\u00a0%" in page.text and "Tag F1 ↑12\u00a0%" in page.text


def test_before_the_first_clip_columns_have_placeholders():
    page = Page(view.draw_empty_columns())
    assert page.text.count("What was said.") == 1 and page.text.count("and how: [tags]") == 2


def test_a_column_in_progress_is_busy_and_has_no_downloads():
    page = Page(view.draw_column(column(transcript("[sighs] we", done=False))))
    assert page.named("article")[0]["aria-busy"] == "true"
    assert not page.named("a") and page.of_class("ev-caret")


def test_silence_gets_a_sentence():
    silence = Transcript((), duration=3.0, elapsed=0.0)
    assert "No speech was found" in shown_text(view.draw_column(column(silence)))
    assert status_line.agreement(clip(base=silence, rl=silence)) == "No speech was found in this clip."


def test_a_truncated_text_gets_a_sentence():
    assert "Cut short" in shown_text(view.draw_column(column(transcript("and then", truncated=True))))


def test_an_additional_adapter_gets_its_own_column():
    page = Page(view.draw_columns(clip(**{"base": transcript("hi"), "mine<b>": transcript("hi")})))
    assert [card["data-variant"] for card in page.named("article")] == ["base", "mine<b>"]


# ------------------------------------------------------------------------------------- what is shown


def test_hiding_a_category_hides_its_tags_only():
    text = "[nervous] So... [laughs] maybe"
    html = view.draw_column(column(transcript(text)), Filter(frozenset(tags.CATEGORIES) - {"non-verbal"}))
    assert shown_text(html) == "[nervous] So... maybe"
    assert "1 tag<" in html


def test_hiding_every_category_gives_the_clean_text_and_keeps_emphasis():
    html = view.draw_column(column(transcript("[sad] I NEVER [sighs] said that")), Filter(frozenset()))
    assert shown_text(html) == "I NEVER said that"


def test_tags_below_the_minimum_probability_are_hidden():
    tokens = (Token("[sad]", 0.4), Token(" I ", 0.9), Token("[sighs]", 0.8))
    unsure = Transcript((Cue(0.0, 4.0, tokens),), 4.0, 1.0)
    assert shown_text(view.draw_column(column(unsure), Filter(min_probability=0.5))) == "I [sighs]"
    assert shown_text(view.draw_column(column(unsure), Filter(min_probability=0.9))) == "I"


def test_a_text_of_hidden_tags_only_gets_a_sentence():
    assert "hidden tags" in shown_text(view.draw_column(column(transcript("[sad]")), Filter(frozenset())))


@given(TAGGED_TEXT, st.sets(st.sampled_from(tags.CATEGORIES)))
def test_each_visible_tag_keeps_its_probability(text, categories):
    tag_filter = Filter(frozenset(categories))
    pieces = tags.parse(text)
    tokens = tuple(Token(piece.raw, 1 / (number + 1)) for number, piece in enumerate(pieces))
    whole = Transcript((Cue(0.0, 4.0, tokens),), duration=4.0, elapsed=2.0)
    wanted = [(span.name, span.probability) for span in whole.tags if span.category in categories]
    assert [(span.name, span.probability) for span in tag_filter.apply(whole).tags] == wanted
    view.draw_column(column(whole), tag_filter)


# ------------------------------------------------------------------------------------- exports


def exports(html: str) -> dict[str, str]:
    """Downloaded file name → content."""
    links = [link for link in Page(html).named("a") if "download" in link]
    return {link["download"]: unquote(link["href"].split(",", 1)[1]) for link in links}


def test_texts_are_exported_as_shown_and_json_with_everything():
    text = "[sad] I told you. [sighs]"
    html = view.draw_column(column(transcript(text), stem="clip.rl"), Filter(frozenset({"emotion"})))
    files = exports(html)
    assert list(files) == ["clip.rl.txt", "clip.rl.json", "clip.rl.srt", "clip.rl.vtt"]
    assert files["clip.rl.txt"] == "[sad] I told you."
    assert "[sad] I told you.\n" in files["clip.rl.srt"] and files["clip.rl.vtt"].startswith("WEBVTT")
    whole = json.loads(files["clip.rl.json"])
    assert whole["text"] == text
    assert [tag["probability"] for tag in whole["tags"]] == [0.9, 0.9]
    assert Page(html).of_class("ev-copy")[0]["data-copy"] == "[sad] I told you."


def test_a_text_is_copied_for_other_systems_and_what_they_lack_is_named():
    text = "[excited] I TOLD you & <him>. [laughs]"
    html = view.draw_column(column(transcript(text)), Filter(frozenset({"emotion", "non-verbal"})))
    first, *others = [button for button in Page(html).named("button") if "data-copy" in button]
    assert first["data-copy"] == text
    assert [button["data-copy"] for button in others] == [
        "[emotion=happy][pace=fast] I TOLD you & <him>.",
        '<speak><prosody rate="fast" pitch="high">I <emphasis>told</emphasis> you &amp; &lt;him&gt;.</prosody></speak>',
        "I told you & <him>.",
    ]
    assert [button["data-copied"] for button in others] == ["Copied without [laughs]"] * 2 + ["Copied"]


def test_an_empty_text_has_no_copy_and_no_speak_button():
    silent = Page(view.draw_column(column(transcript(""))))
    assert not [button for button in silent.named("button") if "data-copy" in button or "data-speak" in button]


@pytest.mark.parametrize(
    ("path", "stem"),
    [
        ("/tmp/a1/My clip (2).final.wav", "My-clip-2-.final"),
        ("..\\..\\x.wav", "x"),
        ("/", "transcript"),
        ("/été.m4a", "été"),
    ],
)
def test_downloads_are_named_after_the_clip(path, stem):
    assert view.file_stem(path) == stem


# ------------------------------------------------------------------------------------- differences


def differing(html: str) -> int:
    return len(Page(html).of_class("ev-differs"))


def test_words_that_not_all_variants_have_are_marked_in_each():
    texts = {"base": "may be we go", "sft": "maybe we go", "rl": "maybe we go"}
    marks = diff.mark_differences(texts)
    assert [len(marks[name].differs) for name in texts] == [2, 1, 1]


def test_case_and_punctuation_are_no_disagreement():
    marks = diff.mark_differences({"base": "So, we never go.", "rl": "so We never... go"})
    assert not marks["base"].differs and not marks["rl"].differs


def test_a_variant_without_tags_is_not_compared_on_tags():
    assert differing(view.draw_columns(clip(base=transcript("well yes"), sft=transcript("[sad] well yes")))) == 0


def test_different_stress_is_a_difference_except_to_a_variant_without_stress():
    texts = {"base": "so we never go", "sft": "so we NEVER go", "rl": "[sad] so we never GO"}
    assert [len(marks.differs) for marks in diff.mark_differences(texts).values()] == [0, 2, 3]
    assert diff.word_agreement(texts) == 1.0, "it is the same word"
    assert len(diff.mark_against_reference("so WE never go", "so we NEVER go").differs) == 2


def test_a_tag_at_another_position_is_a_difference():
    marks = diff.mark_differences({"sft": "[laughs] well yes", "rl": "well yes [laughs]"})
    assert len(marks["sft"].differs) == len(marks["rl"].differs) == 1


def test_nothing_is_marked_during_decoding():
    growing = clip(base=transcript("well", done=False), rl=transcript("well yes", done=False))
    assert differing(view.draw_columns(growing)) == 0


def test_agreement_is_one_sentence():
    columns = clip(
        base=transcript("I was there yesterday"),
        sft=transcript("[sad] I was there yesterday"),
        rl=transcript("[sad] I was here yesterday [sighs]"),
    )
    assert status_line.agreement(columns) == "All three agree on 75\u00a0% of words; RL adds 1 tag against SFT."
    only_sad = Filter(frozenset({"emotion"}))
    assert "RL has the same tags as SFT" in status_line.agreement(columns, only_sad)


def test_against_a_reference_extra_and_missing_words_and_tags_are_marked():
    html = view.draw_columns(clip("I was there [sighs]", rl=transcript("I was here [laughs]")))
    page = Page(html)
    assert len(page.of_class("ev-differs")) == 2
    assert len(page.of_class("ev-missing")) == 2
    assert shown_text(html) == "I was there [sighs] here [laughs]"


def test_a_missing_end_of_the_reference_is_marked_at_the_end():
    html = view.draw_columns(clip("I was there", rl=transcript("I was")))
    assert shown_text(html) == "I was there"
    assert len(Page(html).of_class("ev-missing")) == 1


def test_hidden_categories_are_not_marked_as_missing():
    said, written = "[sad] I was THERE [sighs]", transcript("[sad] I was THERE")
    columns = clip(said, rl=written)
    for tag_filter in (Filter(frozenset({"emotion"})), Filter(words_alone=True)):
        page = Page(view.draw_columns(columns, tag_filter))
        assert not page.of_class("ev-missing") and not page.of_class("ev-differs")


def test_words_alone_shows_neither_tags_nor_stress():
    html = view.draw_columns(clip(rl=transcript("[sad] I was THERE [sighs], yes")), Filter(words_alone=True))
    assert shown_text(html) == "I was there, yes"


def test_different_clips_are_not_compared():
    columns = [view.Column(name, view.heading(name), transcript(name), transcript(name), clip=name) for name in "ab"]
    assert differing(view.draw_columns(columns)) == 0
    assert status_line.agreement(columns) == "These are different clips: their words are not compared."

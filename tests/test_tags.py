import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evoxtral import tags
from evoxtral.tags import Tag, Text

# Strings rich in what matters to the grammar: brackets, capitals, white space, tags, accents, emoji.
BITS = st.sampled_from(["[", "]", "[]", "[ ]", " ", "\n", "[laughs]", "[Clears Throat] ", "NO", "DON'T", "É", "🎤"])
TAGGED = st.lists(BITS | st.text(max_size=5)).map("".join) | st.text()

BENCHMARK_TAG = re.compile(r"\[([^\]]+)\]")


@given(TAGGED)
@example("[a [b] c] ] [unclosed")
@example("[" * 10_000)
@example("[x]" * 3_333)
def test_rendering_a_parsed_text_gives_the_same_text(text):
    assert tags.render(tags.parse(text)) == text


@given(TAGGED)
def test_tags_agree_with_the_benchmarks_regular_expression(text):
    assert tags.names(text) == [name.strip().lower() for name in BENCHMARK_TAG.findall(text)]


@given(TAGGED)
def test_plain_text_agrees_with_the_benchmark(text):
    untagged = re.sub(BENCHMARK_TAG.pattern + r"\s*", "", text)
    assert tags.plain(text) == re.sub(r"\b[A-Z]{2,}\b", lambda word: word[0].lower(), untagged).strip()


@given(TAGGED)
def test_plain_text_has_no_tags_and_no_emphasis_and_is_its_own_plain_text(text):
    plain = tags.plain(text)
    assert tags.names(plain) == tags.emphasised(plain) == []
    assert tags.plain(plain) == plain


@given(TAGGED)
def test_pieces_are_tags_with_non_empty_texts_between_them(text):
    pieces = tags.parse(text)
    assert all(piece.raw for piece in pieces)
    assert not any(isinstance(a, Text) and isinstance(b, Text) for a, b in zip(pieces, pieces[1:], strict=False))


def test_the_readmes_example_is_parsed_as_expected():
    text = "[nervous] So... [stammers] I was thinking we could... [clears throat] try THAT? [laughs softly]"
    assert tags.names(text) == ["nervous", "stammers", "clears throat", "laughs softly"]
    assert tags.emphasised(text) == ["that"]
    assert tags.plain(text) == "So... I was thinking we could... try that?"


@pytest.mark.parametrize(
    ("text", "names", "plain"),
    [
        ("[a [b] c]", ["a [b"], "c]"),
        ("[[laughs]]", ["[laughs"], "]"),
        ("[laughs", [], "[laughs"),
        ("laughs] [sighs]", ["sighs"], "laughs]"),
        ("an [] empty pair", [], "an [] empty pair"),
        ("[ ] blank", [""], "blank"),
        ("[ LAUGHS ] Loudly", ["laughs"], "Loudly"),
        ("[😀] emoji 😀", ["😀"], "emoji 😀"),
        ("[two\nlines] here", ["two\nlines"], "here"),
        ("", [], ""),
    ],
)
def test_brackets_that_do_not_nest_close_or_hold_anything(text, names, plain):
    assert tags.names(text) == names
    assert tags.plain(text) == plain


@pytest.mark.parametrize(
    ("text", "emphasised"),
    [
        ("I NEVER said that. NEVER!", ["never", "never"]),
        ("[LAUGHS] I am fine", []),
        ("I DON'T", ["don"]),
        ("A B-52 and OK2", []),
        ("ÉTÉ", []),
    ],
)
def test_emphasis_is_two_or_more_capitals_between_word_boundaries_outside_tags(text, emphasised):
    assert tags.emphasised(text) == emphasised


def test_parsing_takes_time_in_proportion_to_the_text():
    storm = "[" * 1_000_000  # the benchmark's regular expression would need hours
    assert tags.parse(storm) == (Text(storm),)
    assert tags.parse("[]" + storm + "]") == (Text("[]"), Tag(storm + "]"))


def test_every_category_is_used_and_every_entry_has_a_known_one():
    assert {entry.category for entry in tags.VOCABULARY.values()} == set(tags.CATEGORIES)


def test_a_group_is_a_tag_of_its_own_category():
    for entry in tags.VOCABULARY.values():
        head = tags.VOCABULARY[entry.group]
        assert head.group == head.name and head.category == entry.category


def test_vocabulary_names_are_as_the_parser_gives_them():
    for name, entry in tags.VOCABULARY.items():
        assert tags.parse(f"[{name}]") == (Tag(f"[{name}]"),) and tags.names(f"[{name}]") == [entry.name] == [name]


@pytest.mark.parametrize(
    ("category", "names"),
    [
        (
            "non-verbal",
            "laughs, sighs, gasps, clears throat, sniffs, yawns, crying, laughs harder, exhales, gulps",
        ),
        (
            "delivery",
            "whispers, shouts, stammers, sarcastic, mischievously, slowly, rushed, drawn out, deadpan",
        ),
        ("emotion", "nervous, frustrated, excited, sad, angry, calm, scared, confused, curious"),
        ("pause", "pause, short pause, long pause"),
        ("other", "applause, a tag that nobody has ever written"),
    ],
)
def test_tags_have_the_category_a_person_would_expect(category, names):
    for name in names.split(", "):
        assert tags.category(name) == category, name


def test_synonyms_share_a_group_and_an_unknown_tag_is_its_own():
    assert {tags.group(name) for name in ("laughs", "Laughing", "chuckles", "laughs nervously")} == {"laughs"}
    assert tags.group("sobbing") == "crying"
    assert tags.group("Moonwalks ") == "moonwalks"

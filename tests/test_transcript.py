import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evoxtral import tags
from evoxtral.exports import content
from evoxtral.transcript import Cue, TagSpan, Token, Transcript


def transcript(*cues: list[tuple[str, float]], truncated: bool = False) -> Transcript:
    """Cues of 2 s each, from (token text, probability) pairs."""
    return Transcript(
        cues=tuple(
            Cue(2.0 * i, 2.0 * i + 2, tuple(Token(*token) for token in tokens), truncated)
            for i, tokens in enumerate(cues)
        ),
        duration=2.0 * len(cues),
        elapsed=0.5,
    )


def test_a_word_has_a_start_and_an_end_or_neither():
    timed, tokens = (0.1, 0.4), ("He", "llo", " you")
    for known in ({0}, {1}, {0, 1}):
        cue = Cue(0.0, 1.0, tuple(Token(t, 0.9, *(timed if i in known else ())) for i, t in enumerate(tokens)))
        made = Transcript((cue,), 1.0, 0.1)
        assert [(word.text, word.start, word.end) for word in made.words] == [("Hello", *timed), ("you", None, None)]
        assert content(made, "srt")


def typed(text: str, duration: float = 1.0) -> Transcript:
    """Text of a person, which no token of a model is behind."""
    return Transcript((Cue(0.0, duration, (Token(text, None),)),), duration, elapsed=0.0)


NERVOUS = transcript(
    [
        (" [n", 0.5),
        ("erv", 0.5),
        ("ous", 0.9),
        ("] So", 0.8),
        (" well", 0.1),
        (" [laughs],", 0.25),
        (" yes", 0.3),
    ],
    [("  ", 0.1), ("[sighs]", 0.7), (" NO", 0.2), (" \n", 0.4)],
)

PIECES = st.sampled_from(["[", "]", "[laughs]", "[pause]", " ", "  ", "\n", "so", "NO", ",", "é", ""])
CUES = st.lists(st.lists(st.tuples(PIECES, st.floats(0, 1)), max_size=6), max_size=4)


def test_text_is_the_cues_stripped_and_joined_by_one_space():
    assert NERVOUS.text == "[nervous] So well [laughs], yes [sighs] NO"
    assert NERVOUS.plain == "So well , yes no"
    assert transcript([(" ", 1.0)], [("a", 1.0)], [], [("b", 1.0)]).text == "a b"


def test_a_tags_probability_is_the_product_over_the_tokens_that_overlap_it():
    assert NERVOUS.tags == (
        TagSpan("nervous", "emotion", 0, 0.5 * 0.5 * 0.9 * 0.8),
        TagSpan("laughs", "non-verbal", 18, 0.25),
        TagSpan("sighs", "non-verbal", 32, 0.7),
    )


def test_a_tag_that_runs_over_two_cues_counts_the_tokens_of_both():
    assert transcript([("a", 0.1), (" [clears", 0.5)], [(" throat", 0.5), ("]", 0.5), (" b", 0.1)]).tags == (
        TagSpan("clears throat", "non-verbal", 2, 0.125),
    )


@given(CUES)
def test_every_tag_has_its_offset_and_a_probability(cues):
    made = transcript(*cues)
    assert [span.name for span in made.tags] == tags.names(made.text)
    for span in made.tags:
        assert made.text[span.offset] == "["
        assert 0 <= span.probability <= 1


@given(CUES)
def test_tokenisation_does_not_change_the_text(cues):
    whole = transcript(*[[("".join(text for text, _ in cue), 0.5)] for cue in cues])
    assert transcript(*cues).text == whole.text


def test_typed_text_has_tags_without_probabilities_and_no_decoded_tokens():
    made = typed(" [sad] It IS over. ")
    assert made.text == "[sad] It IS over."
    assert made.tags == (TagSpan("sad", "emotion", 0, None),)
    assert made.token_count == 0
    assert made.without(min_probability=1.0) == made


def test_a_tag_with_one_unknown_token_has_an_unknown_probability():
    half = Cue(0.0, 1.0, (Token("[sa", 0.9), Token("d]", None)))
    assert Transcript((half,), 1.0, 0.0).tags[0].probability is None


def test_token_count_counts_what_a_model_decoded():
    assert NERVOUS.token_count == 11


def test_a_transcript_is_truncated_if_a_segment_is():
    assert not NERVOUS.truncated
    assert transcript([("a", 1.0)], truncated=True).truncated


def test_an_interrupted_transcript_is_done_and_its_last_segment_truncated():
    growing = replace(transcript([("[sad] ", 0.5), ("So", 0.5)], [("we", 0.5)]), done=False)
    ended = growing.broken_off()
    assert ended.done and [cue.truncated for cue in ended.cues] == [False, True] and ended.text == growing.text
    assert replace(growing, cues=()).broken_off().truncated
    assert ended.broken_off() == ended


def test_tags_below_a_probability_are_left_out():
    assert NERVOUS.without(min_probability=0.2).text == "So well [laughs], yes [sighs] NO"
    assert NERVOUS.without(min_probability=0.25).text == "So well [laughs], yes [sighs] NO"
    assert NERVOUS.without(min_probability=0.5).text == "So well, yes [sighs] NO"


def test_tags_of_hidden_categories_are_left_out():
    assert NERVOUS.without(hidden_categories={"non-verbal"}).text == "[nervous] So well, yes NO"
    assert NERVOUS.without(hidden_categories=frozenset(tags.CATEGORIES)).text == "So well, yes NO"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("So [pause] well", "So well"),
        ("NO[pause] WAY", "NO WAY"),
        ("no [pause]way", "no way"),
        ("a[pause]b", "ab"),
        ("one [pause] [laughs] two", "one two"),
        ("wait [pause][laughs], what", "wait, what"),
        ("wait [pause] ...what", "wait ...what"),
        ("[pause] start and end [pause]", "start and end"),
        ("line\n[pause] line", "line\nline"),
        ("[pause]", ""),
        ("[unclosed [] pair", "[unclosed [] pair"),
    ],
)
def test_hiding_a_tag_leaves_exactly_one_space(text, shown):
    everything = frozenset(tags.CATEGORIES) if "unclosed" not in text else {"pause"}
    assert typed(text).without(hidden_categories=everything).text == shown


@given(CUES)
def test_hiding_nothing_changes_nothing_and_hiding_all_leaves_no_tag(cues):
    made = transcript(*cues)
    assert made.without() == made
    assert "".join(made.without(hidden_categories=tags.CATEGORIES).text.split()) == "".join(
        tags.without_tags(made.text).split()
    )


def test_the_words_alone_are_the_plain_text_and_keep_their_tokens_probabilities():
    alone = NERVOUS.words_alone()
    assert alone.text == "So well, yes no"
    assert [token.probability for token in alone.cues[-1].tokens] == [0.2]


@given(CUES)
def test_words_alone_has_no_tags_and_no_stress(cues):
    made = transcript(*cues)
    alone = made.words_alone()
    assert not alone.tags and not tags.emphasised(alone.text)
    # The white space around a hidden tag may decide whether capitals behind it are a word of their own.
    assert "".join(alone.text.split()).lower() == "".join(tags.without_tags(made.text).split()).lower()


def test_json_has_the_shape_that_programs_rely_on():
    unknown = {"start": None, "end": None}
    written = json.loads(NERVOUS.to_json())
    assert written == {
        "text": "[nervous] So well [laughs], yes [sighs] NO",
        "plain": "So well , yes no",
        "tags": [
            {"name": "nervous", "category": "emotion", "offset": 0, "probability": 0.5 * 0.5 * 0.9 * 0.8, **unknown},
            {"name": "laughs", "category": "non-verbal", "offset": 18, "probability": 0.25, **unknown},
            {"name": "sighs", "category": "non-verbal", "offset": 32, "probability": 0.7, **unknown},
        ],
        "elapsed": 0.5,
        "truncated": False,
        "confidence": None,
        "doubtful": False,
        "edited": False,
        "segments": [
            {"start": 0.0, "end": 2.0, "text": "[nervous] So well [laughs], yes", "channel": None},
            {"start": 2.0, "end": 4.0, "text": "[sighs] NO", "channel": None},
        ],
        "cues": [
            {"start": 0.0, "end": 2.0, "text": "[nervous] So well [laughs], yes", "channel": None},
            {"start": 2.0, "end": 4.0, "text": "[sighs] NO", "channel": None},
        ],
        "words": written["words"],
    }
    assert [word["text"] for word in written["words"]] == NERVOUS.text.replace(",", "").split()
    assert written["words"][1] == {
        "text": "So", **unknown, "probability": 0.8, "kind": "word", "offset": 10
    }  # fmt: skip
    assert NERVOUS.to_txt() == NERVOUS.text


def test_json_keeps_letters_readable():
    assert "“é” 🎤" in typed("“é” 🎤").to_json()


def test_srt_numbers_only_cues_with_text():
    silent_first = transcript([(" ", 1.0)], [("[sighs]\n\nNO", 1.0)], [("yes", 1.0)])
    assert silent_first.to_srt() == (
        "1\n00:00:02,000 --> 00:00:04,000\n[sighs] NO\n\n2\n00:00:04,000 --> 00:00:06,000\nyes\n\n"
    )


def test_vtt_escapes_markup():
    hostile = Transcript((Cue(3720.5, 3725.5, (Token("a --> b [<i>&x] ", None),)),), 3726.0, 0.0)
    assert hostile.to_vtt() == ("WEBVTT\n\n01:02:00.500 --> 01:02:05.500\na --&gt; b [&lt;i&gt;&amp;x]\n\n")


def test_times_are_rounded_to_the_millisecond_and_carry():
    one = Transcript((Cue(59.9994, 61.9996, (Token("a", 1.0),)),), 62.0, 0.0)
    assert "00:00:59,999 --> 00:01:02,000" in one.to_srt()


def test_an_empty_transcript_exports_as_empty():
    empty = Transcript((), 1.0, 0.0)
    assert (empty.text, empty.plain, empty.tags, empty.to_srt(), empty.to_vtt()) == (
        "",
        "",
        (),
        "",
        "WEBVTT\n\n",
    )
    assert math.isclose(empty.duration, 1.0) and empty.done


def timed(*tokens: tuple[str, float]) -> Transcript:
    """Tokens one second apart, each of which lasts half a second."""
    parts = [Token(text, p, float(i), i + 0.5) for i, (text, p) in enumerate(tokens)]
    return Transcript((Cue(0.0, float(len(parts)), tuple(parts)),), float(len(parts)), 0.1)


def test_words_and_tags_have_the_times_and_the_product_of_their_tokens():
    made = timed(("[laugh", 0.5), ("s],", 0.8), (" so", 0.9), (" un", 0.5), ("til", 0.5), (" —", 0.9), (" now.", 0.4))
    assert [(w.text, w.kind, w.start, w.end, w.probability, w.offset) for w in made.words] == [
        ("[laughs]", "tag", 0.0, 1.5, 0.4, 0),
        ("so", "word", 2.0, 2.5, 0.9, 10),
        ("until", "word", 3.0, 4.5, 0.25, 13),
        ("now.", "word", 6.0, 6.5, 0.4, 21),
    ]
    assert made.tags == (TagSpan("laughs", "non-verbal", 0, 0.4, 0.0, 1.5),)
    assert json.loads(made.to_json())["words"][1] == {
        "text": "so", "start": 2.0, "end": 2.5, "probability": 0.9, "kind": "word", "offset": 10
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "extents"),
    [
        ("[sad] I was there. Then not.", {"[sad]": (0, 3.5)}),
        ("[sad] [whispers] I was [angry] there", {"[sad]": (0, 3.5), "[whispers]": (1, 3.5), "[angry]": (4, 5.5)}),
        ("[sad] I [laughs] was [stammers] no way.", {"[sad]": (0, 6.5), "[laughs]": (2, 2.5), "[stammers]": (4, 5.5)}),
        ("So. [calm]", {"[calm]": (1, 1.5)}),
    ],
)  # fmt: skip
def test_a_delivery_reaches_to_the_end_of_its_sentence_or_to_the_next_one(text, extents):
    made = timed(*((f" {word}", 1.0) for word in text.split()))
    assert {w.text: (w.start, w.end) for w in made.words if w.kind == "tag"} == extents


@given(CUES)
def test_words_are_the_text_and_tags_are_among_them(cues):
    made = transcript(*cues)
    assert all(made.text.startswith(word.text, word.offset) for word in made.words)
    assert [word.text for word in made.words if word.kind == "tag"] == [
        piece.raw for piece in tags.parse(made.text) if isinstance(piece, tags.Tag)
    ]
    assert all(word.start is None and 0 <= word.probability <= 1 for word in made.words)

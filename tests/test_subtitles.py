"""Cues that can be read, checked by reading the files back with parsers of others."""

import html
import io
from dataclasses import replace

import numpy as np
import pytest
import srt
import webvtt
from hypothesis import given
from hypothesis import strategies as st

from evoxtral import audio, subtitles
from evoxtral.speech import speak
from evoxtral.tags import names
from evoxtral.transcript import Cue, Token, Transcript, VariantResult

SENTENCES = [
    "I see your point, but consider the garden.",
    "We need sixteen more plates on Friday.",
    "[laughs] I left my keys in the car.",
    "Please do not tell my sister.",
    "[whispers] You forgot my birthday because of football?",
    "The shop where I bought my first guitar is closed.",
]


def cue(text: str, start: float, end: float, sounds=()) -> Cue:
    return Cue(start, end, (Token(text, 0.5),), sounds=tuple(sounds))


def read_back(*cues: Cue) -> list[tuple[float, float, str]]:
    """Start, end and text of each cue, the same from both files and in JSON."""
    transcript = Transcript(cues, cues[-1].end, 0.0)
    of_srt = [
        (item.start.total_seconds(), item.end.total_seconds(), item.content) for item in srt.parse(transcript.to_srt())
    ]
    of_vtt = [
        (item.start_in_seconds, item.end_in_seconds, item.start, item.end, html.unescape(item.text))
        for item in webvtt.from_buffer(io.StringIO(transcript.to_vtt())).captions
    ]
    of_json = VariantResult.of(transcript).cues
    assert [text for *_, text in of_srt] == [text for *_, text in of_vtt] == [cue.text for cue in of_json]
    assert [(start, end) for start, end, _ in of_srt] == [pytest.approx((c.start, c.end), abs=2e-3) for c in of_json]
    assert [subtitles._clock(start, ".") for start, *_ in of_srt] == [start for _, _, start, *_ in of_vtt]
    assert [subtitles._clock(end, ".") for _, end, _ in of_srt] == [end for _, _, _, end, _ in of_vtt]
    return of_srt


def assert_readable(found: list[tuple[float, float, str]], text: str) -> None:
    assert " ".join(" ".join(lines.split()) for *_, lines in found) == " ".join(text.split())
    for start, end, lines in found:
        assert 0 < end - start <= subtitles.MAX_SECONDS + 0.001
        assert lines.count("\n") < subtitles.MAX_LINES
        assert all(len(line) <= subtitles.MAX_LINE for line in lines.split("\n"))
        assert lines.count("[") == lines.count("]") == sum(line.count("]") for line in lines.split("\n"))
        assert len(names(lines)) == sum(len(names(line)) for line in lines.split("\n")), "no tag on two lines"
    for (_, end, _), (start, _, _) in zip(found, found[1:], strict=False):
        assert end <= start


def test_channels_that_speak_at_once_have_cues_of_their_own_with_their_names():
    sentence = "I see your point, but consider the garden of my sister in the country."
    cues = [
        replace(cue(sentence, 0.0, 4.0), channel="left"),
        replace(cue("No, I do not.", 1.0, 2.5), channel="right"),
        replace(cue("Listen.", 4.2, 5.0), channel="left"),
    ]
    transcript = Transcript(tuple(cues), 5.0, 0.0)
    found = list(srt.parse(transcript.to_srt()))
    assert [item.content.partition(": ")[0] for item in found] == ["Left", "Right", "Left"]
    assert all(len(line) <= subtitles.MAX_LINE for item in found for line in item.content.split("\n"))
    assert found[1].start.total_seconds() == 1.0 and found[1].start < found[0].end <= found[2].start
    voices = webvtt.from_buffer(io.StringIO(transcript.to_vtt())).captions
    assert [(caption.voice, caption.text.split()[0]) for caption in voices] == [
        ("Left", "I"), ("Right", "No,"), ("Left", "Listen."),
    ]  # fmt: skip
    assert transcript.to_txt() == f"Left: {sentence}\nRight: No, I do not.\nLeft: Listen."
    assert transcript.to_prompt() == transcript.text == f"{sentence} No, I do not. Listen."


def test_json_has_the_cues_of_the_files_and_the_segments_with_every_tag():
    doubtful = Transcript((Cue(0.0, 5.0, (Token("[sighs]", 0.1), Token(" I left my keys.", 0.5))),), 5.0, 0.0)
    result = VariantResult.of(replace(doubtful, hide_below=0.5))
    assert [segment.text for segment in result.segments] == ["[sighs] I left my keys."] == [result.text]
    assert [cue.text for cue in result.cues] == ["I left my keys."]


def test_speech_without_a_pause_is_a_cue_for_each_sentence():
    """Spoken sentence after sentence, the silence between them cut out: times come from the characters alone."""
    spoken = [speak(sentence).waveform for sentence in SENTENCES]
    sounding = [wave[np.flatnonzero(abs(wave) > 0.01)[0] : np.flatnonzero(abs(wave) > 0.01)[-1]] for wave in spoken]
    ends = np.cumsum([len(wave) for wave in sounding]) / audio.SAMPLE_RATE
    (segment,) = audio.segments(np.concatenate(sounding), 30.0)
    found = read_back(cue(" ".join(SENTENCES), segment.start, segment.end, segment.sounds))
    assert_readable(found, " ".join(SENTENCES))
    assert [" ".join(lines.split("\n")) for *_, lines in found] == SENTENCES
    for (start, end, _), true_start, true_end in zip(found, [0.0, *ends], ends, strict=False):
        assert abs(start - true_start) < 1.0 and abs(end - true_end) < 1.0
        assert 1.0 <= end - start <= 7.0


def test_sentences_end_where_the_speaker_pauses():
    """The first is spoken quickly, the second slowly: by characters alone the border would lie at 5 s."""
    text = "We have all the time in the world. We have all the time in the world."
    first, second = read_back(cue(text, 0.0, 10.0, [(0.5, 2.0), (2.2, 4.0), (5.0, 7.0), (7.2, 9.5)]))
    assert first == (0.5, 4.0, "We have all the time in the world.")
    assert second == (5.0, 9.5, "We have all the time in the world.")


def test_a_long_sentence_is_divided_at_a_clause_and_a_breath():
    text = (
        "If it should rain tomorrow and the garden is wet, " * 2 + "we stay at home and read the letters, all of them."
    )
    found = read_back(cue(text, 0.0, 12.0, [(0.0, 3.0), (3.4, 6.5), (7.0, 10.0)]))
    assert_readable(found, text)
    assert all(lines.endswith((",", ".")) for *_, lines in found)


def test_a_tag_stays_with_the_words_it_describes():
    text = "That is the end of it, I am afraid. [whispers] I think it is over. [sighs] Is it not over and done with?"
    found = read_back(cue(text, 0.0, 9.0))
    assert_readable(found, text)
    assert [lines.split()[0] for *_, lines in found] == ["That", "[whispers]", "[sighs]"]


def test_a_short_cue_lasts_a_second_but_not_into_the_next():
    found = read_back(cue("Yes.", 0.0, 3.0, [(1.0, 1.2)]), cue("No.", 3.0, 3.4, [(3.1, 3.3)]))
    assert [(start, end) for start, end, _ in found] == [(1.0, 2.0), (2.4, 3.4)]
    hurried = read_back(cue("A" * 30 + ".", 0.0, 5.0, [(1.0, 1.5)]))
    assert hurried == [(1.0, 2.55, "A" * 30 + ".")], "as long as it takes to read"


def test_text_of_a_long_silence_is_not_shown_all_the_time():
    assert read_back(cue("So be it.", 0.0, 3600.0)) == [(0.0, 7.0, "So be it.")]


def test_words_longer_than_a_line_are_divided_and_long_tags_are_not():
    assert [lines for *_, lines in read_back(cue("a" * 100, 0.0, 8.0))] != []
    tag = f"[{'very ' * 12}nervous]"
    assert any(tag in lines.split("\n") for *_, lines in read_back(cue(f"So {tag} it is.", 0.0, 8.0)))


PIECES = st.sampled_from(
    ["[laughs]", "[nervous]", "[pause]", "[clears throat]", "So", "well,", "NO.", "it is over!", "é…"]
    + ["<i>&", "-->", "7"]
)  # fmt: skip
SOUNDS = st.lists(st.floats(0.05, 3.0), max_size=12)


@given(st.lists(PIECES, min_size=1, max_size=40), st.lists(st.sampled_from(["", " ", "\n\n"]), min_size=1), SOUNDS)
def test_any_text_over_any_sounds_can_be_read_back(pieces, spaces, lengths):
    text = "".join(piece + (spaces[i % len(spaces)] or " ") for i, piece in enumerate(pieces))
    edges = np.cumsum(lengths).tolist()
    found = read_back(cue(text, 0.0, max([1.0, *edges]), zip(edges[::2], edges[1::2], strict=False)))
    assert_readable(found, text)


def test_a_prompt_is_the_tagged_text_in_paragraphs_that_can_be_sent():
    text = " ".join(SENTENCES * 60)
    paragraphs = Transcript((cue(text, 0.0, 900.0),), 900.0, 0.0).to_prompt().split("\n\n")
    assert len(paragraphs) >= 3 and " ".join(paragraphs) == text
    assert len(paragraphs[-1]) <= 5000
    assert all(2500 <= len(part) <= 5000 and part[-1] in ".?" for part in paragraphs[:-1])
    assert Transcript((cue("[sad]\n So.", 0.0, 1.0),), 1.0, 0.0).to_prompt() == "[sad] So."
    assert Transcript((), 1.0, 0.0).to_prompt() == ""


def test_cues_begin_and_end_with_their_words_where_these_have_times():
    words = {"[sad]": (1.0, 4.0), " I": (1.0, 1.3), " was": (1.5, 2.0), " here.": (2.1, 2.4), " [laughs]": (5.0, 6.5),
             " So": (8.0, 8.4), " —": (None, None), " go.": (8.6, 9.5)}  # fmt: skip
    timed = Cue(0.0, 10.0, tuple(Token(text, 0.5, *time) for text, time in words.items()), sounds=((0.0, 10.0),))
    cues = [*srt.parse(Transcript((timed,), 10.0, 0.0).to_srt())]
    times = [(cue.content, cue.start.total_seconds(), cue.end.total_seconds()) for cue in cues]
    assert times == [("[sad] I was here.", 1.0, 2.4), ("[laughs] So — go.", 5.0, 9.5)]


def test_a_word_without_a_time_stands_between_its_neighbours():
    tokens = Token("Left: ", None), Token("One", 0.5, 1.0, 1.5), Token(" two", None), Token(" three.", 0.5, 2.5, 3.0)
    (cue,) = srt.parse(Transcript((Cue(0.0, 4.0, tokens),), 4.0, 0.0).to_srt())
    assert (cue.start.total_seconds(), cue.end.total_seconds()) == (1.0, 3.0)


def test_every_cue_can_be_seen_also_where_its_words_have_no_time():
    long = f"[{'very ' * 12}nervous]"  # a line of its own
    tokens = (Token("Yes.", 0.5, 1.0, 2.0), Token(" [pause]", 0.5), Token(f" {long}", 0.5, 2.0, 2.0))
    timed = Cue(0.0, 9.0, (*tokens, Token(" I was here.", 0.5, 2.0, 4.0)), sounds=((1.0, 4.0),))
    found = list(srt.parse(Transcript((timed,), 9.0, 0.0).to_srt()))
    assert all((cue.end - cue.start).total_seconds() >= 0.19 for cue in found)
    assert all(cue.end <= after.start for cue, after in zip(found, found[1:], strict=False))

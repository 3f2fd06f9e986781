"""Other systems' transcripts, read as tagged text."""

import pytest

from evoxtral import dialects, metrics, tags


@pytest.mark.parametrize(
    ("written_as", "text", "tagged"),
    [
        ("evoxtral", "[chuckles] Oh no.", "[chuckles] Oh no."),
        ("scribe", "Oh no. (laughter) Stop (door closes) it!", "Oh no. [laughs] Stop [door slams] it!"),
        ("scribe", "(clears throat) Oh no.", "[clears throat] Oh no."),
        ("sensevoice", "<|en|><|HAPPY|><|Laughter|><|withitn|>Oh no.", "[happy] [laughs] Oh no."),
        ("sensevoice", "<|LAUGHTER|>Oh no.", "[laughs] Oh no."),
        ("sensevoice", "<|en|><|NEUTRAL|><|Speech|><|woitn|>oh no", "oh no"),
        ("wesr", "Oh [clear_throat] no [crowd_laughter]", "Oh [clears throat] no [laughs]"),
        ("wesr", "Oh, <whispering>do not wake him</whispering> now.", "Oh, [whispers] do not wake him now."),
        ("plain", "[Music] Oh no. (laughter) <i>Stop</i> it!", "Oh no. Stop it!"),
        ("plain", "Oh no.", "Oh no."),
    ],
)
def test_each_format_becomes_tagged_text(written_as, text, tagged):
    assert dialects.read(text, written_as) == tagged


@pytest.mark.parametrize("written_as", dialects.FORMATS)
def test_srt_and_webvtt_lose_numbers_and_times_in_every_format(written_as):
    srt = "1\n00:00:00,000 --> 00:00:01,500\nI counted\n\n2\n00:00:01,500 --> 00:00:02,000\n12\nof them.\n"
    vtt = "WEBVTT\n\n00:00.000 --> 00:01.500\nI counted\n\n00:01.500 --> 00:02.000\n12\nof them.\n"
    assert dialects.read(srt, written_as) == dialects.read(vtt, written_as) == "I counted 12 of them."


def test_all_21_events_of_wesr_have_a_name_here():
    points = (
        "laughs chuckle giggle crowd_laughter cry sobbing cough clear_throat scream roar shout breathing inhale exhale"
    )
    for event in (*points.split(), "sigh", "laughing", "crying", "shouting", "panting", "whispering", "singing"):
        assert dialects.group(event) in tags.VOCABULARY, event


def test_the_table_names_only_groups_that_exist_and_nothing_that_the_vocabulary_has():
    assert not dialects.EVENTS.keys() & tags.VOCABULARY.keys()
    assert {name for name in dialects.EVENTS.values() if name} <= {entry.group for entry in tags.VOCABULARY.values()}


def test_tags_of_both_texts_are_grouped_unless_both_are_evoxtrals():
    assert dialects.pair("Ha. (giggles)", "Ha. [chuckles]", "scribe") == ("Ha. [laughs]", "Ha. [laughs]")
    assert dialects.pair("Ha. [giggles]", "Ha. [chuckles]", "evoxtral") == ("Ha. [giggles]", "Ha. [chuckles]")
    pair = dialects.pair("<|LAUGHTER|>Ha.", "[laughing] Ha.", "sensevoice", "wesr")
    assert metrics.score([pair]).scores.tag_f1 == 1

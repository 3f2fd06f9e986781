"""Other systems' transcripts, read as tagged text."""

from xml.etree import ElementTree

import pytest

from evoxtral import exports, foreign_formats, metrics, tags
from evoxtral.errors import EvoxtralError
from evoxtral.transcript import Cue, Token, Transcript


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
    assert foreign_formats.read(text, written_as) == tagged


@pytest.mark.parametrize("written_as", foreign_formats.FORMATS)
def test_srt_and_webvtt_lose_numbers_and_times_in_every_format(written_as):
    srt = "1\n00:00:00,000 --> 00:00:01,500\nI counted\n\n2\n00:00:01,500 --> 00:00:02,000\n12\nof them.\n"
    vtt = "WEBVTT\n\n00:00.000 --> 00:01.500\nI counted\n\n00:01.500 --> 00:02.000\n12\nof them.\n"
    assert foreign_formats.read(srt, written_as) == foreign_formats.read(vtt, written_as) == "I counted 12 of them."


def test_all_21_events_of_wesr_have_a_name_here():
    points = (
        "laughs chuckle giggle crowd_laughter cry sobbing cough clear_throat scream roar shout breathing inhale exhale"
    )
    for event in (*points.split(), "sigh", "laughing", "crying", "shouting", "panting", "whispering", "singing"):
        assert foreign_formats.group(event) in tags.VOCABULARY, event


def test_the_table_names_only_groups_that_exist_and_nothing_that_the_vocabulary_has():
    assert not foreign_formats.EVENTS.keys() & tags.VOCABULARY.keys()
    groups = {entry.group for entry in tags.VOCABULARY.values()}
    assert {name for name in foreign_formats.EVENTS.values() if name} <= groups


def test_tags_of_both_texts_are_grouped_unless_both_are_evoxtrals():
    assert foreign_formats.pair("Ha. (giggles)", "Ha. [chuckles]", "scribe") == ("Ha. [laughs]", "Ha. [laughs]")
    assert foreign_formats.pair("Ha. [giggles]", "Ha. [chuckles]", "evoxtral") == ("Ha. [giggles]", "Ha. [chuckles]")
    pair = foreign_formats.pair("<|LAUGHTER|>Ha.", "[laughing] Ha.", "sensevoice", "wesr")
    assert metrics.score([pair]).scores.tag_f1 == 1


# ------------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize(
    ("dialect", "text", "written", "lost"),
    [
        ("elevenlabs", "[excited] I did IT! [laughs]", "[excited] I did IT! [laughs]", ()),
        ("mistral", "[excited] I did IT!", "[emotion=happy][pace=fast] I did IT!", ()),
        (
            "mistral",
            "[thrilled] Yes [laughs], I did. [laughs]",
            "[emotion=happy][pace=fast] Yes, I did.",
            ("[laughs]",),
        ),
        ("mistral", "[whispers] Go. [sad] No.", "Go. [emotion=sad] No.", ("[whispers]",)),
        ("plain", "[sad] Well [laughs], I NEVER said it.", "Well, I never said it.", ("[sad]", "[laughs]")),
        ("ssml", "Wait. [pause] I did IT & left.", None, ()),
        ("ssml", "[laughs] [slowly] One <two>. Three.", None, ("[laughs]",)),
    ],
)
def test_tags_are_written_as_each_dialect_has_them_and_the_rest_is_named(dialect, text, written, lost):
    found = foreign_formats.write(text, dialect)
    assert found.lost == lost
    if dialect == "ssml":
        root = ElementTree.fromstring(found.text)
        assert root.tag == "speak" and " ".join("".join(root.itertext()).split()) == tags.plain(text)
    else:
        assert found.text == written


def test_ssml_has_breaks_stress_and_prosody_up_to_the_end_of_the_sentence():
    written = foreign_formats.write("[slowly] One TWO. [laughs] Three. [pause] [sad] Four", "ssml")
    root = ElementTree.fromstring(written.text)
    slow, pause, sad = root
    assert (slow.tag, slow.get("rate")) == ("prosody", "slow")
    assert "".join(slow.itertext()) == "One two." and slow.find("emphasis").text == "two"
    assert slow.tail.split() == ["Three."] and (pause.tag, sad.tag, sad.text) == ("break", "prosody", "Four")


def test_every_counterpart_is_of_a_group_that_exists():
    assert foreign_formats.COUNTERPARTS.keys() <= {entry.group for entry in tags.VOCABULARY.values()}


def test_ssml_in_a_script_is_a_pause_or_named_and_never_read_aloud():
    script = '<speak>Wait <break time="1s"/>for <prosody rate="slow">me &amp; you</prosody>.</speak>'
    text, skipped = foreign_formats.without_markup(script)
    assert text == "Wait [pause]for me & you."
    assert skipped == ("<speak>", '<prosody rate="slow">', "</prosody>", "</speak>")
    for ordinary in ("I <3 you, a < b > c", "AT&amp;T", "a <speaker> b"):
        assert foreign_formats.without_markup(ordinary) == (ordinary, ())


def test_an_export_in_a_dialect_is_text_alone():
    transcript = Transcript((Cue(0.0, 2.0, (Token("[excited] Yes! [laughs]", 0.9),)),), 2.0, 0.1)
    assert exports.content(transcript, "txt", "mistral") == "[emotion=happy][pace=fast] Yes!"
    assert exports.in_dialect(transcript, "mistral").lost == ("[laughs]",)
    with pytest.raises(EvoxtralError, match="leave --dialect out for srt"):
        exports.Output(None, "srt", ["a.wav"], ["rl"], print, "mistral")

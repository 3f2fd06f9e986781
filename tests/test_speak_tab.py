"""The Speak tab: what is spoken, what is left out, and where each tag sounds."""

import re
from itertools import groupby
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from conftest import tone
from test_elevenlabs import KEY, server  # noqa: F401

from evoxtral import audio, speech, tags
from evoxtral.errors import SpeechError
from evoxtral.speech import elevenlabs, natural_voices
from evoxtral.ui import speak_tab


def test_every_tag_of_the_voice_has_a_button():
    html = speak_tab.palette()
    assert all(f'data-insert="[{name}] "' in html for name in speech.SPOKEN_TAGS)


def test_speaking_gives_the_times_of_tags_and_the_script_as_the_reference():
    script = "[sighs] We waited. [laughs]"
    status, (rate, waveform), timeline, spoken = speak_tab.speak_embedded(script, speech.DEFAULT_VOICE, 0)
    assert (rate, waveform.dtype, spoken) == (16_000, np.int16, script)
    assert timeline.count('class="ev-tag') == 2 and "2 words, 2 tags" in timeline
    assert "Spoken" in status


def test_installed_natural_voices_are_offered_with_readable_names():
    there = natural_voices.installed()
    assert set(there) <= set(natural_voices.VOICES)
    assert "type to find one" in speak_tab.voice_info() and ("README" in speak_tab.voice_info()) == (not there)
    assert speak_tab.voice_name("natural:emma") == "Natural: Emma, British woman"
    assert speak_tab.voice_name("natural:adam") == "Natural: Adam, American man"
    assert speak_tab.voice_name("flite:slt") == "Flite: Slt"


def spoken(seconds: float, *sounds: tuple[str, float, float]) -> speech.Speech:
    """Speech of one word; each sound is a tag, its start and its end in seconds."""
    waveform = np.zeros(round(seconds * audio.SAMPLE_RATE), np.float32)
    word = speech.Timed("So", 0.0, seconds)
    return speech.Speech(waveform, (word,), tuple(speech.Timed(*sound) for sound in sounds), ())


def test_a_tag_that_sounds_twice_has_one_lane_with_its_times_in_words_and_a_bar_for_each():
    html = speak_tab.timeline(spoken(8.0, ("laughs", 0.5, 1.0), ("sighs", 2.0, 3.0), ("laughs", 4.0, 6.0)))
    assert html.count("<li") == 2 and html.count("<i ") == 3
    assert '<span class="ev-tag">laughs</span> <small>0.5–1.0, 4.0–6.0</small>' in html
    assert "--ev-from:0.5000;--ev-to:0.7500" in html


def test_the_axis_has_round_seconds_and_ends_with_the_clip():
    html = speak_tab.timeline(spoken(6.3, ("laughs", 0.5, 1.0)))
    ticks = re.findall(r'ev-tick-x" style="--ev-across:([\d.]+)">([\d.]+)', html)
    assert [name for _, name in ticks] == ["0", "1", "2", "3", "4", "5", "6"]
    assert float(ticks[-1][0]) == pytest.approx(6 / 6.3, abs=1e-4)


def test_a_tag_in_the_second_half_is_labelled_to_the_left_where_there_is_room():
    assert "ev-late" not in speak_tab.timeline(spoken(8.0, ("laughs", 3.0, 4.5)))
    assert "ev-late" in speak_tab.timeline(spoken(8.0, ("laughs", 3.9, 4.5)))


def test_without_tags_there_is_a_sentence_and_no_axis():
    html = speak_tab.timeline(spoken(1.5))
    assert "1 word, 0 tags, 1.5 s." in html and "ev-lanes" not in html


def test_a_tag_without_a_sound_is_named_as_text():
    status, *_ = speak_tab.speak_embedded("[<b>levitates</b>] hello", speech.DEFAULT_VOICE, 0)
    assert "[&lt;b&gt;levitates&lt;/b&gt;]" in status


def test_a_script_of_nothing_but_tags_without_a_sound_is_refused_with_their_names():
    with pytest.raises(SpeechError, match=r"nothing to speak: .* no sound for \[burps\], \[zorp\]\."):
        speak_tab.synthesize("[burps] [Zorp] [burps]", speech.DEFAULT_VOICE, 0)
    assert speak_tab.synthesize("[burps] [laughs]", speech.DEFAULT_VOICE, 0).skipped == ("[burps]",)


@pytest.mark.parametrize("seed", [None, -1, 1.0])
def test_any_value_of_the_variation_box_is_accepted(seed):
    assert "Spoken" in speak_tab.speak_embedded("So.", speech.DEFAULT_VOICE, seed)[0]


def test_a_script_that_is_empty_or_too_long_is_refused_in_one_sentence():
    for script in ("", "word " * 1000):
        with pytest.raises(SpeechError):
            speak_tab.synthesize(script, speech.DEFAULT_VOICE, 0)
        assert 'role="alert"' in speak_tab.speak_embedded(script, speech.DEFAULT_VOICE, 0)[0]


def test_every_script_on_offer_can_be_spoken_whole():
    for script in speak_tab.example_scripts():
        assert all(speech.spoken_as(name) for name in tags.names(script)), script
        assert speak_tab.random_script(script)[0] != script


def test_voices_have_unique_names_and_are_grouped():
    names = [speak_tab.voice_name(voice) for voice in speech.VOICES]
    assert len(set(names)) == len(names) and names[:2] == ["American, woman 1", "American, woman 2"]
    assert speak_tab.voice_name(speech.DEFAULT_VOICE) == "American, woman 3"
    kinds = [name.rsplit(" ", 1)[0] for name in names]
    assert [kind for kind, _ in groupby(kinds)] == list(dict.fromkeys(kinds))


def test_a_clip_of_elevenlabs_is_an_ordinary_clip_without_the_key(server):  # noqa: F811
    server.body = audio.wav_bytes(tone(1.0))
    script = "[sighs] We waited."
    steps = speak_tab.speak_with_elevenlabs(script, KEY, elevenlabs.DEFAULT_VOICE, server.url)
    asking, *nothing = next(steps)
    assert "ElevenLabs" in asking and nothing == [gr.skip()] * 3
    status, clip, told, spoken = next(steps)
    assert Path(clip).read_bytes() == server.body and spoken == script and "1.0 s" in told
    assert KEY not in f"{asking}{status}{clip}{told}"
    assert list(steps) == [] and not Path(clip).exists()  # Gradio has its copy by then


@pytest.mark.parametrize("script", ["[sighs] We waited.", "word " * 1000, ""])
def test_an_error_of_elevenlabs_is_reported_and_the_last_clip_stays(server, script):  # noqa: F811
    server.answer(401, "invalid_api_key")
    _, (status, *nothing) = speak_tab.speak_with_elevenlabs(script, KEY, elevenlabs.DEFAULT_VOICE, server.url)
    assert 'role="alert"' in status and KEY not in status and nothing == [gr.skip()] * 3


def test_a_text_that_is_too_long_is_truncated_to_whole_sentences_with_a_note():
    short, long, endless = "[sighs] So.", "[sighs] It is late. " * 200, "so " * 1000
    assert [speak_tab.truncated_script(text) for text in (short, short * 0)] == [short, ""]
    for text, end in ((long, "late."), (endless, "so")):
        taken = speak_tab.truncated_script(text)
        assert text.startswith(taken) and taken.endswith(end)
        assert speak_tab.MAX_CHARACTERS - 25 < len(taken) <= speak_tab.MAX_CHARACTERS
    assert len(speak_tab.truncated_script("x" * 5000)) == speak_tab.MAX_CHARACTERS
    _, told, script, *_ = speak_tab.load_script(gr.EventData(None, {"text": long}), "")
    assert script == speak_tab.truncated_script(long) and f"{len(script):,}" in told


def test_a_replaced_script_is_stored_for_its_button():
    new, before, back = speak_tab.random_script("[sighs] Mine.")
    assert new in {*speak_tab.example_scripts()} and before == "[sighs] Mine." and back.visible

"""The Speak tab: what is spoken, what is left out, and where each tag sounds."""

import numpy as np
import pytest

from evoxtral import speech, tags
from evoxtral.errors import SpeechError
from evoxtral.ui import speak_tab


def test_every_tag_that_the_voice_can_make_is_one_click_away():
    html = speak_tab.palette()
    assert all(f'data-insert="[{name}] "' in html for name in speech.SPOKEN_TAGS)


def test_what_is_spoken_is_shown_with_the_time_of_each_tag_and_kept_as_the_reference():
    script = "[sighs] We waited. [laughs]"
    status, (rate, wave), timeline, spoken = speak_tab.perform(script, speech.DEFAULT_VOICE, 0)
    assert (rate, wave.dtype, spoken) == (16_000, np.int16, script)
    assert timeline.count('class="ev-tag') == 2 and "2 words, 2 tags" in timeline
    assert "Spoken" in status


def test_a_tag_without_a_sound_is_named_as_text():
    status, *_ = speak_tab.perform("[<b>levitates</b>] hello", speech.DEFAULT_VOICE, 0)
    assert "[&lt;b&gt;levitates&lt;/b&gt;]" in status


def test_a_script_that_is_empty_or_too_long_is_refused_in_one_sentence():
    for script in ("", "word " * 1000):
        with pytest.raises(SpeechError):
            speak_tab.say(script, speech.DEFAULT_VOICE, 0)
        assert 'role="alert"' in speak_tab.perform(script, speech.DEFAULT_VOICE, 0)[0]


def test_every_script_on_offer_can_be_spoken_whole():
    for script in speak_tab.SCRIPTS:
        assert all(speech.spoken_as(name) for name in tags.names(script)), script
        assert speak_tab.another(script)[0] != script


def test_every_voice_has_a_name_of_its_own():
    assert len({speak_tab.voice_name(voice) for voice in speech.VOICES}) == len(speech.VOICES)

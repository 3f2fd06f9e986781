"""The embedded voice: what is written is what sounds, and its times are true."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evoxtral import speech, tags
from evoxtral.audio import SAMPLE_RATE
from evoxtral.errors import SpeechError
from evoxtral.speech import SPOKEN_TAGS, speak


def level(waveform: np.ndarray, start: float, end: float) -> float:
    """RMS of a stretch of waveform; times in seconds."""
    part = waveform[int(start * SAMPLE_RATE) : int(end * SAMPLE_RATE)]
    return float(np.sqrt(np.mean(part**2)))


def seconds(text: str, **arguments) -> float:
    return len(speak(text, **arguments).waveform) / SAMPLE_RATE


def test_a_waveform_is_mono_float32_at_16_khz_within_full_scale():
    waveform = speak("[shouts] Get out of here!").waveform
    assert waveform.ndim == 1 and waveform.dtype == np.float32
    assert 0.5 < np.abs(waveform).max() <= 1


def test_speech_is_deterministic_for_its_arguments():
    text = "[sighs] I told you [laughs] so."
    assert np.array_equal(speak(text, seed=3).waveform, speak(text, seed=3).waveform)
    assert not np.array_equal(speak(text, seed=3).waveform[:20000], speak(text, seed=4).waveform[:20000])


def test_every_word_has_its_time_in_order():
    found = speak("[nervous] So... I was thinking, [clears throat] maybe we could try that NEW place? [laughs]")
    assert [w.text for w in found.words] == "So... I was thinking, maybe we could try that NEW place?".split()
    times = [t for w in found.words for t in (w.start, w.end)]
    assert times == sorted(times)
    assert times[-1] < len(found.waveform) / SAMPLE_RATE
    assert all(level(found.waveform, w.start, w.end) > 0.005 for w in found.words)


def test_every_tag_has_its_time_where_it_stands():
    found = speak("[nervous] So... I was [clears throat] thinking. [laughs] Fine.")
    assert [t.text for t in found.tags] == ["nervous", "clears throat", "laughs"]
    word = {w.text: w for w in found.words}
    tag = {t.text: t for t in found.tags}
    assert word["was"].end <= tag["clears throat"].start < tag["clears throat"].end <= word["thinking."].start
    assert tag["nervous"].start <= word["So..."].start
    assert word["thinking."].end <= tag["nervous"].end + 1e-6  # a delivery reaches to the end of its sentence
    assert tag["nervous"].end <= tag["laughs"].start


@pytest.mark.parametrize("name", SPOKEN_TAGS)
def test_every_spoken_tag_changes_the_sound(name):
    tagged, plain = speak(f"[{name}] We were here."), speak("We were here.")
    assert [t.text for t in tagged.tags] == [name]
    assert len(tagged.waveform) != len(plain.waveform) or not np.array_equal(tagged.waveform, plain.waveform)


@pytest.mark.parametrize("name", speech.effects.SOUNDS)
@pytest.mark.parametrize("voice", ["en-us+f3", "en+m2"])
def test_a_sound_has_energy_at_its_stated_time(name, voice):
    found = speak(f"Wait. [{name}] Well.", voice)
    tag = found.tags[0]
    assert 0.2 < tag.end - tag.start < 2.0
    assert level(found.waveform, tag.start, tag.end) > 0.01


def test_a_pause_is_silent_and_longer_than_any_gap_between_sentences():
    found = speak("Wait. [pause] Well. Yes.")
    pause = found.tags[0]
    assert pause.end - pause.start > 0.85
    assert level(found.waveform, pause.start, pause.end) < 1e-4
    wait, well, yes = found.words
    assert yes.start - well.end < 0.45


def test_a_word_in_capitals_is_stressed_and_not_spelt():
    plain, stressed = speak("I want that old house."), speak("I want that OLD house.")
    longer = stressed.words[3].end - stressed.words[3].start
    assert longer > 1.2 * (plain.words[3].end - plain.words[3].start)
    assert longer < 1.0  # spelling takes longer than a second


@pytest.mark.parametrize("delivery", ["", "[whispers] ", "[sad] ", "[angry] "])
def test_an_exclamation_gets_louder_in_every_delivery(delivery):
    def growth(mark: str) -> float:
        found = speak(f"{delivery}We can go home on Sunday{mark}")
        start, middle, end = found.words[0].start, found.words[3].start, found.words[-1].end
        return level(found.waveform, middle, end) / level(found.waveform, start, middle)

    assert growth("!") > 1.2 * growth(".")


def last(waveform: np.ndarray, words: tuple, duration: float = 0.2) -> np.ndarray:
    """The last stretch of speech, in seconds."""
    end = int(words[-1].end * SAMPLE_RATE)
    return waveform[end - int(duration * SAMPLE_RATE) : end].astype(float)


def note(waveform: np.ndarray) -> float:
    """Median pitch (Hz) of frames of 64 ms: the lag of 50 to 400 Hz at which each is most like itself."""
    shortest, longest = SAMPLE_RATE // 400, SAMPLE_RATE // 50
    found = []
    for frame in np.lib.stride_tricks.sliding_window_view(waveform, 1024)[::256]:
        like = [np.corrcoef(frame[:-lag], frame[lag:])[0, 1] for lag in range(shortest, longest)]
        # Multiples of the period are as alike: the first lag that is nearly the best.
        found.append(SAMPLE_RATE / (shortest + next(i for i, value in enumerate(like) if value > max(like) - 0.05)))
    return float(np.median(found))


def brightness(waveform: np.ndarray) -> float:
    """Centroid of the spectrum (Hz)."""
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    return float((np.fft.rfftfreq(len(waveform), 1 / SAMPLE_RATE) * spectrum).sum() / spectrum.sum())


@pytest.mark.parametrize("delivery", ["", "[calm] ", "[sad] "])
def test_a_question_ends_at_a_higher_pitch(delivery):
    def pitch(mark: str) -> float:
        found = speak(f"{delivery}Did we ever go home on Sunday{mark}", "en-us+m3")
        return note(last(found.waveform, found.words))

    assert pitch("?") > 1.1 * pitch(".")


def test_a_whispered_question_ends_brighter():
    """A whisper has no note: its whole sound slides up."""

    def centre(mark: str) -> float:
        found = speak(f"[whispers] Did we ever go home on Sunday{mark}")
        return brightness(last(found.waveform, found.words))

    assert centre("?") > 1.03 * centre(".")


def test_a_delivery_ends_with_its_sentence():
    found = speak("[whispers] Be quiet. The house is ours.")
    quiet, loud = found.words[:2], found.words[2:]
    assert level(found.waveform, loud[0].start, loud[-1].end) > 1.5 * level(
        found.waveform, quiet[0].start, quiet[-1].end
    )


def test_stammers_repeat_the_beginning_of_the_next_word():
    found = speak("I was [stammers] thinking.")
    tag = found.tags[0]
    assert tag.end - tag.start > 0.3
    assert found.words[1].end <= tag.start and tag.end <= found.words[2].start + 1e-6


def test_synonyms_sound_like_their_group():
    assert np.array_equal(speak("Well. [chuckles] Yes.").waveform, speak("Well. [laughs] Yes.").waveform)


def test_a_break_of_ssml_is_a_pause_and_no_element_is_read_aloud():
    marked = speak('<speak>No. <break time="1s"/> Yes.</speak>')
    assert marked.skipped == ("<speak>", "</speak>")
    np.testing.assert_array_equal(marked.waveform, speak("No. [pause] Yes.").waveform)


def test_a_tag_without_a_sound_is_skipped_and_reported_as_written():
    found = speak("Well [Plays Trumpet] then.")
    assert found.skipped == ("[Plays Trumpet]",)
    assert [w.text for w in found.words] == ["Well", "then."]


def test_markup_in_a_script_is_spoken_as_text():
    assert seconds('5 < 6 & "x" </speak>') > seconds("5") + 0.5
    assert [w.text for w in speak("<b>bold</b> & brave").words] == ["<b>bold</b>", "&", "brave"]


def test_joined_words_share_their_time():
    said = [(word.text, word.end - word.start) for word in speak("I do not know the man in the car.").words]
    assert all(length > 0.03 for _, length in said), said


def test_the_gap_after_a_comma_is_no_part_of_its_word():
    car, you = (word for word in speak("I left it in the car, you know.").words if word.text in ("car,", "you"))
    assert you.start - car.end > 0.1


def test_a_tag_keeps_its_written_name_and_sounds_like_its_group():
    assert [tag.text for tag in speak("[Whispering] hello [chuckles]").tags] == ["whispering", "chuckles"]


@pytest.mark.parametrize(
    ("text", "heard", "skipped"),
    [
        ("I left. [whispers]", [], ["[whispers]"]),
        ("[sad] Hello. [stammers]", ["sad"], ["[stammers]"]),
        ("[stammers][stammers] I know [foo] [angry]", ["stammers"], ["[stammers]", "[foo]", "[angry]"]),
        ("[sad] [sadly] hello there", ["sad"], ["[sadly]"]),
    ],
)
def test_every_tag_has_a_time_or_is_reported(text, heard, skipped):
    found = speak(text)
    assert [tag.text for tag in found.tags] == heard and list(found.skipped) == skipped


def test_a_seed_below_zero_is_a_clear_error():
    with pytest.raises(SpeechError, match="seed is -1"):
        speak("Hello.", seed=-1)


@pytest.mark.parametrize("text", ["", "   ", "\n", "[unheard of]", "…", "?!"])
def test_nothing_to_speak_is_a_clear_error(text):
    with pytest.raises(SpeechError, match="nothing to speak"):
        speak(text)


def test_a_voice_that_does_not_exist_is_a_clear_error():
    with pytest.raises(SpeechError, match="'nobody' does not exist"):
        speak("Hello.", "nobody")


@pytest.mark.parametrize("voice", speech.VOICES[::7])
def test_voices_speak(voice):
    assert 0.4 < seconds("We went home.", voice=voice) < 3


@given(st.text(max_size=60))
@example("[[laughs]")
@example("[laughs]]] <prosody rate='1'>")
@example("🙂 [sighs] ÄÖÜ \x00 NO")
@example("\U00018af3")  # a letter that Unicode has since 2020 only, and espeak-ng does not know
@example("\U00018af3 [stammers] \U00030000")
def test_any_text_is_spoken_or_refused(text):
    try:
        found = speak(text)
    except SpeechError:
        assert not any(map(str.isalnum, tags.plain(text)))
        return
    assert np.isfinite(found.waveform).all()
    assert " ".join(w.text for w in found.words).split() == tags.without_tags(text).split() or "[" in text

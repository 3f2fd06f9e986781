"""Which sounds are sent to the model: speech, and laughs and sighs by themselves; not machines, tones and music."""

import numpy as np
import pytest
import torch
from scipy.signal import lfilter

from evoxtral import audio
from evoxtral.audio import SAMPLE_RATE, activity
from evoxtral.speech import acoustics, effects, sounds, speak
from evoxtral.speech.synthesis import VOICES
from training import nonspeech

SILENCE = np.zeros(2 * SAMPLE_RATE)


def alone(waveform: np.ndarray, lead: float = 4.0) -> np.ndarray:
    """A sound between seconds of faint noise, (T,) float32."""
    quiet = np.zeros(round(lead * SAMPLE_RATE))
    whole = np.concatenate([quiet, waveform, quiet])
    return (whole + 1e-4 * np.random.default_rng(0).standard_normal(len(whole))).astype(np.float32)


def seconds(waveform: np.ndarray) -> float:
    """Seconds of the sounds that are sent to the model."""
    found = audio.segments(audio.levelled(waveform.astype(np.float32)), 20)
    return sum(end - start for segment in found for start, end in segment.sounds)


def test_probabilities_are_those_of_the_detectors_own_graph():
    import warnings
    from importlib.util import find_spec
    from pathlib import Path

    graph = Path(find_spec("silero_vad").submodule_search_locations[0]) / activity.GRAPH
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        reference = torch.jit.load(graph)
    waveform = speak("Nobody should hurry.").waveform[: 3 * SAMPLE_RATE].astype(np.float32)
    padded = torch.from_numpy(np.pad(waveform, (0, -len(waveform) % activity.HOP)))
    with torch.inference_mode():
        expected = [reference(frame[None], SAMPLE_RATE).item() for frame in padded.split(activity.HOP)]
    assert activity.speech_probabilities(waveform) == pytest.approx(expected, abs=1e-3)
    assert max(expected) > 0.9 and min(expected) < 0.1


def test_reading_the_detector_leaves_the_number_of_threads_alone():
    before = torch.get_num_threads()
    activity.speech_probabilities(np.zeros(SAMPLE_RATE, np.float32))
    assert torch.get_num_threads() == before


def test_no_samples_have_no_probabilities():
    assert activity.speech_probabilities(np.zeros(0, np.float32)).shape == (0,)


@pytest.mark.parametrize("name", effects.SOUNDS)
def test_a_sound_by_itself_passes_whole(name):
    rng = np.random.default_rng(0)
    made = [effects.SOUNDS[name](rng, True), *(sounds.make(name, rng, 150) for _ in range(4))]
    for waveform in made:
        (segment,) = audio.segments(audio.levelled(alone(waveform)), 20)
        length = len(waveform) / SAMPLE_RATE
        assert segment.start <= 4.05 and segment.end >= 3.9 + length


@pytest.mark.parametrize("kind", [kind for kind in nonspeech.KINDS if kind != "knocks"])
@pytest.mark.parametrize("level", [0.05, 0.6])
def test_noise_tones_and_music_are_not_sent(kind, level):
    waveform = effects.peak(nonspeech.KINDS[kind](np.random.default_rng(1), 20), level)
    assert seconds(waveform) == 0
    assert not audio.is_silent(waveform.astype(np.float32), any_sound=True)


@pytest.mark.parametrize(("begin", "level"), [(3.750572799628002, 0.7208546267465732), (1.8009977094673526, 0.7)])
def test_a_ringing_tone_whose_onset_the_detector_takes_for_speech_is_not_sent(begin, level):
    """ITU-T E.180, North America: 2 s of 6; the second recording begins inside a tone, 0.2 s before its end."""
    t = np.arange(12 * SAMPLE_RATE) / SAMPLE_RATE + begin
    tones = (np.sin(2 * np.pi * 440 * t) + np.sin(2 * np.pi * 480 * t)) * (t % 6 < 2)
    assert seconds(effects.peak(tones, level)) == 0


def test_rumble_that_swells_is_not_sent():
    """Wind and traffic: brown noise. Seconds of it rise and move as a sigh does."""
    for seed in range(12):
        rng = np.random.default_rng(seed)
        swell = np.interp(np.arange(20 * SAMPLE_RATE), np.linspace(0, 20 * SAMPLE_RATE, 8), rng.uniform(0.05, 1, 8))
        noise = swell * acoustics.coloured(rng.standard_normal(20 * SAMPLE_RATE), 2.0)
        assert seconds(effects.peak(noise, 0.5)) == 0


def test_speech_is_found_in_noise_and_the_noise_before_it_is_not_sent():
    rng = np.random.default_rng(0)
    spoken = speak("The train to the old harbour leaves at nine in the morning.")
    waveform = np.concatenate([np.zeros(10 * SAMPLE_RATE), spoken.waveform, np.zeros(10 * SAMPLE_RATE)])
    waveform += 0.1 * np.abs(spoken.waveform).max() * nonspeech.fan(rng, len(waveform) / SAMPLE_RATE)[: len(waveform)]
    segments = audio.segments(audio.levelled(waveform.astype(np.float32)), 30)
    first, last = segments[0].sounds[0][0], segments[-1].sounds[-1][1]
    assert first == pytest.approx(10 + spoken.words[0].start, abs=0.5)
    assert last == pytest.approx(10 + spoken.words[-1].end, abs=0.5)


def test_babble_of_twenty_is_not_sent_and_one_voice_in_loud_noise_is():
    """Noise and a fan as loud as the voice, and noise 5 dB below a whisper, which has no pitch."""
    rng = np.random.default_rng(0)
    texts = ["The train to the old harbour leaves at nine in the morning, and nobody should hurry for it."] * 2
    size = 10 * SAMPLE_RATE
    voices = [speak(" ".join(texts), VOICES[n % len(VOICES)], seed=n).waveform for n in range(20)]
    crowd = sum(np.roll(np.resize(voice, size), rng.integers(size)) * rng.uniform(0.3, 1) for voice in voices)
    assert seconds(effects.peak(crowd, 0.5)) == 0
    whisper = speak(" ".join(f"[whispers] {text}" for text in texts)).waveform
    for voice, decibel in ((voices[0], 0), (voices[1], 0), (whisper, 5), (voices[2], None), (voices[3], None)):
        white = rng.standard_normal(len(voice))
        noise = lfilter([1], [1, -0.7], white) if decibel is None else acoustics.coloured(white, 1.0)
        noise *= np.sqrt((voice**2).mean() / (noise**2).mean() / 10 ** ((decibel or 0) / 10))
        assert seconds(effects.peak(voice + noise, 0.5)) > 0.8 * len(voice) / SAMPLE_RATE


@pytest.mark.parametrize("delivery", [None, *effects.DELIVERIES])
def test_sounds_begin_and_end_with_the_words(delivery):
    spoken = speak(f"[{delivery}] We never said that." if delivery else "We never said that.", seed=1)
    segments = audio.segments(audio.levelled(alone(spoken.waveform, lead=3.5)), 20)
    assert segments[0].sounds[0][0] == pytest.approx(3.5 + spoken.words[0].start, abs=0.2)
    assert segments[-1].sounds[-1][1] == pytest.approx(3.5 + spoken.words[-1].end, abs=0.2)

"""Augmentation: rooms, noise and codecs do to a waveform what they say."""

import numpy as np
import pytest

from evoxtral import speech
from evoxtral.audio import SAMPLE_RATE
from evoxtral.speech import acoustics
from training import augment


@pytest.fixture(scope="module")
def waveform() -> np.ndarray:
    return speech.speak("The old bridge shook.", seed=1).waveform


def reverberation(response: np.ndarray) -> float:
    """RT60 in s by Schroeder's backward integration, from -5 to -25 dB (ISO 3382)."""
    response = response.copy()
    response[0] = 0  # the direct sound stands apart
    energy = np.cumsum(response[::-1] ** 2)[::-1]
    level = 10 * np.log10(energy / energy[0])
    return 3 * (np.argmax(level < -25) - np.argmax(level < -5)) / SAMPLE_RATE


@pytest.mark.parametrize("rt60", [0.15, 0.4, 0.8])
def test_a_room_has_the_requested_reverberation_time(rt60):
    rooms = [acoustics.room(np.random.default_rng(seed), rt60, 2.0) for seed in range(5)]
    assert np.mean([reverberation(room) for room in rooms]) == pytest.approx(rt60, rel=0.2)


def test_direct_sound_falls_with_distance():
    def clarity(distance: float) -> float:
        response = acoustics.room(np.random.default_rng(0), 0.5, distance)
        return response[0] ** 2 / np.sum(response[80:] ** 2)

    assert clarity(0.2) > 10 * clarity(1.0) > 100 * clarity(10.0) / 10


@pytest.mark.parametrize("snr", [0.0, 15.0, 30.0])
def test_noise_has_the_requested_snr(waveform, snr):
    noise = acoustics.noise(np.random.default_rng(1), len(waveform))
    added = acoustics.mixed(waveform.astype(float), noise, snr) - waveform
    sounding = waveform[np.abs(waveform) > 0.05 * np.abs(waveform).max()]
    assert 10 * np.log10(np.mean(sounding**2) / np.mean(added**2)) == pytest.approx(snr, abs=0.01)


def test_pink_noise_falls_by_three_decibels_an_octave():
    spectrum = np.abs(np.fft.rfft(acoustics.coloured(np.random.default_rng(0).standard_normal(1 << 16), 1.0))) ** 2
    octave = [spectrum[1 << k : 2 << k].mean() for k in range(8, 14)]
    assert 10 * np.log10(np.divide(octave[1:], octave[:-1])) == pytest.approx([-3.0] * 5, abs=0.6)


@pytest.mark.parametrize("codec", acoustics.CODECS, ids=lambda codec: f"{codec.encoder}-{codec.rate}")
def test_a_codec_keeps_the_waveform_aligned(waveform, codec):
    coded = acoustics.coded(waveform.astype(float), np.random.default_rng(0), codec)
    assert len(coded) == len(waveform)
    envelopes = [np.convolve(np.abs(w), np.full(400, 1 / 400), "same") for w in (waveform, coded)]
    assert np.corrcoef(envelopes)[0, 1] > 0.9
    if codec.rate == 8_000:  # nothing is left above its band
        spectrum = np.abs(np.fft.rfft(coded)) ** 2
        assert spectrum[int(0.55 * len(spectrum)) :].sum() < 1e-2 * spectrum.sum()


def test_the_vocoder_leaves_speech_in_the_telephone_band(waveform):
    coded = acoustics.narrowband_vocoder(waveform.astype(float), np.random.default_rng(0))
    spectrum = np.abs(np.fft.rfft(coded)) ** 2
    assert len(coded) == len(waveform) and spectrum[int(0.55 * len(spectrum)) :].sum() < 0.02 * spectrum.sum()


def test_a_microphone_is_the_same_for_a_seed_and_keeps_the_length(waveform):
    once, again, other = (augment.microphone(waveform, np.random.default_rng(seed), [waveform]) for seed in (5, 5, 6))
    assert np.array_equal(once, again) and not np.array_equal(once, other)
    for seed in range(30):
        out = augment.microphone(waveform, np.random.default_rng(seed), [waveform])
        assert (
            out.shape == waveform.shape
            and out.dtype == np.float32
            and np.isfinite(out).all()
            and np.abs(out).max() <= 1
        )


def test_masks_hide_stretches_of_a_log_mel_and_leave_the_rest():
    mel = np.random.default_rng(0).standard_normal((300, 128)).astype(np.float32)
    shares = []
    for seed in range(40):
        out = augment.masked(mel, np.random.default_rng(seed))
        hidden = out != mel
        assert np.all(out[hidden] == mel.mean(dtype=np.float32)) and out.shape == mel.shape
        rows, bands = hidden.all(1), hidden.all(0)
        assert np.array_equal(hidden, rows[:, None] | bands[None]), "whole frames and whole bands"
        assert rows.sum() <= 5 * augment.MASK_FRAMES and bands.sum() <= 2 * augment.MASK_BANDS
        shares.append(hidden.mean())
    assert 0.1 < np.mean(shares) < 0.35
    assert augment.masked(mel[:5], np.random.default_rng(1)).shape == (5, 128)


def test_half_of_the_pauses_become_long_ones_and_nothing_else_changes():
    spoken = speech.speak("One. [pause] Two, three. [pause] Four. [pause] Five. [pause] Six. [pause] Seven.", seed=1)
    out = augment.longer_pauses(spoken.waveform, seed=3)
    sounding = [w[np.abs(w) > 0] for w in (spoken.waveform, out)]
    assert np.array_equal(*sounding)
    edges = np.flatnonzero(np.diff(np.abs(out) > 0.004, prepend=False, append=False))
    gaps = (edges[2::2] - edges[1:-1:2]) / SAMPLE_RATE
    pauses = gaps[gaps > 0.85]
    assert len(pauses) == 5 and pauses.max() <= 3.0
    assert 1 <= sum(pauses > 1.3) < 5
    assert np.array_equal(out, augment.longer_pauses(spoken.waveform, seed=3))

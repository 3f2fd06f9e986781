"""Tell the babble of a crowd from somebody who speaks, also in noise.

Of many voices at once none can be followed: their syllables fill each other's gaps, so the envelopes of frequency bands
hardly move at 2 to 8 Hz (as in `channels`), and no single pitch stands out. Steady noise at the level of speech takes
the movement away, too, but not the pitch; a whisper has no pitch, but moves. And noise fills the highest bands, where
speech is weak, so that they do not move at all (0.03 to 0.11), while those of a crowd do (0.13 to 0.5): its voices are
weak there, too, but nothing else is there. So a crowd is what has little movement, but some in the highest bands, and
no pitch.

Thresholds were chosen on one half of the voices and noises of `benchmarks/babble.py`. On the other half, of 440
stretches of 8 s of one speaker, alone, in a room, or in five noises at 20 to 0 dB, 5 are taken for a crowd (2 of 20 in
fan noise as loud as the speech), and 4 of 80 with a crowd behind, all at 0 dB. Of 60 crowds of forty voices all are, of
twenty 49, of ten 17, of five 5.
"""

import numpy as np

from evoxtral.audio.tracks import SAMPLE_RATE

MOVEMENT = 0.26  # below it a stretch may be a crowd
HIGH_MOVEMENT = 0.12  # of the three highest bands, 2 to 8 kHz; below it, steady noise fills these
PITCH = 0.6  # and is one if its pitch stands out less than this
STEADY = 0.35  # movement of the whole band's envelope, from which on a stretch is not looked at more closely
SECOND = 64  # frames of a second
SYLLABLES = slice(2, 9)  # bins of a second's envelope: 2 to 8 Hz
WINDOW = 512  # samples of a spectrum
EDGES = (3, 6, 10, 16, 26, 42, 68, 110, 180, 250)  # bins (31 Hz) between which a band lies
LOWEST_PITCH, HIGHEST_PITCH = 67, 400  # Hz
PITCH_RATE = 4_000  # Hz, at which pitch is looked for
PITCH_BAND = 1_000  # Hz, up to which


def is_babble(waveform: np.ndarray, power: np.ndarray) -> bool:
    """Whether a stretch of speech (T,) at 16 kHz, of some seconds, is the babble of a crowd.

    power: of its frames of 1/64 s. Most stretches are told by it alone, which costs almost nothing.
    """
    if len(power) < SECOND or _steadiness(power) >= STEADY:
        return False
    movement, high = _movements(waveform)
    return movement < MOVEMENT and high >= HIGH_MOVEMENT and _pitch(waveform) < PITCH


def measured(waveform: np.ndarray, power: np.ndarray) -> tuple[float, float, float, float]:
    """What `is_babble` compares with STEADY, MOVEMENT, HIGH_MOVEMENT and PITCH, all of it."""
    return _steadiness(power), *_movements(waveform), _pitch(waveform)


def _movements(waveform: np.ndarray) -> tuple[float, float]:
    """The median second's movement, mean over all bands; and the highest bands' own."""
    movement = _movement(_envelopes(waveform))
    return float(np.median(movement.mean(axis=1))), float(np.median(movement[:, -3:], axis=0).mean())


def _steadiness(power: np.ndarray) -> float:
    """The median second's movement of the whole band's envelope."""
    return float(np.median(_movement(np.sqrt(np.maximum(power, 0))[:, None])))


def _movement(envelopes: np.ndarray) -> np.ndarray:
    """Share of the movement that is at the rates of syllables: (frames, bands) -> (seconds, bands)."""
    seconds = len(envelopes) // SECOND
    spectra = np.abs(np.fft.rfft(envelopes[: seconds * SECOND].reshape(seconds, SECOND, -1), axis=1))
    moving = np.linalg.norm(spectra[:, SYLLABLES], axis=1)
    return moving / np.maximum(spectra[:, 0], 1e-9)


def _frames(waveform: np.ndarray, size: int, step: int) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(waveform, size)[::step] * np.hanning(size).astype(np.float32)


def _envelopes(waveform: np.ndarray) -> np.ndarray:
    """The amplitude in bands between EDGES, 64 times a second: (frames, bands)."""
    power = np.abs(np.fft.rfft(_frames(waveform, WINDOW, SAMPLE_RATE // SECOND), axis=1)) ** 2
    return np.sqrt(np.add.reduceat(power[:, : EDGES[-1]], EDGES[:-1], axis=1))


def _pitch(waveform: np.ndarray) -> float:
    """How much a pitch stands out in the fifth of the loud frames where it does most, 0 to 1.

    The highest value of a frame's autocorrelation, divided by that of its window (Boersma, "Accurate short-term
    analysis of the fundamental frequency", 1993).
    """
    import soxr

    size = PITCH_RATE * 2 // 25  # 80 ms: some periods of the lowest pitch
    frames = _frames(soxr.resample(waveform, SAMPLE_RATE, PITCH_RATE), size, size // 4)
    power = np.einsum("ij,ij->i", frames, frames)
    frames = frames[power > 0.1 * np.percentile(power, 95)]
    length = 1 << (2 * size - 1).bit_length()
    spectra = np.abs(np.fft.rfft(frames, length, axis=1)) ** 2
    spectra[:, PITCH_BAND * length // PITCH_RATE :] = 0
    window = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(size), length)) ** 2)
    lags = slice(PITCH_RATE // HIGHEST_PITCH, PITCH_RATE // LOWEST_PITCH + 1)
    own = np.fft.irfft(spectra, axis=1)
    found = own[:, lags] / np.maximum(own[:, :1], 1e-12) * (window[0] / window[lags])
    return float(np.percentile(found.max(axis=1), 80))

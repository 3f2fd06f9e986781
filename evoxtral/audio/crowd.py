"""Tell the babble of a crowd from somebody who speaks, also in noise.

Of many voices at once none can be followed: their syllables fill each other's gaps, so the envelopes of frequency bands
hardly move at 2 to 8 Hz (as in `channels`), and no single pitch stands out. Steady noise at the level of speech takes
the movement away, too, but not the pitch; a whisper has no pitch, but moves. So a crowd is what has neither.

Measured with the embedded voice and three natural ones (median of the seconds' movement, pitch): clean 0.5 to 0.73 and
0.93 to 0.98; in noise as loud as the speech 0.13 to 0.27 and 0.63 to 0.91; a whisper in noise 5 dB below it 0.22 and
0.62 to 0.84; ten voices at once 0.28 to 0.31 and 0.65; twenty 0.21 and 0.48 to 0.55.
Of 48 stretches of 8 s none was taken for a crowd when clean, in a room of 0.7 s, or with white or pink noise, a fan or
babble 5 dB below them; 8 were with a fan as loud as they.
"""

import numpy as np

from evoxtral.audio.tracks import SAMPLE_RATE

MOVEMENT = 0.26  # below it a stretch may be a crowd
PITCH = 0.6  # and is one if its pitch stands out less than this
STEADY = 0.35  # movement of the whole band's envelope, from which on a stretch is not looked at more closely
SECOND = 64  # frames of a second
SYLLABLES = slice(2, 9)  # bins of a second's envelope: 2 to 8 Hz
WINDOW = 512  # samples of a spectrum
EDGES = (3, 6, 10, 16, 26, 42, 68, 110, 180, 250)  # bins (31 Hz) between which a band lies
LOWEST_PITCH, HIGHEST_PITCH = 67, 400  # Hz
PITCH_RATE = 4_000  # Hz, at which pitch is looked for
PITCH_BAND = 1_000  # Hz, up to which


def is_crowd(waveform: np.ndarray, power: np.ndarray) -> bool:
    """Whether a stretch of speech (T,) at 16 kHz, of some seconds, is the babble of a crowd.

    power: of its frames of 1/64 s. Most stretches are told by it alone, which costs almost nothing.
    """
    if len(power) < SECOND or _steadiness(power) >= STEADY:
        return False
    return float(np.median(_movement(_envelopes(waveform)))) < MOVEMENT and _pitch(waveform) < PITCH


def measured(waveform: np.ndarray, power: np.ndarray) -> tuple[float, float, float]:
    """What `is_crowd` compares with STEADY, MOVEMENT and PITCH, all of it."""
    return _steadiness(power), float(np.median(_movement(_envelopes(waveform)))), _pitch(waveform)


def _steadiness(power: np.ndarray) -> float:
    return float(np.median(_movement(np.sqrt(np.maximum(power, 0))[:, None])))


def _movement(envelopes: np.ndarray) -> np.ndarray:
    """Share of the movement at the rates of syllables in each second of envelopes (frames, bands): mean over bands."""
    seconds = len(envelopes) // SECOND
    spectra = np.abs(np.fft.rfft(envelopes[: seconds * SECOND].reshape(seconds, SECOND, -1), axis=1))
    moving = np.linalg.norm(spectra[:, SYLLABLES], axis=1)
    return (moving / np.maximum(spectra[:, 0], 1e-9)).mean(axis=1)


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

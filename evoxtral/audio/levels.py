"""Loudness by ITU-R BS.1770, and the gain that brings a recording to the level the models were trained on.

A gain of 20 dB adds 0.5 to every value of Whisper's log-mel, (log10 of the power + 4) / 4, which it floors 80 dB below
the loudest band of a window and at -100 dB. Audio is rounded to 16 bits before. So near full scale gain only shifts all
values alike, and far below it saves what rounding and the lower floor would take.
"""

import numpy as np

from evoxtral.audio.tracks import SAMPLE_RATE

TARGET = -23.0  # LUFS (EBU R 128)
TOLERANCE = 9.0  # LU around the target within which nothing is changed
MAX_GAIN = 80.0  # dB
CEILING = 10 ** (-1 / 20)  # of full scale: -1 dB true peak, as EBU R 128 has it
OVERSAMPLING = 4  # for true peaks, as in BS.1770-5, annex 2
EDGE = 64  # samples around a stretch that its oversampling reads
BLOCK = round(0.4 * SAMPLE_RATE)  # samples, as in BS.1770
MAX_BLOCKS = 1_500  # that are measured, spread evenly over a long recording
MIN_LOUDNESS = -100.0  # LUFS, the absolute gate; BS.1770 has -70, but the speech of a 24-bit file may lie below it
KNOCK = 2.0  # times the level that 0.1 % of the samples exceed; higher peaks are clicks
RELATIVE_GATE = -10.0  # LU
LIMITER = 40  # samples (2.5 ms) that a limiter looks at together


def loudness(waveform: np.ndarray) -> float:
    """Integrated loudness of a waveform (T,), in LUFS; -inf for silence. Gated as in BS.1770-5, blocks side by side."""
    if len(waveform) == 0:
        return -np.inf
    if len(waveform) < BLOCK:
        waveform = np.pad(waveform, (0, BLOCK - len(waveform)))
    blocks = waveform[: len(waveform) // BLOCK * BLOCK].reshape(-1, BLOCK)
    blocks = blocks[:: max(1, len(blocks) // MAX_BLOCKS)]
    knock = KNOCK * np.percentile(np.abs(blocks.ravel()[::7]), 99.9)
    blocks = np.clip(blocks, -knock, knock)
    weighting = _weighting()
    power = np.concatenate([_powers(blocks[i : i + 100], weighting) for i in range(0, len(blocks), 100)])
    levels = -0.691 + 10 * np.log10(np.maximum(power, 1e-30))
    loud = power[levels > MIN_LOUDNESS]
    if len(loud) == 0:
        return -np.inf
    gate = -0.691 + 10 * np.log10(loud.mean()) + RELATIVE_GATE
    return float(-0.691 + 10 * np.log10(loud[-0.691 + 10 * np.log10(loud) > gate].mean()))


def _powers(blocks: np.ndarray, weighting: np.ndarray) -> np.ndarray:
    spectra = np.fft.rfft(blocks - blocks.mean(axis=1, keepdims=True), axis=1)
    return 2 * (np.abs(spectra) ** 2 @ weighting) / BLOCK**2


def _weighting() -> np.ndarray:
    """The power response of the K filter for the bins of a block: the two biquads of BS.1770-5, given at 48 kHz."""
    z = np.exp(-2j * np.pi * np.fft.rfftfreq(BLOCK, 1 / SAMPLE_RATE) / 48_000)
    shelf = (1.53512485958697 - 2.69169618940638 * z + 1.19839281085285 * z**2) / (
        1 - 1.69065929318241 * z + 0.73248077421585 * z**2
    )
    high_pass = (1 - 2 * z + z**2) / (1 - 1.99004745483398 * z + 0.99007225036621 * z**2)
    return np.abs(shelf * high_pass) ** 2


def levelled(waveform: np.ndarray) -> np.ndarray:
    """A waveform (T,) at the level that models expect: unchanged within 9 LU of -23 LUFS, else brought there.

    A peak that the gain would lift above full scale, such as a knock, is limited, 5 ms around it.
    """
    level = loudness(waveform)
    if not np.isfinite(level) or abs(level - TARGET) <= TOLERANCE:
        return waveform
    return limited(waveform * np.float32(10 ** (min(TARGET - level, MAX_GAIN) / 20)))


def true_peaks(waveform: np.ndarray) -> np.ndarray:
    """True peaks of each 2.5 ms of a waveform (T,): between samples it may be higher than at any. (ceil(T / 40),)"""
    import soxr

    peaks = np.maximum.reduceat(np.abs(waveform), np.arange(0, len(waveform), LIMITER))
    per_second = SAMPLE_RATE // LIMITER
    for first in range(0, len(peaks), per_second):
        block = peaks[first : first + per_second]
        if block.max() <= CEILING / 2:  # far from the ceiling
            continue
        begin = first * LIMITER
        part = waveform[max(begin - EDGE, 0) : begin + len(block) * LIMITER + EDGE]
        finer = soxr.resample(part, SAMPLE_RATE, OVERSAMPLING * SAMPLE_RATE)
        finer = np.abs(finer[OVERSAMPLING * min(begin, EDGE) :][: OVERSAMPLING * len(block) * LIMITER])
        found = np.maximum.reduceat(finer, np.arange(0, len(finer), OVERSAMPLING * LIMITER))
        np.maximum(block[: len(found)], found, out=block[: len(found)])
    return peaks


def limited(waveform: np.ndarray) -> np.ndarray:
    """A waveform (T,) whose true peak is at most -1 dB of full scale, with a smooth limiter."""
    if len(waveform) == 0:
        return waveform
    peaks = true_peaks(waveform)
    if peaks.max() <= CEILING:
        return waveform
    gains = np.minimum(1, CEILING / np.maximum(peaks, 1e-9)).astype(np.float32)
    around = np.pad(gains, 1, constant_values=1)
    gains = np.minimum(np.minimum(around[:-2], around[1:-1]), around[2:])
    loud = waveform.copy()
    for i in np.flatnonzero(gains < 1):
        before, after = gains[max(i - 1, 0)], gains[min(i + 1, len(gains) - 1)]
        part = loud[i * LIMITER : (i + 1) * LIMITER]
        ramp = np.interp(
            np.arange(len(part)), [0, LIMITER / 2, LIMITER], [(before + gains[i]) / 2, gains[i], (gains[i] + after) / 2]
        )
        part *= ramp.astype(np.float32)
    return np.clip(loud, -CEILING, CEILING, out=loud)

"""Mix the channels of a track that carry speech.

The envelope of speech is modulated by its syllables, at 2 to 8 Hz; those of noise, hum and time code are not. A
channel's score is the share of its envelope's modulation at these rates (Houtgast & Steeneken, "The modulation transfer
function in room acoustics", 1973, found speech to peak at 4 Hz), and channels with less than half of the best score are
left out.
"""

from collections.abc import Sequence
from itertools import islice

import numpy as np

from evoxtral.audio.tracks import NAMES, SAMPLE_RATE, Track

FRAME = 250  # samples, 1/64 s
SYLLABLES = slice(2, 9)  # bins of a second's envelope: 2 to 8 Hz
MIN_SPEECH = 0.15  # score; steady noise has 0.03, hum 0.01, speech 0.4 and more
SHARE = 0.5  # of the best score, from which on a channel counts
QUIET = 1e-3  # of a channel's loudest second, in power: below it there is no speech to measure
INVERTED = -0.5  # correlation with the best channel; below it, a channel's polarity is inverted
MAX_MEASURED = 600  # seconds of a track that are looked at, spread evenly
SAME_VOICE = 0.5  # correlation, either way, with the best channel, from which on a channel is of the same voices
MIN_AT_ONCE = 0.5  # s in which channels or tracks sound at once, from which on it is said
SOUNDS = 0.01  # of the power that a twentieth of the frames exceed, from which on a frame sounds
OFFSET = 0.05  # of a channel's deviation; a smaller mean is no constant offset


def measured(track: Track) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Measurements of a track's channels: speech scores (C,), correlations with the best (C,), offsets (C,)."""
    channels = max(piece.shape[1] for piece in track.pieces)
    step = max(1, track.samples // (MAX_MEASURED * SAMPLE_RATE))
    seconds = (piece[i : i + SAMPLE_RATE] for piece in track.pieces for i in range(0, len(piece), SAMPLE_RATE))
    pieces = [widened(second, channels) for second in islice(seconds, 0, None, step)]
    mean, power = moments(pieces)
    deviation = np.sqrt(np.maximum(power - mean**2, 0))
    offsets = np.where(np.abs(mean) > OFFSET * deviation, mean, 0)
    scores = speech_scores(pieces)
    if channels == 1:
        return scores, np.ones(1), offsets
    best = int(np.lexsort((power, scores.round(2)))[-1])
    products = sum((piece - mean).T @ (piece[:, best] - mean[best]) for piece in pieces).astype(np.float64)
    size = sum(map(len, pieces)) * deviation * deviation[best]
    return scores, np.divide(products, size, out=np.zeros(channels), where=size > 0), offsets


def mix(track: Track) -> tuple[np.ndarray, list[str]]:
    """The mean (T,) of the channels that carry speech, with the polarity of the best one; and a note on the others.

    The mean of all if none carries speech. Empties `track.pieces`, to bound memory.
    """
    scores, correlations, offsets = measured(track)
    counts = scores >= SHARE * scores.max() if scores.max() >= MIN_SPEECH else np.ones(len(scores), bool)
    weights = counts * np.where(correlations < INVERTED, -1.0, 1.0) / counts.sum()
    notes = _left_out([_named(track, i) for i in np.flatnonzero(~counts)])
    apart = np.flatnonzero(counts & (scores >= MIN_SPEECH) & (np.abs(correlations) < SAME_VOICE))
    if len(apart) and at_once(track.pieces, [int(np.argmax(np.abs(correlations))), *apart]) >= MIN_AT_ONCE:
        notes.append("channels are mixed in which people speak at once; each can be had by itself")
    return _weighed(track, weights, offsets), notes


def one(track: Track, i: int) -> np.ndarray:
    """Channel i of a track, (T,), without its offset."""
    channels = max(piece.shape[1] for piece in track.pieces)
    *_, offsets = measured(track)
    weights = np.zeros(channels)
    weights[i] = 1
    return _weighed(track, weights, offsets, keep=True)


def _weighed(track: Track, weights: np.ndarray, offsets: np.ndarray, keep: bool = False) -> np.ndarray:
    waveform = np.empty(track.samples, np.float32)
    kept, track.pieces = track.pieces, []
    if keep:
        track.pieces = list(kept)
    offset, place = np.float32(offsets @ weights), 0
    weights = weights.astype(np.float32)
    kept.reverse()
    while kept:
        piece = kept.pop()
        end = place + len(piece)
        waveform[place:end] = piece[:, 0] if len(weights) == 1 else widened(piece, len(weights)) @ weights
        place = end
    if offset:
        waveform -= offset
    return waveform


def _left_out(names: Sequence[str]) -> list[str]:
    """A sentence on the channels of these names; none where there are none."""
    if not names:
        return []
    if len(names) == 1:
        return [f"{names[0]} is left out: it carries no speech"]
    listed = ", ".join(name.removeprefix("channel ") for name in names[:-1])
    return [f"channels {listed} and {names[-1].removeprefix('channel ')} are left out: they carry no speech"]


def _named(track: Track, i: int) -> str:
    name = track.channel_names[i] if i < len(track.channel_names) else f"channel {i + 1}"
    return f"the {name} channel" if name in NAMES else name


def widened(piece: np.ndarray, channels: int) -> np.ndarray:
    """A piece (T, c) with as many channels as its track: a mono part of a stereo track is on both."""
    if piece.shape[1] == channels:
        return piece
    return np.repeat(piece.mean(axis=1, keepdims=True, dtype=np.float32), channels, axis=1)


def moments(pieces: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and power of each channel over all pieces (T, C): (C,) each."""
    size = sum(map(len, pieces))
    mean = sum(piece.sum(axis=0, dtype=np.float64) for piece in pieces) / max(size, 1)
    power = sum(np.einsum("tc,tc->c", piece, piece).astype(np.float64) for piece in pieces) / max(size, 1)
    return mean, power


def at_once(pieces: Sequence[np.ndarray], which: Sequence[int]) -> float:
    """Seconds in which two or more of some channels of pieces (T, C) at 16 kHz sound."""
    count = max(which) + 1
    powers = [_powers(piece if piece.shape[1] >= count else widened(piece, count)) for piece in pieces]
    powers = np.concatenate(powers)[:, which]
    if len(powers) == 0:
        return 0.0
    sounds = powers > SOUNDS * np.percentile(powers, 95, axis=0)
    return float((sounds.sum(axis=1) > 1).sum()) * FRAME / SAMPLE_RATE


def speech_scores(pieces: Sequence[np.ndarray]) -> np.ndarray:
    """Share of each channel's modulation at the rates of syllables, (C,); 0 for silence. pieces: (T, C) at 16 kHz."""
    powers = [_powers(piece) for piece in pieces if len(piece) > FRAME]
    if not powers:
        return np.zeros(pieces[0].shape[1])
    powers = np.concatenate(powers)  # (frames, C)
    seconds = max(1, len(powers) // 64)
    powers = np.resize(powers[: 64 * seconds], (64 * seconds, powers.shape[1]))
    envelopes = np.sqrt(powers).reshape(seconds, 64, -1)
    spectra = np.abs(np.fft.rfft(envelopes, axis=1))
    loudness = spectra[:, 0]
    moving = np.linalg.norm(spectra[:, SYLLABLES], axis=1)
    shares = np.divide(moving, loudness, out=np.zeros_like(moving), where=loudness > 0)
    loud = loudness**2 > QUIET * (loudness**2).max(axis=0)
    return (shares * loud).sum(axis=0) / np.maximum(loud.sum(axis=0), 1)


def _powers(piece: np.ndarray) -> np.ndarray:
    """Power of each frame of a piece (T, C), of its differences: hum and offsets weigh little. (frames, C)"""
    whole = (len(piece) - 1) // FRAME * FRAME
    steps = np.diff(piece[: whole + 1], axis=0).reshape(-1, FRAME, piece.shape[1])
    return np.einsum("ftc,ftc->fc", steps, steps)

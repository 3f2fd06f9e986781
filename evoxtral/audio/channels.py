"""Mix the channels of a track that carry speech.

The envelope of speech is modulated by its syllables, at 2 to 8 Hz; those of noise, hum and time code are not. A
channel's score is the share of its envelope's modulation at these rates (Houtgast & Steeneken, "The modulation transfer
function in room acoustics", 1973, found speech to peak at 4 Hz), and channels with less than half of the best score are
left out.

People speak at once in two channels (or tracks) that both sound and whose envelopes move apart. Of one voice in two
microphones, at any distance and with any echo, the envelopes move together although the waveforms do not correlate:
between 40 pairs of speakers the correlation was 0.61 at most, between two microphones in 40 rooms 0.77 at least.
"""

from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from evoxtral.audio.tracks import NAMES, SAMPLE_RATE, Track

FRAME = 250  # samples, 1/64 s
SYLLABLES = slice(2, 9)  # bins of a second's envelope: 2 to 8 Hz
MIN_SPEECH = 0.15  # score; steady noise has 0.03, hum 0.01, speech 0.4 and more
SHARE = 0.5  # of the best score, from which on a channel counts
QUIET = 1e-3  # of a channel's loudest second, in power: below it there is no speech to measure
INVERTED = -0.5  # correlation with the best channel; below it, a channel's polarity is inverted
MAX_MEASURED = 600  # seconds of a track that are looked at, spread evenly
SAME_VOICE = 0.65  # correlation of envelopes, from which on two channels hold the same voice
MAX_LAG = 4  # frames (60 ms) that a voice may come later in one of two microphones
ALIKE = 0.5  # correlation of waveforms, either way, with the best channel; a channel with more holds the same voices
MIN_AT_ONCE = 0.5  # s in which people speak at once, from which on it is said
MIN_SHARE = 0.3  # of the time in which anybody speaks; from it on a mix could not be understood. In talk it is a tenth
SOUNDS = 0.01  # of the power that a twentieth of the frames exceed, from which on a frame sounds
FAR_BELOW = 10**0.9  # times less power (9 dB) than the loudest voice, from which on another one is raised to it
MAX_RAISED = 10**6.0  # in power (60 dB)
OFFSET = 0.05  # of a channel's deviation; a smaller mean is no constant offset


class Measures(NamedTuple):
    """Of a track's channels, (C,) each: speech scores, correlations with the best channel, constant offsets."""

    scores: np.ndarray
    correlations: np.ndarray
    offsets: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """Which channels are mixed, (C,): those with speech, all if none has any."""
        if self.scores.max() < MIN_SPEECH:
            return np.ones(len(self.scores), bool)
        return self.scores >= SHARE * self.scores.max()


class Overlap(NamedTuple):
    """Time in which people speak at once: seconds, and the share of the time in which anybody does.

    which: the channels that speak.  apart: whether no two of them hold the same voice.  gains: of each that speaks, by
    which a voice far below the loudest one is heard beside it in a mix.
    """

    seconds: float = 0.0
    share: float = 0.0
    which: tuple[int, ...] = ()
    apart: bool = False
    gains: tuple[float, ...] = ()

    @property
    def told(self) -> bool:
        """Whether it is said of a mix."""
        return self.seconds >= MIN_AT_ONCE

    @property
    def spoils_a_mix(self) -> bool:
        return self.told and self.apart and self.share >= MIN_SHARE


def measured(track: Track) -> Measures:
    channels = max(piece.shape[1] for piece in track.pieces)
    step = max(1, track.samples // (MAX_MEASURED * SAMPLE_RATE))
    seconds = (piece[i : i + SAMPLE_RATE] for piece in track.pieces for i in range(0, len(piece), SAMPLE_RATE))
    pieces = [widened(second, channels) for second in islice(seconds, 0, None, step)]
    mean, power = moments(pieces)
    deviation = np.sqrt(np.maximum(power - mean**2, 0))
    offsets = np.where(np.abs(mean) > OFFSET * deviation, mean, 0)
    scores = speech_scores(pieces)
    if channels == 1:
        return Measures(scores, np.ones(1), offsets)
    best = int(np.lexsort((power, scores.round(2)))[-1])
    products = sum((piece - mean).T @ (piece[:, best] - mean[best]) for piece in pieces).astype(np.float64)
    size = sum(map(len, pieces)) * deviation * deviation[best]
    return Measures(scores, np.divide(products, size, out=np.zeros(channels), where=size > 0), offsets)


def mix(track: Track, measures: Measures | None = None, overlap: Overlap | None = None) -> tuple[np.ndarray, list[str]]:
    """The mean (T,) of the channels that carry speech, with the polarity of the best one; and notes on the others.

    A voice far below that of another channel is raised to it. The mean of all if none carries speech. Empties
    `track.pieces`, to bound memory.
    """
    measures = measures or measured(track)
    overlap = overlap or overlap_of(track, measures)
    counts, gains = measures.counts, np.ones(len(measures.counts))
    gains[list(overlap.which)] = overlap.gains
    weights = counts * gains * np.where(measures.correlations < INVERTED, -1.0, 1.0) / counts.sum()
    raised = [raised_by(_named(track, i), gains[i]) for i in np.flatnonzero(gains > 1)]
    return _weighed(track, weights, measures.offsets), left_out(track, counts) + raised


def raised_by(name: str, gain: float) -> str:
    """A sentence on a channel or track that is raised."""
    return f"{name} is much quieter than the others and raised by {20 * np.log10(gain):.0f} dB"


def left_out(track: Track, counts: np.ndarray) -> list[str]:
    """A sentence on the channels that do not count (C,); none where all do."""
    names = [_named(track, i) for i in np.flatnonzero(~counts)]
    if not names:
        return []
    if len(names) == 1:
        return [f"{names[0]} is left out: it carries no speech"]
    listed = ", ".join(name.removeprefix("channel ") for name in names[:-1])
    return [f"channels {listed} and {names[-1].removeprefix('channel ')} are left out: they carry no speech"]


def one(track: Track, i: int, measures: Measures | None = None) -> np.ndarray:
    """Channel i of a track, (T,), without its offset."""
    offsets = (measures or measured(track)).offsets
    weights = np.zeros(len(offsets))
    weights[i] = 1
    return _weighed(track, weights, offsets, keep=True)


def overlap_of(track: Track, measures: Measures) -> Overlap:
    """How much people speak at once in the channels of a track."""
    speaking = np.flatnonzero(measures.counts & (measures.scores >= MIN_SPEECH))
    # Where the waveforms correlate, the voices are the same: most recordings are told by that, which costs nothing.
    if len(speaking) < 2 or (np.abs(measures.correlations[speaking]) > ALIKE).all():
        return Overlap()
    return overlap(track.pieces, [int(i) for i in speaking])


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


def overlap(pieces: Sequence[np.ndarray], which: Sequence[int]) -> Overlap:
    """How much people speak at once in some channels of pieces (T, C) at 16 kHz, each of which carries speech."""
    count = max(which) + 1
    powers = [_powers(piece if piece.shape[1] >= count else widened(piece, count)) for piece in pieces]
    powers = np.concatenate(powers)[:, which]
    if len(powers) == 0:
        return Overlap()
    sounds = powers > SOUNDS * np.percentile(powers, 95, axis=0)
    levels = np.percentile(powers, 99, axis=0)  # a knock is shorter than a hundredth of a recording
    order = [int(i) for i in np.argsort(-levels, kind="stable")]
    envelopes, kept = np.sqrt(powers), order[:1]
    for i in order[1:]:
        if not any(_same_voice(envelopes[:, [k, i]], sounds[:, [k, i]].any(axis=1)) for k in kept):
            kept.append(i)
    count = sounds[:, kept].sum(axis=1)
    together, any_at_all = int((count > 1).sum()), int((count > 0).sum())
    share = together / max(any_at_all, 1)
    below = levels[kept].max() / np.maximum(levels, 1e-30)
    raised = np.isin(np.arange(len(which)), kept) & (below > FAR_BELOW)
    gains = tuple(np.sqrt(np.where(raised, np.minimum(below, MAX_RAISED), 1.0)).tolist())
    return Overlap(together * FRAME / SAMPLE_RATE, share, tuple(which), len(kept) == len(which), gains)


def _same_voice(envelopes: np.ndarray, sounds: np.ndarray) -> bool:
    """Whether two envelopes (frames, 2) move together where either sounds (frames,), at most MAX_LAG frames apart."""
    frames = len(envelopes)
    for lag in range(-MAX_LAG, MAX_LAG + 1):
        first, second = slice(max(0, lag), frames + min(0, lag)), slice(max(0, -lag), frames - max(0, lag))
        own = sounds[first] | sounds[second]
        pair = np.stack([envelopes[first, 0], envelopes[second, 1]])[:, own]
        if pair.shape[1] > 1 and pair.std(axis=1).all() and np.corrcoef(pair)[0, 1] >= SAME_VOICE:
            return True
    return False


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

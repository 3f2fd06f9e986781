"""Augmentation of speech: distance, rooms, other sounds, microphones, telephones and codecs.

`microphone` draws a chain of these for one clip, all from the given generator: the same seed gives the same waveform.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.signal import fftconvolve, lfilter

from evoxtral.audio import SAMPLE_RATE
from evoxtral.speech.effects import bandpass, highpass, lowpass, peak

Rng = np.random.Generator
SPEED_OF_SOUND = 343.0  # m/s


@dataclass(frozen=True)
class Chain:
    """Shares of clips that each step is drawn for, and ranges: rt60 in s, snr in dB."""

    room: float = 0.5
    rt60: tuple[float, float] = (0.1, 0.8)
    noise: float = 0.6
    snr: tuple[float, float] = (0.0, 30.0)
    band: float = 0.4
    codec: float = 0.35
    clipping: float = 0.08


@dataclass(frozen=True)
class Codec:
    """A codec of PyAV: its encoder, container, rate in Hz and the bit rates, in kb/s, that are drawn from."""

    encoder: str
    container: str
    rate: int
    kilobits: tuple[float, ...]


# As phones, browsers and recorders send speech. PyAV's wheels cannot write GSM: `narrowband_vocoder` stands for it.
CODECS = (
    Codec("libopus", "ogg", 16_000, (8, 12, 16, 24, 32)),
    Codec("libopus", "ogg", 8_000, (8, 12)),
    Codec("libopencore_amrnb", "amr", 8_000, (4.75, 5.9, 7.4, 12.2)),
    Codec("g722", "wav", 16_000, (64,)),
    Codec("libmp3lame", "mp3", 16_000, (16, 24, 32, 64)),
    Codec("aac", "adts", 16_000, (24, 32, 48)),
    Codec("pcm_mulaw", "wav", 8_000, (64,)),
    Codec("pcm_alaw", "wav", 8_000, (64,)),
    Codec("adpcm_ima_wav", "wav", 8_000, (32,)),
)
NARROW = 0.15  # share of coded clips that go through `narrowband_vocoder` instead


def microphone(waveform: np.ndarray, rng: Rng, others: Sequence[np.ndarray] = (), chain: Chain = Chain()) -> np.ndarray:  # noqa: B008
    """A clip as a microphone might give it, (T,) float32 -> (T,) float32, in step with the original.

    others: clips of other speakers, for babble.
    """
    waveform = np.asarray(waveform, np.float64)
    if rng.random() < chain.room:
        waveform = reverberant(waveform, room(rng, rng.uniform(*chain.rt60), 10 ** rng.uniform(-0.7, 0.6)))
    if rng.random() < chain.noise:
        waveform = mixed(waveform, noise(rng, len(waveform), others), rng.uniform(*chain.snr))
    if rng.random() < chain.band:
        waveform = limited(waveform, rng)
    waveform = peak(waveform, 10 ** rng.uniform(-1.3, -0.02))
    if rng.random() < chain.clipping:
        limit = np.abs(waveform).max() * rng.uniform(0.25, 0.8)
        waveform = np.clip(waveform, -limit, limit)
    if rng.random() < chain.codec:
        coder = narrowband_vocoder if rng.random() < NARROW else coded
        waveform = coder(waveform, rng)
    return np.clip(waveform, -1, 1).astype(np.float32)


def room(rng: Rng, rt60: float, distance: float) -> np.ndarray:
    """An impulse response: the direct sound, early reflections, and a diffuse tail whose highs die sooner.

    rt60: s in which the tail falls by 60 dB. distance: metres; at the critical one (0.057 sqrt(V / rt60), a room of 60
    cubic metres) direct and diffuse sound have the same energy (Kuttruff, Room Acoustics, 5.5).
    """
    n = int(min(rt60 * 1.1, 1.2) * SAMPLE_RATE)
    t = np.arange(n) / SAMPLE_RATE
    tail = np.zeros(n)
    for low, high, share in ((60, 500, 1.1), (500, 2000, 1.0), (2000, 7600, 0.6)):
        tail += bandpass(rng.standard_normal(n), low, high) * 10 ** (-3 * t / (rt60 * share))
    tail[: int(0.004 * SAMPLE_RATE)] = 0
    early = np.zeros(n)
    for _ in range(rng.integers(4, 9)):
        at = rng.uniform(0.002, 0.04)
        early[min(int(at * SAMPLE_RATE), n - 1)] += rng.choice((-1, 1)) * 0.5 * np.exp(-at / 0.02) * rng.uniform(0.3, 1)
    critical = 0.057 * np.sqrt(60 / rt60)
    direct_to_diffuse = (critical / distance) ** 2
    tail *= np.sqrt(1 / (direct_to_diffuse * np.sum(tail**2)))
    early *= min(1.0, distance / critical)
    response = tail + early
    response[0] = 1
    return response


def reverberant(waveform: np.ndarray, response: np.ndarray) -> np.ndarray:
    """The waveform in a room; as long as it was."""
    return fftconvolve(waveform, response)[: len(waveform)]


def noise(rng: Rng, count: int, others: Sequence[np.ndarray] = ()) -> np.ndarray:
    """(count,) of one kind: white, pink, brown, mains hum, a fan, or babble of other speakers if there are any."""
    kind = rng.choice(["white", "pink", "brown", "hum", "fan", *(["babble"] * 3 if len(others) else [])])
    white = rng.standard_normal(count)
    if kind == "babble":
        return babble(rng, count, others)
    if kind == "hum":
        t = np.arange(count) / SAMPLE_RATE
        base = rng.choice((50, 60))
        return sum(np.sin(2 * np.pi * base * k * t + rng.uniform(0, 6)) / k for k in range(1, 8)) + 0.02 * white
    if kind == "fan":
        t = np.arange(count) / SAMPLE_RATE
        return lowpass(white, rng.uniform(300, 1500)) * (1 + 0.2 * np.sin(2 * np.pi * rng.uniform(5, 30) * t))
    return white if kind == "white" else coloured(white, 1.0 if kind == "pink" else 2.0)


def coloured(white: np.ndarray, power: float) -> np.ndarray:
    """White noise with a power spectrum of 1 / f ** power from 20 Hz on."""
    spectrum = np.fft.rfft(white)
    hertz = np.maximum(np.fft.rfftfreq(len(white), 1 / SAMPLE_RATE), 20)
    return np.fft.irfft(spectrum * hertz ** (-power / 2), len(white))


def babble(rng: Rng, count: int, others: Sequence[np.ndarray]) -> np.ndarray:
    """Three to six other speakers at once."""
    out = np.zeros(count)
    for _ in range(rng.integers(3, 7)):
        other = np.resize(np.roll(others[rng.integers(len(others))], rng.integers(SAMPLE_RATE)), count)
        out += peak(other, rng.uniform(0.3, 1))
    return out


def mixed(waveform: np.ndarray, other: np.ndarray, snr: float) -> np.ndarray:
    """Noise added so that speech, where it sounds, is `snr` dB above it."""
    sounding = waveform[np.abs(waveform) > 0.05 * np.abs(waveform).max(initial=0)]
    power = np.mean(sounding**2) if len(sounding) else 1e-6
    return waveform + other * np.sqrt(power / 10 ** (snr / 10) / max(np.mean(other**2), 1e-12))


def limited(waveform: np.ndarray, rng: Rng) -> np.ndarray:
    """The band and tone of a cheap microphone, a loudspeaker or a telephone."""
    u = rng.random()
    if u < 0.35:
        return bandpass(waveform, 300, 3400, 3)
    if u < 0.7:
        return lowpass(highpass(waveform, rng.uniform(60, 250)), rng.uniform(3000, 7500), 3)
    return lfilter([1, -rng.uniform(-0.5, 0.7)], [1], waveform)


def coded(waveform: np.ndarray, rng: Rng, codec: Codec | None = None) -> np.ndarray:
    """Through an encoder and back, as long as it was. codec: one of CODECS, drawn if None."""
    import soxr

    codec = codec or CODECS[rng.integers(len(CODECS))]
    data = _encoded(soxr.resample(waveform, SAMPLE_RATE, codec.rate), codec, float(rng.choice(codec.kilobits)))
    return _aligned(soxr.resample(_decoded(data, codec.rate), codec.rate, SAMPLE_RATE), waveform)


def _encoded(waveform: np.ndarray, codec: Codec, kilobits: float) -> io.BytesIO:
    import av

    data = io.BytesIO()
    with av.open(data, "w", format=codec.container) as out:
        stream = out.add_stream(codec.encoder, rate=codec.rate, layout="mono")
        if not codec.encoder.startswith(("pcm", "adpcm", "g722")):
            stream.bit_rate = round(1000 * kilobits)
        pcm = (np.clip(waveform, -1, 1) * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(pcm[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = codec.rate, 0
        for packet in (*stream.encode(frame), *stream.encode(None)):
            out.mux(packet)
    data.seek(0)
    return data


def _decoded(data: io.BytesIO, rate: int) -> np.ndarray:
    import av

    with av.open(data) as source:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=rate)
        frames = [part for frame in source.decode(audio=0) for part in resampler.resample(frame)]
        frames += resampler.resample(None)
        return np.concatenate([frame.to_ndarray().ravel() for frame in frames]).astype(np.float64)


def _aligned(waveform: np.ndarray, original: np.ndarray) -> np.ndarray:
    """Remove the codec's delay, and restore the original length."""
    n = len(original)
    waveform = np.pad(waveform, (0, max(0, n + 2400 - len(waveform))))
    likeness = fftconvolve(waveform[: n + 2400], original[::-1])[n - 1 : n + 2399]
    return waveform[int(np.argmax(likeness)) :][:n]


def narrowband_vocoder(waveform: np.ndarray, rng: Rng, order: int = 10) -> np.ndarray:
    """In the manner of GSM: telephone band, linear prediction of 20 ms frames, the residual coarsely quantised."""
    import soxr
    from scipy.linalg import solve_toeplitz

    low = soxr.resample(bandpass(waveform, 200, 3400, 2), SAMPLE_RATE, 8_000)
    frame, levels = 160, int(rng.integers(3, 8))
    out = np.zeros(len(low))
    before, inside = np.zeros(order), np.zeros(order)
    for start in range(0, len(low) - frame + 1, frame):
        x = low[start : start + frame]
        r = np.correlate(x, x, "full")[frame - 1 : frame + order]
        r[0] = r[0] * 1.0001 + 1e-7
        a = np.concatenate([[1], -solve_toeplitz(r[:-1], r[1:])])
        residual, before = lfilter(a, [1], x, zi=before)
        step = max(np.abs(residual).max() / levels, 1e-7)
        out[start : start + frame], inside = lfilter([1], a, np.round(residual / step) * step, zi=inside)
    return np.resize(soxr.resample(out, 8_000, SAMPLE_RATE), len(waveform))

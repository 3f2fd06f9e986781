"""What happens to speech before a model hears it: distance, rooms, other sounds, microphones, telephones and codecs.

Each is a function of a waveform (T,) at 16 kHz; what is random comes from the given generator, so that the same seed
gives the same waveform. Training draws chains of them (`training/augment.py`), the bench climbs them one by one.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.signal import fftconvolve, lfilter

from evoxtral.audio import SAMPLE_RATE
from evoxtral.speech.effects import bandpass, highpass, lowpass, peak

Rng = np.random.Generator


@dataclass(frozen=True)
class Codec:
    """A codec of PyAV: its encoder, container, rate in Hz and the bit rates, in kb/s, that are drawn from."""

    encoder: str
    container: str
    rate: int
    kilobits: tuple[float, ...]


# As phones, browsers and recorders send speech. PyAV cannot write GSM: `gsm` does by libsndfile.
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
        return fan(rng, count)
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


# ------------------------------------------------------------------------------------------------- one at a time


def fan(rng: Rng, count: int) -> np.ndarray:
    """(count,) of a fan: low noise that beats with its blades."""
    t = np.arange(count) / SAMPLE_RATE
    beat = 1 + 0.2 * np.sin(2 * np.pi * rng.uniform(5, 30) * t)
    return lowpass(rng.standard_normal(count), rng.uniform(300, 1500)) * beat


def street(rng: Rng, count: int) -> np.ndarray:
    """(count,) of traffic: a rumble, cars that pass (noise that swells, brightens and fades), at times a horn."""
    rumble = coloured(rng.standard_normal(count), 1.6)
    out = rumble / max(float(rumble.std()), 1e-9)
    t = np.arange(count) / SAMPLE_RATE
    for _ in range(rng.integers(1, 4)):
        nearest, width = rng.uniform(0, count / SAMPLE_RATE), rng.uniform(0.4, 1.5)
        passing = bandpass(rng.standard_normal(count), 150, rng.uniform(1500, 4000))
        out += rng.uniform(1, 3) * passing / max(float(passing.std()), 1e-9) / (1 + ((t - nearest) / width) ** 2)
    if rng.random() < 0.3:
        start, pitch = rng.uniform(0, count / SAMPLE_RATE), rng.uniform(350, 500)
        horn = sum(np.sin(2 * np.pi * pitch * k * ratio * t) / k for k in range(1, 6) for ratio in (1, 1.26))
        out += 1.5 * horn * ((t > start) & (t < start + rng.uniform(0.2, 0.6)))
    return out


def narrowband(waveform: np.ndarray) -> np.ndarray:
    """A telephone line: 300 to 3400 Hz, sampled at 8 kHz; as long as it was."""
    import soxr

    low = soxr.resample(bandpass(waveform, 300, 3400, 3), SAMPLE_RATE, 8_000)
    return fitted(soxr.resample(low, 8_000, SAMPLE_RATE), len(waveform))


def gsm(waveform: np.ndarray) -> np.ndarray:
    """GSM 06.10 full rate, 13 kb/s at 8 kHz, by libsndfile; as long as it was."""
    import soundfile
    import soxr

    data = io.BytesIO()
    low = np.clip(soxr.resample(bandpass(waveform, 200, 3400, 2), SAMPLE_RATE, 8_000), -1, 1)
    soundfile.write(data, low, 8_000, format="WAV", subtype="GSM610")
    data.seek(0)
    heard, _ = soundfile.read(data)
    return fitted(soxr.resample(heard, 8_000, SAMPLE_RATE), len(waveform))


def opus(waveform: np.ndarray, kilobits: float, rng: Rng) -> np.ndarray:
    """Opus at so many kb/s and 16 kHz, and back; as long as it was."""
    return coded(waveform, rng, Codec("libopus", "ogg", 16_000, (kilobits,)))


def paced(waveform: np.ndarray, pace: float) -> np.ndarray:
    """Faster (above 1) or slower at the same pitch, by ffmpeg's `atempo`."""
    import av

    graph = av.filter.Graph()
    source = graph.add_abuffer(sample_rate=SAMPLE_RATE, format="flt", layout="mono", time_base=f"1/{SAMPLE_RATE}")
    tempo, sink = graph.add("atempo", f"{pace:g}"), graph.add("abuffersink")
    source.link_to(tempo), tempo.link_to(sink)
    graph.configure()
    frame = av.AudioFrame.from_ndarray(np.asarray(waveform, np.float32)[None], format="flt", layout="mono")
    frame.sample_rate, frame.pts = SAMPLE_RATE, 0
    out = []
    for piece in (frame, None):
        source.push(piece)
        while True:
            try:
                out.append(sink.pull().to_ndarray().ravel())
            except (av.BlockingIOError, av.EOFError):
                break
    return np.concatenate(out) if out else np.zeros(0, np.float32)


def fitted(waveform: np.ndarray, count: int) -> np.ndarray:
    """Cut, or filled up with silence, to `count` samples."""
    return np.pad(waveform[:count], (0, max(0, count - len(waveform))))

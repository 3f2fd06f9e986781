import functools
import io
import math
import os
import re
import socket
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import example, given
from hypothesis import strategies as st

from evoxtral import audio
from evoxtral.audio import SAMPLE_RATE, Segment, containers
from evoxtral.errors import AudioError

SECONDS = 2.0  # length of the recordings below


def chirp(rate: int, seconds: float = SECONDS) -> np.ndarray:
    """A sweep from 300 to 1,500 Hz between silences: a waveform (T,) whose place in time can be measured."""
    t = np.arange(round(rate * seconds)) / rate
    sounding = (t > 0.25 * seconds) & (t < 0.75 * seconds)
    return (0.4 * np.sin(2 * np.pi * (300 * t + 600 / seconds * t**2)) * sounding).astype(np.float32)


class Pipe(io.RawIOBase):
    """A file that cannot be gone back in, as a browser or a shell pipe writes it: no length in the header."""

    def __init__(self):
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        self.data += data
        return len(data)


def encode(
    container: str,
    codec: str,
    waveform: np.ndarray | None = None,
    rate: int = 48_000,
    layout: str = "mono",
    live: bool = False,
    picture: bool = False,
    **options: str,
) -> bytes:
    """A file as ffmpeg writes it: `waveform` (T,) at `rate` on every channel; no codec, no sound."""
    file = Pipe() if live else io.BytesIO()
    with av.open(file, "w", format=container, options=options) as output:
        if picture:
            video = output.add_stream("mpeg4", rate=10)
            video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        if codec:
            stream = output.add_stream(codec, rate=rate, layout=layout)
            mono = chirp(rate) if waveform is None else waveform
            samples = np.repeat(mono[None], len(stream.layout.channels), axis=0)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=layout)
            frame.rate, frame.pts = rate, 0
            convert = av.AudioResampler(format=stream.format.name, layout=layout, rate=rate)
            for piece in [*convert.resample(frame), *convert.resample(None), None]:
                output.mux(stream.encode(piece))
        if picture:
            for number in range(round(SECONDS * 10)):
                still = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 9 * number % 256, np.uint8), "rgb24")
                still.pts = number
                output.mux(video.encode(still))
            output.mux(video.encode(None))
    return bytes(file.data) if live else file.getvalue()


def write(kind: str, subtype: str | None, samples: np.ndarray, rate: int = SAMPLE_RATE) -> bytes:
    """A file as libsndfile writes it, of samples (T,) or (T, C)."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


@functools.cache
def minutes_of_noise() -> np.ndarray:
    return 0.1 * np.random.default_rng(0).standard_normal(240 * SAMPLE_RATE, np.float32)


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    """Sound without a gap: a waveform (T,) of noise at -20 dBFS, up to 40 s."""
    return minutes_of_noise()[seed % 200 * SAMPLE_RATE :][: round(seconds * SAMPLE_RATE)].copy()


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * SAMPLE_RATE), np.float32)


def lag_and_likeness(waveform: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """How many seconds `waveform` (T,) comes late, and its correlation with `reference` at that shift."""
    size = 2 ** math.ceil(math.log2(len(waveform) + len(reference)))
    correlation = np.fft.irfft(np.fft.rfft(waveform, size) * np.conj(np.fft.rfft(reference, size)))
    shift = int(np.argmax(correlation))
    norm = np.linalg.norm(waveform) * np.linalg.norm(reference)
    return (shift if shift < size // 2 else shift - size) / SAMPLE_RATE, float(correlation[shift] / norm)


# ---- every kind of file ------------------------------------------------------------------------------------

FILES = {
    "WAV 8 bit": lambda: write("WAV", "PCM_U8", chirp(8_000), 8_000),
    "WAV 16 bit": lambda: write("WAV", "PCM_16", chirp(44_100), 44_100),
    "WAV 24 bit": lambda: write("WAV", "PCM_24", chirp(192_000), 192_000),
    "WAV 32 bit": lambda: write("WAV", "PCM_32", chirp(16_000), 16_000),
    "WAV float": lambda: write("WAV", "FLOAT", chirp(22_050), 22_050),
    "WAV double": lambda: write("WAV", "DOUBLE", chirp(96_000), 96_000),
    "WAV mu-law": lambda: write("WAV", "ULAW", chirp(8_000), 8_000),
    "WAV streamed": lambda: encode("wav", "pcm_s16le", live=True),
    "WAV streamed by others": lambda: unstated(write("WAV", None, chirp(16_000))),
    "AIFF": lambda: encode("aiff", "pcm_s16be"),
    "FLAC 16 bit": lambda: write("FLAC", "PCM_16", chirp(16_000)),
    "FLAC 24 bit": lambda: write("FLAC", "PCM_24", chirp(48_000), 48_000),
    "FLAC streamed": lambda: encode("flac", "flac", live=True),
    "MP3 by ffmpeg": lambda: encode("mp3", "libmp3lame", rate=44_100),
    "MP3 by LAME": lambda: write("MP3", None, chirp(16_000)),
    "MP3 without a stated length": lambda: encode("mp3", "libmp3lame", write_xing="0"),
    "OGG Vorbis": lambda: write("OGG", "VORBIS", chirp(44_100), 44_100),
    "OGG Opus": lambda: encode("ogg", "libopus"),
    "M4A AAC": lambda: encode("ipod", "aac", rate=44_100),
    "M4A AAC, fragmented": lambda: encode("mp4", "aac", live=True, movflags="frag_keyframe+empty_moov"),
    "M4A ALAC": lambda: encode("ipod", "alac"),
    "AAC": lambda: encode("adts", "aac"),
    "AMR": lambda: encode("amr", "libopencore_amrnb", rate=8_000),
    "WebM": lambda: encode("webm", "libopus"),
    "WebM from a browser": lambda: encode("webm", "libopus", live=True),
    "Matroska": lambda: encode("matroska", "flac", rate=32_000),
    "a video with sound": lambda: encode("mp4", "aac", picture=True),
}


DELAYED = {"MP3 without a stated length", "M4A AAC, fragmented", "AAC"}  # and does not say by how much
UNSTATED = {"MP3 without a stated length", "AAC", "AMR", "FLAC streamed", "WebM from a browser"}
UNSTATED |= {"WAV streamed", "WAV streamed by others"}
FRAMES = UNSTATED - {"WAV streamed", "WAV streamed by others"}  # of a length of their own, each


def unstated(wav: bytes) -> bytes:
    """A WAV file whose two lengths were never filled in."""
    place, size = wav.index(b"data") + 4, struct.pack("<I", 0x7FFF_FFFF)
    return wav[:4] + size + wav[8:place] + size + wav[place + 4 :]


@functools.cache
def file(kind: str) -> bytes:
    return FILES[kind]()


@pytest.mark.parametrize("kind", FILES)
def test_every_format_gives_the_same_waveform_with_the_same_timing(kind):
    waveform = audio.load(file(kind))
    assert waveform.dtype == np.float32 and waveform.ndim == 1
    assert np.abs(waveform).max() <= 1
    assert audio.duration(waveform) == pytest.approx(SECONDS, abs=0.1)
    lag, likeness = lag_and_likeness(waveform, chirp(SAMPLE_RATE))
    assert abs(lag) < (0.06 if kind in DELAYED else 0.02)
    assert likeness > 0.95


@pytest.mark.parametrize("kind", ["WAV 24 bit", "M4A AAC", "WebM"])
def test_a_path_a_string_and_bytes_are_the_same_recording(kind, tmp_path):
    data = file(kind)
    path = tmp_path / "Vóice memo 1.bin"
    path.write_bytes(data)
    waveform = audio.load(data)
    assert np.array_equal(audio.load(path), waveform)
    assert np.array_equal(audio.load(str(path)), waveform)
    assert np.array_equal(audio.load(bytearray(data)), waveform)


def test_a_16_khz_recording_is_read_without_any_loss():
    samples = np.random.default_rng(0).integers(-32_768, 32_768, 20_000).astype(np.int16)
    exact = (samples / 32_768).astype(np.float32)
    assert np.array_equal(audio.load(write("WAV", "PCM_16", samples)), exact)
    assert np.array_equal(audio.load(write("FLAC", "PCM_16", samples)), exact)
    assert np.array_equal(audio.load((SAMPLE_RATE, samples)), exact)


@pytest.mark.parametrize("channels", [2, 3, 6, 8, 16])
def test_channels_are_averaged(channels):
    samples = np.random.default_rng(0).uniform(-0.9, 0.9, (4_000, channels)).astype(np.float32)
    expected = samples.mean(axis=1)
    np.testing.assert_allclose(audio.load(write("WAV", "FLOAT", samples)), expected, atol=1e-6)
    np.testing.assert_allclose(audio.load((SAMPLE_RATE, samples)), expected, atol=1e-6)


def test_stereo_survives_planar_codecs():
    assert lag_and_likeness(audio.load(encode("ipod", "aac", layout="stereo")), chirp(SAMPLE_RATE))[1] > 0.99


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 192_000])
def test_resampling_is_soxr_over_the_whole_recording(rate):
    waveform = audio.load(write("WAV", "FLOAT", chirp(rate), rate))
    np.testing.assert_allclose(waveform, soxr.resample(chirp(rate), rate, SAMPLE_RATE), atol=1e-4)


def test_two_recordings_joined_into_one_file_are_read_to_the_end():
    data = encode("ogg", "libopus")
    assert audio.duration(audio.load(data + data)) == pytest.approx(2 * SECONDS, abs=0.1)


def test_tags_in_any_encoding_do_not_stop_a_recording():
    data = write("MP3", None, chirp(16_000))
    title = b"TIT2" + struct.pack(">IH", 5, 0) + b"\x03\xff\xfe\xe9\x80"  # says UTF-8, and is not
    id3 = b"ID3\x03\x00\x00\x00\x00\x00" + bytes([len(title)]) + title
    assert audio.duration(audio.load(id3 + data)) == pytest.approx(SECONDS, abs=0.1)
    assert audio.duration(audio.load(data + b"TAG" + bytes(125))) == pytest.approx(SECONDS, abs=0.1)


# ---- arrays ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "low", "zero", "high"),
    [
        (np.int8, -128, 0, 127),
        (np.uint8, 0, 128, 255),
        (np.int16, -32_768, 0, 32_767),
        (np.uint16, 0, 32_768, 65_535),
        (np.int32, -(2**31), 0, 2**31 - 1),
        (np.float16, -1, 0, 1),
        (np.float32, -1, 0, 1),
        (np.float64, -1, 0, 1),
    ],
)
def test_every_sample_type_has_the_same_full_scale(dtype, low, zero, high):
    waveform = audio.load((SAMPLE_RATE, np.array([low, zero, high] * 100, dtype)))
    np.testing.assert_allclose(waveform[:3], [-1, 0, 1], atol=0.01)


def test_samples_of_64_bits_are_refused_in_one_sentence():
    with pytest.raises(AudioError, match="16 or 32 bits"):
        audio.load(encode("wav", "pcm_s64le"))


ARRAYS = st.builds(
    lambda dtype, length, channels, seed: (
        np.random.default_rng(seed).integers(-(2**15), 2**15, (length, channels) if channels else length).astype(dtype)
    ),
    st.sampled_from([np.int16, np.int32, np.uint8, np.float32, np.float64]),
    st.integers(200, 4_000),
    st.integers(0, 4),
    st.integers(0, 99),
)


@given(st.integers(8_000, 192_000), ARRAYS)
@example(44_100, np.tile(np.array([-32_768, 32_767], np.int16).repeat(20), 50))
def test_any_array_becomes_a_mono_float_waveform_within_full_scale(rate, samples):
    before = samples.copy()
    waveform = audio.load((rate, samples))
    assert waveform.dtype == np.float32 and waveform.ndim == 1
    assert np.abs(waveform).max(initial=0) <= 1
    assert len(waveform) == pytest.approx(len(samples) * SAMPLE_RATE / rate, abs=1)
    assert np.array_equal(samples, before)


def test_floats_above_full_scale_are_scaled_as_a_whole_and_not_clipped():
    waveform = np.sin(np.arange(1_600) / 10).astype(np.float32)
    np.testing.assert_allclose(audio.load((SAMPLE_RATE, 20_000 * waveform)), waveform / waveform.max(), atol=1e-5)


# ---- what cannot be used -----------------------------------------------------------------------------------

PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x00\x00\x00\x00:~\x9bU"
TEXT = b"Take a deep breath. " * 500
PDF = b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog >>\nendobj\n" + bytes(range(256)) * 40
ZIP = b"PK\x03\x04" + bytes(range(256)) * 40


@pytest.mark.parametrize("data", [TEXT, PNG, PDF, ZIP, b"x", b"\x00" * 5_000, b"RIFF\x04\x00\x00\x00WEBP"])
@pytest.mark.parametrize("name", [None, "voice.mp3", "voice.wav", "voice.flac"])
def test_a_file_that_is_not_audio_is_recognised_under_any_name(data, name, tmp_path):
    source = data
    if name:
        source = tmp_path / name
        source.write_bytes(data)
    with pytest.raises(AudioError, match="is not a recording that can be read: use WAV, AIFF"):
        audio.load(source)


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_are_not_audio(seed):
    with pytest.raises(AudioError):
        audio.load(np.random.default_rng(seed).bytes(20_000))


def read_or_refused(data: bytes) -> audio.Recording | None:
    """The recording of a torn file, which `strict` refuses; None where nothing of it can be decoded."""
    with pytest.raises(AudioError, match="incomplete|damaged"):
        audio.read(data, strict=True)
    try:
        return audio.read(data)
    except AudioError as error:
        assert "incomplete" in str(error) or "damaged" in str(error)
    return None


@pytest.mark.parametrize("kind", sorted(FILES.keys() - UNSTATED))
def test_a_file_shorter_than_it_states_is_read_to_its_end(kind):
    data = file(kind)
    for share in (0.5, 0.8):
        recording = read_or_refused(data[: int(share * len(data))])
        if recording is None:  # the index is at the end, or the only page is torn
            assert kind in {"M4A AAC", "M4A ALAC", "a video with sound", "OGG Vorbis"}
            continue
        assert re.search(r"of [\d.,]+ (s|bytes)|breaks off", recording.incomplete)
        assert recording.duration < SECONDS
    with pytest.raises(AudioError):
        audio.read(data[: len(data) // 20], strict=True)


@pytest.mark.parametrize("kind", sorted(FRAMES))
def test_a_recording_that_stops_inside_a_frame_is_incomplete(kind):
    data = file(kind)
    for left in (len(data) - 1, len(data) * 4 // 5, len(data) // 2 + 1):
        recording = read_or_refused(data[:left])
        assert re.fullmatch(r"breaks off in the middle( after [\d.]+ s)?", recording.incomplete)
        assert recording.duration > 0.3 * SECONDS


@pytest.mark.parametrize("kind", ["MP3 by ffmpeg", "MP3 by LAME"])
def test_a_truncated_last_frame_is_ignored_if_the_stated_length_is_reached(kind):
    assert audio.duration(audio.load(file(kind)[:-1])) == pytest.approx(SECONDS, abs=0.1)


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 24_000, 32_000, 44_100, 48_000])
def test_the_stated_length_of_every_mp3_frame_is_right(rate):
    data = encode("mp3", "libmp3lame", rate=rate, write_xing="0", id3v2_version="0")
    position, frames = 0, 0
    while position < len(data):
        position, frames = position + containers.mp3_frame_bytes(data[position : position + 4], rate), frames + 1
    assert position == len(data) and frames > 20


@pytest.mark.parametrize("kind", ["WebM", "WebM from a browser", "Matroska"])
def test_bytes_after_a_webm_file_are_ignored(kind):
    assert audio.duration(audio.load(file(kind) + bytes(500))) == pytest.approx(SECONDS, abs=0.1)


@pytest.mark.parametrize("kind", ["AAC", "FLAC streamed", "FLAC 16 bit", "MP3 without a stated length"])
def test_a_metadata_tag_after_the_last_frame_is_ignored(kind):
    assert audio.duration(audio.load(file(kind) + b"TAG" + b"x" * 125)) == pytest.approx(SECONDS, abs=0.1)


@pytest.mark.parametrize("kind", sorted(UNSTATED - FRAMES))
def test_a_recording_without_a_stated_length_is_read_to_its_end(kind):
    data = file(kind)
    assert 0.2 * SECONDS < audio.duration(audio.load(data[: len(data) // 2])) < SECONDS


@pytest.mark.parametrize("kind", ["FLAC 24 bit", "MP3 by LAME", "OGG Opus", "OGG Vorbis", "M4A AAC", "WebM"])
def test_a_gap_in_a_file_is_reported(kind):
    data = file(kind)
    third = len(data) // 3
    garbage = np.random.default_rng(0).bytes(third)
    recording = read_or_refused(data[:third] + garbage + data[2 * third :])
    assert recording is None or recording.incomplete


@given(st.sampled_from(sorted(FILES)), st.integers(0, 2**32 - 1))
def test_any_damage_gives_a_waveform_or_a_sentence(kind, seed):
    rng = np.random.default_rng(seed)
    data = np.frombuffer(file(kind), np.uint8).copy()
    places = rng.integers(0, min(len(data), 2_000), 20)
    data[places] = rng.integers(0, 256, 20)
    try:
        waveform = audio.load(data.tobytes(), max_seconds=60)
    except AudioError as error:
        assert str(error).endswith(".")
    else:
        assert np.isfinite(waveform).all() and np.abs(waveform).max() <= 1


def test_empty_tracks_and_missing_tracks_have_different_errors():
    for empty in (write("WAV", None, np.zeros(0)), write("OGG", "VORBIS", np.zeros(0))):
        with pytest.raises(AudioError, match="length of zero"):
            audio.load(empty)
    with pytest.raises(AudioError, match="length of zero"):
        audio.load((SAMPLE_RATE, np.zeros((0, 2), np.float32)))
    with pytest.raises(AudioError, match="no audio track"):
        audio.load(encode("mp4", "", picture=True))


def test_each_kind_of_invalid_path_has_its_sentence(tmp_path):
    (tmp_path / "empty.wav").touch()
    os.mkfifo(tmp_path / "pipe.wav")
    for source, sentence in {
        tmp_path / "none.wav": "There is no file",
        tmp_path: "is a folder",
        tmp_path / "empty.wav": r"\"empty.wav\" is empty",
        tmp_path / "pipe.wav": "There is no file",
        "": "is a folder",
        "/dev/zero": "There is no file",
        "a\0b": "There is no file",
        "x" * 5_000: "cannot be opened",
        b"": r"is empty \(0 bytes\)",
        None: "There is no recording",
        7: "not int",
    }.items():
        with pytest.raises(AudioError, match=sentence):
            audio.load(source)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions bind neither root nor Windows")
def test_a_file_without_read_permission_is_named(tmp_path):
    path = tmp_path / "private.wav"
    path.write_bytes(file("WAV 16 bit"))
    path.chmod(0)
    with pytest.raises(AudioError, match="cannot be opened"):
        audio.load(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_nan_samples_are_rejected(bad):
    samples = np.zeros(48_000)
    samples[20_000] = bad
    with pytest.raises(AudioError, match="NaN or infinite"):
        audio.load((48_000, samples))
    with pytest.raises(AudioError, match="NaN or infinite"):
        audio.load(write("WAV", "DOUBLE", samples, 48_000))


@pytest.mark.parametrize("rate", [0, -1, 1, 3_999, 768_001, 2_000_000_000])
def test_an_unusable_sample_rate_is_rejected(rate):
    with pytest.raises(AudioError, match=f"rate of {rate:,} Hz: convert it to one of 4,000 to 768,000 Hz"):
        audio.load((rate, np.zeros(100, np.float32)))
    if rate > 0 and rate < 2_000_000:
        with pytest.raises(AudioError, match="sample rate"):
            audio.load(write("WAV", None, np.zeros(10), rate))


def test_arrays_of_unusable_shape_or_type_are_rejected():
    for source, sentence in (
        ((SAMPLE_RATE, np.zeros((5, 0), np.float32)), "0 channels"),
        ((SAMPLE_RATE, np.zeros((2, 16_000), np.float32)), r"16,000 channels: .*\(time, channels\)"),
        ((SAMPLE_RATE, np.zeros((2, 2, 2), np.float32)), "is a pair"),
        ((SAMPLE_RATE, np.float32(1)), "is a pair"),
        ((SAMPLE_RATE, [0.0, 0.1]), "is a pair"),
        ((SAMPLE_RATE,), "is a pair"),
        (("16000", np.zeros(10)), "is a pair"),
        ((math.nan, np.zeros(10)), "sample rate"),
        ((SAMPLE_RATE, np.zeros(10, np.int64)), "int64"),
        ((SAMPLE_RATE, np.zeros(10, bool)), "bool"),
        ((SAMPLE_RATE, np.zeros(10, complex)), "complex"),
        ((SAMPLE_RATE, np.array(["a"])), "<U1"),
    ):
        with pytest.raises(AudioError, match=sentence):
            audio.load(source)


def test_a_recording_that_is_too_long_gets_an_error_with_both_durations():
    with pytest.raises(AudioError, match="is 2 s long and the limit is 1.5 s"):
        audio.load(file("WAV 16 bit"), max_seconds=1.5)
    with pytest.raises(AudioError, match="is at least 1.* s long and the limit is 1 s"):
        audio.load(file("WebM from a browser"), max_seconds=1)
    with pytest.raises(AudioError, match="is 33 min 20 s long and the limit is 30 min"):
        audio.load((8_000, np.zeros(16_000_000, np.uint8)))
    assert audio.duration(audio.load(file("WAV 16 bit"), max_seconds=SECONDS)) == SECONDS


TORN = {  # files that state their length at their beginning
    "M4A": lambda: encode("ipod", "aac", rate=16_000, moov_size="4000"),
    "MP3": lambda: file("MP3 by LAME"),
    "FLAC": lambda: file("FLAC 16 bit"),
    "WAV": lambda: file("WAV 16 bit"),
}


@pytest.mark.parametrize("kind", TORN)
def test_a_torn_file_counts_with_what_is_in_it_not_with_what_it_states(kind):
    whole = TORN[kind]()
    with pytest.raises(AudioError, match="is 2.* s long and the limit is 1.8 s"):
        audio.read(whole, max_seconds=1.8)
    torn = audio.read(whole[: round(0.7 * len(whole))], max_seconds=1.8)
    assert torn.incomplete and 0.8 < torn.duration < 1.8
    with pytest.raises(AudioError, match="s long and the limit is 0.5 s"):
        audio.read(whole[: round(0.7 * len(whole))], max_seconds=0.5)


@pytest.mark.parametrize("live", [False, True])
def test_twenty_minutes_in_a_small_file_are_rejected_with_bounded_memory(live):
    long = encode("flac", "flac", np.zeros(1_200 * 8_000, np.float32), rate=8_000, live=live)
    length = "at least 20.* s" if live else "20 min"
    tracemalloc.start()
    with pytest.raises(AudioError, match=f"is {length} long and the limit is 20 s"):
        audio.load(long, max_seconds=20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * 20 * SAMPLE_RATE * 4 + len(long)


def test_no_network_address_is_ever_opened(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)  # a connection would be in its backlog when `load` returns
        address = f"127.0.0.1:{server.getsockname()[1]}"
        secret = tmp_path / "secret.wav"
        secret.write_bytes(file("WAV 16 bit"))
        for source in (
            f"http://{address}/voice.wav",
            f"https://{address}/voice.wav",
            f"tcp://{address}",
            f"file://{secret}",
            f"concat:{secret}|{secret}",
            f"subfile,,start,0,end,9000,,:{secret}",
            "data:audio/wav;base64,UklGRg==",
            "pipe:0",
            "sine=frequency=440",
            f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://{address}/a.ts\n#EXT-X-ENDLIST\n".encode(),
            f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{secret}\n#EXT-X-ENDLIST\n".encode(),
            f"ffconcat version 1.0\nfile '{secret}'\n".encode(),
            f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 {address}\nm=audio 9 RTP/AVP 0\n".encode(),
            f'<MPD type="static"><Period><BaseURL>http://{address}/</BaseURL></Period></MPD>'.encode(),
        ):
            with pytest.raises(AudioError):
                audio.load(source)
            if isinstance(source, bytes):
                playlist = tmp_path / "voice.m3u8"
                playlist.write_bytes(source)
                with pytest.raises(AudioError):
                    audio.load(playlist)
        with pytest.raises(BlockingIOError):
            server.accept()


# ---- writing -----------------------------------------------------------------------------------------------


def test_saving_and_loading_is_exact_in_16_bits(tmp_path):
    samples = np.arange(-32_768, 32_768, dtype=np.int32).astype(np.int16)
    waveform = (samples / 32_768).astype(np.float32)
    audio.save(tmp_path / "out.wav", waveform)
    assert np.array_equal(audio.load(tmp_path / "out.wav"), waveform)
    assert (tmp_path / "out.wav").read_bytes() == audio.wav_bytes(waveform)
    assert np.array_equal(audio.load(audio.wav_bytes(2 * waveform)), np.clip(2 * waveform, -1, 32_767 / 32_768))
    assert soundfile.info(io.BytesIO(audio.wav_bytes(waveform, rate=24_000))).samplerate == 24_000


def test_a_path_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(AudioError, match="cannot be written"):
        audio.save(tmp_path / "no" / "folder" / "out.wav", silence(1))


# ---- silence -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "waveform",
    [
        silence(0),
        silence(3),
        0.01 * noise(3),
        0.03 * noise(3),
        silence(3) + 0.5,
        np.concatenate([silence(1), noise(0.02), silence(1), noise(0.02), silence(1)]),
    ],
    ids=["nothing", "digital silence", "-60 dBFS of noise", "-50 dBFS of noise", "an offset", "two clicks"],
)
def test_silence_offsets_noise_and_clicks_are_silent(waveform):
    assert audio.is_silent(waveform, any_sound=True)
    assert audio.segments(waveform, 30, any_sound=True) == []


@pytest.mark.parametrize(
    "waveform",
    [
        noise(1),
        chirp(SAMPLE_RATE),
        0.02 * chirp(SAMPLE_RATE),
        np.concatenate([silence(60), noise(0.1), silence(60)]),
        0.02 * noise(6) + np.concatenate([silence(3), 0.1 * noise(1, seed=1), silence(2)]),
    ],
    ids=["noise", "a chirp", "a chirp at -45 dBFS", "one syllable in two minutes", "-40 over a floor of -54"],
)
def test_sound_is_not_silence_however_short_or_soft(waveform):
    assert not audio.is_silent(waveform, any_sound=True)


# ---- segments ----------------------------------------------------------------------------------------------

# Sounds and the gaps after them, in seconds.
SCHEDULES = st.lists(st.tuples(st.floats(0.1, 12), st.floats(0.0, 8)), min_size=1, max_size=6)
WINDOWS = st.sampled_from([1.0, 2.0, 7.3, 10.0, 30.0])


def render(schedule, lead_in=0.0, floor=0.0) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """The waveform (T,) of a schedule over a floor of noise, and the (start, end) of each of its sounds."""
    parts, places, now = [silence(lead_in)], [], lead_in
    for number, (sound, gap) in enumerate(schedule):
        parts += [noise(sound, seed=number), silence(gap)]
        places.append((now, now + sound))
        now += sound + gap
    waveform = np.concatenate(parts)
    if floor:
        waveform += floor * np.resize(minutes_of_noise()[::-1], len(waveform))
    return waveform, places


@given(SCHEDULES, WINDOWS, st.floats(0, 8), st.sampled_from([0.0, 0.01]))
def test_segments_cover_all_sound_in_order_without_overlap_within_the_window(schedule, window, lead_in, floor):
    waveform, places = render(schedule, lead_in, floor)
    segments = audio.segments(waveform, window, any_sound=True)
    edges = [edge for segment in segments for edge in (segment.start, segment.end)]
    assert edges == sorted(edges)
    assert edges[0] >= 0 and edges[-1] <= audio.duration(waveform)
    assert all(0 < segment.end - segment.start <= window for segment in segments)
    covered = np.zeros(len(waveform), bool)
    for segment in segments:
        covered[round(segment.start * SAMPLE_RATE) : round(segment.end * SAMPLE_RATE)] = True
        assert not audio.is_silent(segment.of(waveform), any_sound=True)
    for start, end in places:  # to the frame, 1/64 s
        assert covered[round((start + 1 / 64) * SAMPLE_RATE) : round((end - 1 / 64) * SAMPLE_RATE)].all()


@given(SCHEDULES, st.sampled_from([10.0, 30.0]))
def test_silence_between_segments_is_dropped_only_where_it_is_long(schedule, window):
    waveform, places = render(schedule)
    segments = audio.segments(waveform, window, any_sound=True)
    for before, after in zip(segments[:-1], segments[1:], strict=True):
        if before.end < after.start:  # then a silence lies there: no sound ends or begins between the two
            assert not any(start < after.start - 1 / 64 and end > before.end + 1 / 64 for start, end in places)


@given(st.floats(11, 19), st.floats(0.2, 4.5), st.floats(9.5, 19), st.sampled_from([0.0, 0.01]))
@example(17.0, 4.0, 19.0, 0.0)  # sound and its margin just pass a window, sound alone does not
def test_a_cut_is_at_a_pause_if_there_is_one(before, pause, after, floor):
    waveform, _ = render([(before, pause), (after, 0.0)], floor=floor)
    segments = audio.segments(waveform, 20, any_sound=True)
    if before + pause + after > 20.1:
        first, second = segments
        assert before - 0.02 <= first.end <= second.start <= before + pause + 0.02


@given(st.floats(11, 19), st.floats(0.9, 2.9), st.floats(9.5, 19))
def test_a_pause_at_a_cut_stays_whole_on_one_side(before, pause, after):
    waveform, _ = render([(before, pause), (after, 0.0)])
    segments = audio.segments(waveform, 20, any_sound=True)
    if len(segments) == 2:
        first, second = segments
        assert max(first.end - before, before + pause - second.start) >= 0.84


def test_a_gap_between_words_is_preferred_to_a_pause_for_a_cut():
    waveform, _ = render([(12, 0.3), (3, 1.5), (10, 0)])
    first, second = audio.segments(waveform, 20, any_sound=True)
    assert 12 < first.end == second.start < 12.3
    assert not audio.is_silent(second.of(waveform)[: round(0.5 * SAMPLE_RATE)], any_sound=True)


def test_the_closure_inside_a_word_is_not_a_gap():
    waveform, _ = render([(12, 0.08), (4, 0.4), (14, 0)])
    first, _ = audio.segments(waveform, 20, any_sound=True)
    assert 16.08 < first.end < 16.48


def test_sound_without_a_gap_is_cut_at_its_quietest_point():
    waveform = noise(35)
    dip = slice(round(24.8 * SAMPLE_RATE), round(25.2 * SAMPLE_RATE))
    waveform[dip] *= 0.3
    first, second = audio.segments(waveform, 30, any_sound=True)
    assert 24.8 < first.end == second.start < 25.2


def test_a_recording_that_fits_the_window_is_one_segment():
    waveform, _ = render([(2, 1.2), (3, 3.0), (0.5, 0.3)], lead_in=0.9)
    assert audio.segments(waveform, 30, any_sound=True) == [Segment(0.0, audio.duration(waveform))]
    assert np.array_equal(audio.segments(waveform, 30, any_sound=True)[0].of(waveform), waveform)


def test_margins_do_not_cause_an_additional_cut():
    waveform, _ = render([(9.9, 5.0)], lead_in=5.0)
    (segment,) = audio.segments(waveform, 10, any_sound=True)
    assert 4.9 <= segment.start <= 5 and 14.9 <= segment.end <= 15


def test_silence_at_the_edges_is_trimmed_to_a_margin_longer_than_a_pause_unless_it_is_no_pause():
    waveform, _ = render([(2, 2.5)], lead_in=2.5)
    (segment,) = audio.segments(waveform, 30, any_sound=True)
    assert segment.start == pytest.approx(1, abs=0.02) and segment.end == pytest.approx(6, abs=0.02)
    waveform, _ = render([(2, 30)], lead_in=20)
    (segment,) = audio.segments(waveform, 30, any_sound=True)
    assert segment.start == pytest.approx(19.7, abs=0.02) and segment.end == pytest.approx(22.3, abs=0.02)
    assert segment.sounds == ((20, 22),)


def test_a_long_silence_divides_and_is_dropped():
    waveform, _ = render([(2, 60), (2, 0)])
    first, second = audio.segments(waveform, 30, any_sound=True)
    assert first.end == pytest.approx(2.3, abs=0.02) and second.start == pytest.approx(61.7, abs=0.02)


def test_half_an_hour_is_divided_into_few_windows():
    rng = np.random.default_rng(0)
    waveform, _ = render([(rng.uniform(0.3, 3), rng.choice([0.2, 0.4, 1.2])) for _ in range(800)])
    segments = audio.segments(waveform, 30, any_sound=True)
    assert audio.duration(waveform) / 30 <= len(segments) <= 2 * audio.duration(waveform) / 30 + 1


def test_a_window_under_a_second_is_refused():
    with pytest.raises(ValueError, match="shorter than one second"):
        audio.segments(noise(3), 0.5, any_sound=True)


def test_importing_audio_loads_no_decoder():
    code = "import sys, evoxtral.audio; print({'av', 'soxr', 'soundfile', 'torch'} & set(sys.modules))"
    root = Path(__file__).parents[1]
    assert subprocess.check_output([sys.executable, "-c", code], cwd=root, text=True).strip() == "set()"

"""A recording as people have it -> a waveform: (T,) float32, mono, 16 kHz, within [-1, 1]. Silence, and segments.

PyAV (ffmpeg inside a wheel) decodes everything: libsndfile reads neither M4A/AAC nor WebM, and a second
reader would only add a second set of roundings, limits and errors. ffmpeg is kept away from the network and
from other files: it is handed an open file, never a name or an address, and may neither take a playlist
format nor open anything by itself.

What counts as broken: a file that states more than it holds (WAV, FLAC, M4A, MP3 by LAME or ffmpeg, WebM
with a length) or that stops inside an Ogg page, a WebM element or a frame (AAC, AMR, MP3, streamed FLAC) is
incomplete, an AudioError, because half a transcript looks like a whole one. Only what never stated a length and
ends between two frames is taken as it is. A few packets that do not decode (tags glued to an MP3) are skipped;
more than a few are damage.
"""

import io
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from evoxtral.errors import AudioError

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer

SAMPLE_RATE = 16_000  # Hz, of every waveform in this project; Voxtral's mel features are defined at this rate
MAX_SECONDS = 1_800.0  # longest recording accepted unless the caller says otherwise
MAX_MEGABYTES = 64.0  # largest file accepted over a network: MAX_SECONDS of 16-bit WAV at 16 kHz, or hours of MP3
MIN_RATE, MAX_RATE = 8_000, 192_000  # Hz, from a telephone to a studio
MAX_CHANNELS = 64  # of an array; more is an array that lies on its side

Source = str | os.PathLike[str] | bytes | bytearray | tuple[int, np.ndarray]

READABLE = "WAV, FLAC, MP3, OGG/Opus, M4A/AAC or WebM"
BREAKS_OFF = "{name} is incomplete: it breaks off in the middle; copy or record it again."
# Self-contained formats only: ffmpeg also knows playlists (HLS, DASH, concat), which name more files to open.
OPTIONS = {
    "format_whitelist": "wav,w64,aiff,au,caf,flac,mp3,aac,amr,ogg,mov,matroska,avi,asf",
    "protocol_whitelist": "none",
}
UNSTATED_RIFF_SIZE = 0x7FFF_0000  # bytes; programs that stream and cannot know write this or more
OGG_HEADER = 27  # bytes, then one byte for each of at most 255 segments of at most 255 bytes
OGG_PAGE = OGG_HEADER + 255 + 255 * 255  # bytes, the largest page
MISSING_SECONDS, MISSING_SHARE = 0.25, 0.02  # a file may end this much early: encoders pad, headers round
BAD_PACKETS, BAD_SHARE = 2, 0.05  # undecodable packets that are skipped before a file counts as damaged
BARE = ("aac", "amr", "flac")  # formats of frames and nothing else: the last frame shows whether the end is there
MP3_KILOBITS = {  # a second, of layer III, by the header's version and bit rate (ISO 11172-3, ISO 13818-3)
    1: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
}
EBML, SEGMENT, CLUSTER = b"\x1aE\xdf\xa3", b"\x18S\x80g", b"\x1fC\xb6u"  # Matroska and WebM: identifiers of elements
MAX_ELEMENTS = 1_000_000  # that are looked at; half an hour has 90,000 blocks of 20 ms
MAX_SAMPLE = 1e12  # floats may come at any scale, 32-bit integers' too; beyond this lies no sound


def load(source: Source, max_seconds: float = MAX_SECONDS) -> np.ndarray:
    """Read a recording: a waveform (T,), float32, mono (mean of the channels), 16 kHz, within [-1, 1].

    Args:
        source: the path of a local file (a web address is refused, never fetched); the bytes of a file; or
            `(rate in Hz, samples)` with samples (T,) or (T, C), floats at any scale or integers of 8, 16 or
            32 bits at full scale, signed or not, as Gradio hands them over.
        max_seconds: longest recording accepted. Checked on the stated length before anything is decoded, and
            again while decoding, so that it bounds the memory as well.

    A waveform whose peak is above 1 is scaled down as a whole, which keeps its shape where clipping would not.

    Raises:
        AudioError: missing, a folder, empty, not audio, without an audio track, damaged, incomplete, of zero
            length, too long, with NaN or infinite samples, with an unusable rate, shape or type.
    """
    if source is None:
        raise AudioError("There is no recording: record one or choose a file.")
    if isinstance(source, tuple):
        chunks = _chunks_of_array(source, "The recording", max_seconds)
        return _gather(chunks, "The recording", max_seconds)
    with _opened(source) as (file, name):
        _check_ends(file, name)
        return _gather(_chunks_of_file(file, name, max_seconds), name, max_seconds)


def duration(waveform: np.ndarray) -> float:
    """Length of a waveform (T,) in seconds."""
    return len(waveform) / SAMPLE_RATE


def wav_bytes(waveform: np.ndarray, rate: int = SAMPLE_RATE) -> bytes:
    """A waveform (T,) within [-1, 1] as a 16-bit WAV file. `load` gives back exactly what the 16 bits hold."""
    import soundfile

    samples = np.clip(np.round(waveform * 32_768), -32_768, 32_767).astype(np.int16)
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def save(path: str | os.PathLike[str], waveform: np.ndarray, rate: int = SAMPLE_RATE) -> None:
    """Write a waveform (T,) within [-1, 1] as a 16-bit WAV file. Raises AudioError where it cannot be written."""
    try:
        Path(path).write_bytes(wav_bytes(waveform, rate))
    except OSError as error:
        raise AudioError(f'"{path}" cannot be written ({error.strerror}): choose another place.') from error


# ---- reading -----------------------------------------------------------------------------------------------


@contextmanager
def _opened(source: str | os.PathLike[str] | bytes | bytearray) -> Iterator[tuple[BinaryIO, str]]:
    """The open file and its name in messages. Only regular local files: no pipe or device is waited for."""
    if isinstance(source, bytes | bytearray):
        if len(source) == 0:
            raise AudioError("The file is empty (0 bytes): record or upload it again.")
        yield io.BytesIO(source), "The file"
        return
    if not isinstance(source, str | os.PathLike):
        raise AudioError(f"A recording is a path, bytes or (rate, samples), not {type(source).__name__}.")
    path = Path(source)
    name = f'"{path.name[-80:]}"'
    try:
        if "://" in str(source) and not path.exists():
            raise AudioError(f'"{str(source)[:80]}" is an address: download the recording and give its path.')
        if path.is_dir():
            raise AudioError(f'"{path}" is a folder: give the path of one recording.')
        if not path.is_file():
            raise AudioError(f'There is no file "{str(path)[-200:]}": check the path.')
        if path.stat().st_size == 0:
            raise AudioError(f"{name} is empty (0 bytes): copy or record it again.")
        # Opened again by its number, a file has no name: ffmpeg would believe the ending of the name.
        with path.open("rb") as named, open(named.fileno(), "rb", closefd=False) as file:
            yield file, name
    except OSError as error:
        raise AudioError(f"{name} cannot be opened ({error.strerror}): check its permissions.") from error


def _check_ends(file: BinaryIO, name: str) -> None:
    """AudioError where a RIFF file (WAV, AVI) is shorter than it states, an Ogg file stops inside a page or a WebM
    file inside an element.

    ffmpeg passes over all of them in silence, and gives the length of what is left.
    """
    head = file.read(8)
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - OGG_PAGE))
    tail = file.read()
    stated = int.from_bytes(head[4:], "little") + len(head)  # bytes
    if head[:4] == b"RIFF" and stated < UNSTATED_RIFF_SIZE and stated - size > MISSING_SHARE * stated:
        raise AudioError(f"{name} is incomplete: it has {size:,} of {stated:,} bytes; copy it again.")
    if head[:4] == b"OggS":
        page = tail[tail.rfind(b"OggS") :]
        lengths = page[OGG_HEADER : OGG_HEADER + page[OGG_HEADER - 1]] if len(page) >= OGG_HEADER else b""
        if len(page) < OGG_HEADER + len(lengths) + sum(lengths):
            raise AudioError(BREAKS_OFF.format(name=name))
    if head[:4] == EBML and _stops_inside_element(file, size):
        raise AudioError(BREAKS_OFF.format(name=name))
    file.seek(0)


def _stops_inside_element(file: BinaryIO, size: int) -> bool:
    """Whether a Matroska or WebM file of so many bytes ends before its last element does (RFC 8794, RFC 9559).

    What a browser records states no length, but each of its blocks does.
    """
    position = 0
    for _ in range(MAX_ELEMENTS):
        if position >= size:
            break
        file.seek(position)
        head = file.read(12)  # identifier and length: each begins with one zero bit less than it has bytes
        name_bytes = 9 - head[0].bit_length()
        if name_bytes > 4:
            return False  # no element: something was glued to the file
        length_bytes = 9 - head[name_bytes].bit_length() if len(head) > name_bytes else 8
        start = position + name_bytes + length_bytes
        if start > size:
            return True
        unknown = (1 << 7 * length_bytes) - 1
        length = int.from_bytes(head[name_bytes : name_bytes + length_bytes]) & unknown
        inside = head[:4] in (SEGMENT, CLUSTER)  # on with what is in these: how long they are is often not known
        if length == unknown and not inside:
            return False
        position = start if inside else start + length
    return position > size


def _chunks_of_array(source: tuple, name: str, max_seconds: float) -> Iterator[tuple[float, np.ndarray]]:
    """(rate, samples) as Gradio hands it over -> one chunk: rate in Hz, mono (T,) float32."""
    match source:
        case (int() | float() | np.number() as rate, np.ndarray(ndim=1 | 2) as samples):
            pass
        case _:
            raise AudioError("A recording in memory is a pair: rate in Hz, array of samples (T,) or (T, C).")
    if samples.ndim == 1:
        samples = samples[:, None]
    channels = samples.shape[1]
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioError(f"{name} has {channels:,} channels: give samples of shape (time, channels).")
    _check_rate(rate, name)
    _check_length(len(samples) / rate, name, max_seconds)
    yield float(rate), _mono(samples, name)


def _chunks_of_file(file: BinaryIO, name: str, max_seconds: float) -> Iterator[tuple[float, np.ndarray]]:
    """Decode the best audio track of a file into chunks: rate in Hz, mono (T,) float32."""
    import av

    head = file.read(12)
    file.seek(0)
    try:
        with av.open(file, options=OPTIONS, metadata_errors="ignore") as container:
            stream = container.streams.best("audio")
            if len(container.streams) == 0:
                raise AudioError(_unreadable(head, name))
            if stream is None or stream.codec_context is None:
                raise AudioError(f"{name} has no audio track that can be decoded: choose a file with sound.")
            stream.codec_context.options = {"err_detect": "crccheck+explode"}  # damage is no sound to play
            stated = _stated_seconds(container, stream)
            _check_rate(stream.codec_context.sample_rate, name)
            _check_length(stated, name, max_seconds)
            yield from _chunks_of_stream(container, stream, stated, name)
    except av.FFmpegError as error:
        raise AudioError(_unreadable(head, name)) from error


def _chunks_of_stream(
    container: "InputContainer", stream: "AudioStream", stated: float, name: str
) -> Iterator[tuple[float, np.ndarray]]:
    """Decode one audio stream. AudioError where it is damaged or holds clearly less than `stated` seconds."""
    import av

    kind, packets, damaged = container.format.name, 0, 0
    seconds, whole = 0.0, True
    for packet in container.demux(stream):
        packets += 1
        try:
            frames = packet.decode()
        except av.FFmpegError:
            damaged += 1
            whole = kind not in BARE
            continue
        if packet.size:  # the empty one that ends a stream is no frame
            torn = kind == "mp3" and packet.size < _mp3_frame_bytes(bytes(packet), stream.codec_context.sample_rate)
            whole = stated > 0 or not torn  # the end of what states its length is looked for below
        for frame in frames:
            seconds += frame.samples / frame.sample_rate
            try:
                samples = frame.to_ndarray()  # planar: (C, T), packed: (1, T * C)
            except ValueError as error:  # of 64 bits
                raise AudioError(
                    f"{name} has samples of a kind that is not read ({frame.format.name}): save it with 16 or 32 bits."
                ) from error
            planar = samples if frame.format.is_planar else samples.reshape(-1, frame.layout.nb_channels).T
            yield frame.sample_rate, _mono(planar.T, name)
    if damaged > max(BAD_PACKETS, BAD_SHARE * packets) or (damaged and not seconds):
        raise AudioError(f"{name} is damaged: {damaged} of {packets} packets do not decode; export it again.")
    if not whole:
        raise AudioError(BREAKS_OFF.format(name=name))
    if stated - seconds > MISSING_SECONDS + MISSING_SHARE * stated:
        lengths = f"{_length(seconds)} of {_length(stated)}"
        raise AudioError(f"{name} is incomplete: it holds {lengths}; copy or record it again.")


def _mp3_frame_bytes(frame: bytes, rate: int) -> int:
    """How long an MPEG audio frame of layer III says it is, in bytes; 0 for another layer or a free bit rate.

    ffmpeg decodes one that breaks off as if nothing was missing. rate: in Hz.
    """
    version, layer = 2 - (frame[1] >> 3 & 1), 4 - (frame[1] >> 1 & 3)
    kilobits = MP3_KILOBITS[version][frame[2] >> 4]
    if layer != 3 or kilobits == 0:
        return 0
    return 144_000 // version * kilobits // rate + (frame[2] >> 1 & 1)


def _stated_seconds(container: "InputContainer", stream: "AudioStream") -> float:
    """The length a file states, in seconds; 0 where it states none and ffmpeg guesses from the bit rate."""
    import av

    kind = container.format.name
    # An MP3 states its length next to the encoder's delay, which ffmpeg gives as the start.
    if kind in ("aac", "amr") or (kind == "mp3" and not stream.start_time):
        return 0.0
    if stream.duration:
        return float(stream.duration * stream.time_base)
    alone = len(container.streams) == 1  # beside a picture, the container's length may be the picture's
    return container.duration / av.time_base if container.duration and alone else 0.0


def _gather(chunks: Iterator[tuple[float, np.ndarray]], name: str, max_seconds: float) -> np.ndarray:
    """Chunks (rate, mono (T,)) -> one waveform, never holding much more than `max_seconds` of it."""
    pieces = []
    total = 0  # samples at 16 kHz
    for piece in _resampled(chunks, name):
        pieces.append(piece)
        total += len(piece)
        _check_length(total / SAMPLE_RATE, name, max_seconds, known="at least ")
    if total == 0:
        raise AudioError(f"{name} has a length of zero: there is no sound in it.")
    waveform = np.concatenate(pieces)
    peak = max(waveform.max(), -waveform.min())
    return waveform / peak if peak > 1 else waveform


def _resampled(chunks: Iterator[tuple[float, np.ndarray]], name: str) -> Iterator[np.ndarray]:
    """Chunks (rate, mono (T,)) -> pieces at 16 kHz. The rate may change inside a file (joined Ogg files)."""
    import soxr

    for rate, same_rate in groupby(chunks, key=lambda chunk: chunk[0]):
        _check_rate(rate, name)
        resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
        for _, mono in same_rate:
            yield resampler.resample_chunk(mono)
        yield resampler.resample_chunk(np.empty(0, np.float32), last=True)


def _mono(samples: np.ndarray, name: str) -> np.ndarray:
    """Samples (T, C) of any supported type -> mean of the channels (T,), float32, integers / full scale."""
    kind, bits = samples.dtype.kind, 8 * samples.dtype.itemsize
    if kind in "iu" and bits <= 32:
        samples = samples / 2.0 ** (bits - 1) - (kind == "u")
    elif kind != "f":
        raise AudioError(f"{name} has {samples.dtype} samples: give floats or integers of 8 to 32 bits.")
    with np.errstate(over="ignore", invalid="ignore"):
        mono = samples.mean(axis=1, dtype=np.float32)
    if not np.abs(mono).max(initial=0) <= MAX_SAMPLE:  # no comparison with NaN is true
        raise AudioError(f"{name} has samples that are not numbers (NaN or infinite): export it again.")
    return mono


def _unreadable(head: bytes, name: str) -> str:
    """The sentence for what ffmpeg cannot open: by its first 12 bytes a recording, or something else."""
    starts = (b"fLaC", b"OggS", b"ID3", b"\x1aE\xdf\xa3")  # the last is Matroska and WebM
    if head.startswith(starts) or head[4:8] == b"ftyp" or head[8:] == b"WAVE":
        return f"{name} is damaged or incomplete and cannot be decoded: copy, export or record it again."
    return f"{name} is not a recording that can be read: use {READABLE}."


def _check_rate(rate: float, name: str) -> None:
    if not MIN_RATE <= rate <= MAX_RATE:
        limits = f"{MIN_RATE:,} to {MAX_RATE:,} Hz"
        raise AudioError(f"{name} has a sample rate of {rate:,.0f} Hz: convert it to one of {limits}.")


def _check_length(seconds: float, name: str, max_seconds: float, known: str = "") -> None:
    if seconds > max_seconds:
        lengths = f"{known}{_length(seconds)} long and the limit is {_length(max_seconds)}"
        raise AudioError(f"{name} is {lengths}: cut it into shorter parts.")


def _length(seconds: float) -> str:
    """Seconds as a person says them, rounded up to a tenth: 1 h 2 min 3.4 s."""
    minutes, rest = divmod(math.ceil(round(seconds * 10, 6)) / 10, 60)
    hours, minutes = divmod(int(minutes), 60)
    parts = [f"{hours} h"] * (hours > 0) + [f"{minutes} min"] * (minutes > 0)
    return " ".join([*parts, f"{rest:.3g} s"] if rest or not parts else parts)

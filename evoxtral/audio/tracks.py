"""The audio tracks of a file, decoded onto the time line of its container.

Each track becomes pieces (T, C) float32 at 16 kHz that follow each other without a gap: where the container has no
packets, or packets that do not decode, there are zeros.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from evoxtral.audio import containers
from evoxtral.audio.containers import BARE, MISSING_SECONDS, MISSING_SHARE
from evoxtral.errors import AudioError

if TYPE_CHECKING:
    import av
    from av.audio.stream import AudioStream
    from av.container import InputContainer

SAMPLE_RATE = 16_000  # Hz, of every waveform in this project; Voxtral's mel features are defined at this rate
MIN_RATE, MAX_RATE = 4_000, 768_000  # Hz
MAX_SAMPLE = 1e12  # limit on samples: floats may have any scale, such as that of 32-bit integers
MAX_CHANNELS = 64  # limit for arrays: with more, the axes are probably swapped
MAX_HELD = 16  # channels of the longest recording accepted, over all tracks: bounds memory
PIECE = 60 * SAMPLE_RATE  # samples that are kept together
JITTER = 0.1  # s that timestamps may be off: containers round them, capture clocks drift
BACKWARDS = 1.0  # s that timestamps step back where another recording is joined on
BAD_PACKETS, BAD_SHARE = 2, 0.05  # undecodable packets (such as tags behind an MP3) up to which nothing is reported
NAMES = ("left", "right")  # of two channels; more than two are numbered


@dataclass
class Track:
    """One audio track. `pieces`: (T, C) float32 at 16 kHz in order. `number` counts from 1, as `--track` does."""

    number: int
    name: str = ""
    language: str = ""
    channel_names: tuple[str, ...] = ()
    incomplete: str | None = None
    pieces: list[np.ndarray] = field(default_factory=list)

    @property
    def label(self) -> str:
        """`2`, `2 (Commentary, en)`."""
        about = ", ".join(text for text in (self.name, self.language) if text)
        return f"{self.number} ({about})" if about else str(self.number)

    @property
    def samples(self) -> int:
        return sum(len(piece) for piece in self.pieces)


class Line:
    """Writes a track's samples at their times. Blocks of about a second are resampled together, which is fast."""

    def __init__(self, track: Track, name: str, max_seconds: float):
        self.track, self.name, self.max_seconds = track, name, max_seconds
        self.seconds = 0.0  # written so far
        self._rate, self._channels = 0.0, 1
        self._block: list[np.ndarray] = []
        self._held = 0  # samples in the block
        self._blocks: list[np.ndarray] = []  # at 16 kHz
        self._resampler = None

    def silence(self, seconds: float) -> None:
        """Zeros, in blocks of a second."""
        check_length(self.seconds + seconds, self.name, self.max_seconds, known="at least ")
        rate = self._rate or SAMPLE_RATE
        left = round(seconds * rate)
        while left > 0:
            size = min(left, round(rate))
            self.write(rate, np.zeros((size, self._channels), np.float32))
            left -= size

    def write(self, rate: float, samples: np.ndarray) -> None:
        """Samples (T, C) float32 at a rate in Hz. Both may change inside a file, as where two are joined."""
        if rate != self._rate or samples.shape[1] != self._channels:
            self.close()
            check_rate(rate, self.name)
            self._rate, self._channels = rate, samples.shape[1]
        self._block.append(samples)
        self._held += len(samples)
        self.seconds += len(samples) / rate
        if self._held >= rate:
            self._flush(last=False)

    def close(self) -> None:
        """Write the samples that are still buffered."""
        if self._rate:
            self._flush(last=True)

    def _flush(self, last: bool) -> None:
        import soxr

        block = np.concatenate([np.empty((0, self._channels), np.float32), *self._block])
        self._block, self._held = [], 0
        if not np.abs(block).max(initial=0) <= MAX_SAMPLE:  # no comparison with NaN is true
            raise AudioError(f"{self.name} has samples that are not numbers (NaN or infinite): export it again.")
        if self._rate != SAMPLE_RATE:
            if self._resampler is None:
                self._resampler = soxr.ResampleStream(self._rate, SAMPLE_RATE, self._channels, "float32", "HQ")
            block = self._resampler.resample_chunk(block, last=last)
        if last:
            self._resampler = None
        self._keep(block, last)
        check_length(self.seconds, self.name, self.max_seconds, known="at least ")

    def _keep(self, block: np.ndarray, last: bool) -> None:
        """Join blocks (T, C) to pieces of a minute: memory of that size goes back to the system when it is freed."""
        self._blocks.append(block)
        if last or sum(map(len, self._blocks)) >= PIECE:
            piece = np.concatenate(self._blocks)
            self._blocks = []
            if len(piece):
                self.track.pieces.append(piece)


class Decoder:
    """Decodes one track packet by packet. `container` and `stream` are PyAV's, `zero` is that of the clip."""

    def __init__(
        self, container: "InputContainer", stream: "AudioStream", track: Track, zero: float, name: str, limit: float
    ):
        self.stream, self.track, self.name = stream, track, name
        self.line = Line(track, name, limit)
        self._kind, self._zero = container.format.name, zero
        self._stated = containers.stated_end(container, stream, zero)
        self._packets = self._damaged = 0
        self._lost = 0.0  # s of packets that did not decode, since the last that did
        self._torn = False  # whether a packet did not decode since the last that did
        self._start: float | None = None  # s at which the packet begins by what it says itself
        self._silenced = 0.0  # s of silence in place of what did not decode
        self.whole, self._heard = True, False
        stream.codec_context.options = {
            "err_detect": "crccheck+explode"
        }  # report damaged packets instead of decoding them
        check_rate(stream.codec_context.sample_rate, name)

    def check_stated(self, file: BinaryIO) -> None:
        """Raise AudioError for a stated length above the limit, unless the packets end before: a torn file counts with
        what is in it."""
        import av

        if self._stated <= self.line.max_seconds:
            return
        position = file.tell()
        file.seek(0)
        with av.open(file, options=containers.OPTIONS, metadata_errors="ignore") as again:
            if containers.reaches(again, self.stream.index, self._zero + self.line.max_seconds):
                check_length(self._stated, self.name, self.line.max_seconds)
        file.seek(position)

    def decode(self, packet: "av.Packet") -> None:
        """Write the samples of one packet, after silence where packets are missing before it."""
        import av

        self._packets += 1
        try:
            frames = packet.decode()
        except av.FFmpegError:
            self._damaged += 1
            self._torn = True
            self._lost += float((packet.duration or 0) * self.stream.time_base)
            self.whole = self._kind not in BARE
            return
        if packet.size:  # the empty packet at the end of a stream is not a frame
            torn = self._is_torn(packet)
            self.whole = self._stated > 0 or not torn  # the end of what states its length is looked for at the end
            if self._kind == "flac":  # ffmpeg counts on where frames are missing
                context = self.stream.codec_context
                self._start = containers.flac_start(bytes(packet), context.extradata) / context.sample_rate
                if not self._heard:  # of an excerpt, or behind damage
                    self._zero = self._start if self._start >= self._stated else 0.0
        for frame in frames:
            self._write(frame)

    def _is_torn(self, packet: "av.Packet") -> bool:
        """Whether a frame of MP3 or AC-3 is shorter than its header says."""
        if self._kind in ("ac3", "eac3"):
            return packet.size < containers.ac3_frame_bytes(bytes(packet))
        if self._kind != "mp3":
            return False
        return packet.size < containers.mp3_frame_bytes(bytes(packet), self.stream.codec_context.sample_rate)

    def _write(self, frame: "av.AudioFrame") -> None:
        samples = self._samples(frame)
        channels = samples.shape[1]
        if not self.track.channel_names:
            self.track.channel_names = channel_names(channels)
        late = self._late(frame)
        if late > 0:
            self.line.silence(late)
            # Bare frames leave no gap between them; one that states its place shows what is missing before it.
            if self._start is not None or (self._heard and (self._torn or self._kind in BARE)):
                self._silenced += late
        self._lost, self._torn, self._heard = 0.0, False, True
        self.line.write(frame.sample_rate, to_float(samples, self.name))

    def _samples(self, frame: "av.AudioFrame") -> np.ndarray:
        """The samples of a frame, (T, C)."""
        kind, channels = frame.format, frame.layout.nb_channels
        if kind.name == "fltp":  # of most codecs, which give many small frames: to_ndarray takes twice as long
            samples = np.empty((frame.samples, channels), np.float32)
            for i, plane in enumerate(frame.planes):
                samples[:, i] = np.frombuffer(plane, np.float32, frame.samples)
            return samples
        try:
            samples = frame.to_ndarray()  # planar: (C, T), packed: (1, T * C)
        except ValueError as error:  # of 64 bits
            raise AudioError(
                f"{self.name} has samples of a kind that is not read ({kind.name}): save it with 16 or 32 bits."
            ) from error
        return samples.T if kind.is_planar else samples.reshape(-1, channels)

    def _late(self, frame: "av.AudioFrame") -> float:
        """Seconds that are missing before a frame; 0 where its timestamp differs by no more than timestamps do."""
        if frame.pts is None and self._start is None:
            return self._lost
        start = frame.time if self._start is None else self._start
        late = start - self._zero - self.line.seconds
        spliced = late > containers.MAX_LATE and self._kind in containers.STREAMED
        if late < -BACKWARDS or (spliced and self._heard):  # another recording joined on, with its own timestamps
            self._zero += late
        return late if late > (JITTER if self._heard else 0.0) and not spliced else 0.0

    def close(self) -> None:
        """End the track and note what it lacks. Raises AudioError if nothing of it could be decoded."""
        self.line.close()
        seconds, damaged = self.line.seconds, self._damaged
        if damaged and not self._heard:
            raise AudioError(
                f"{self.name} is damaged: {damaged} of {self._packets} packets do not decode; export it again."
            )
        short = self._stated - seconds > MISSING_SECONDS + MISSING_SHARE * self._stated
        if short:
            self.track.incomplete = f"ends after {seconds:.1f} of {self._stated:.1f} s"
        elif not self.whole:
            self.track.incomplete = f"breaks off in the middle after {seconds:.1f} s"
        elif self._silenced > MISSING_SECONDS:
            lost = f"{self._silenced:.1f} of {seconds:.1f} s"
            self.track.incomplete = f"does not decode for {lost}, which are silent here"
        elif damaged > max(BAD_PACKETS, BAD_SHARE * self._packets):
            self.track.incomplete = f"does not decode in {damaged} of {self._packets} packets, which are silent here"


def of_file(file: BinaryIO, name: str, max_seconds: float, number: int | None = None) -> tuple[list[Track], list[str]]:
    """Decode the tracks of an open file, or one of them: those that can be decoded, and a sentence for each other one.

    number: of the track, from 1.  Raises AudioError.
    """
    import av

    head = file.read(12)
    file.seek(0)
    try:
        container = av.open(file, options=containers.OPTIONS, metadata_errors="ignore")
    except av.FFmpegError as error:
        raise containers.unreadable(head, name) from error
    with container:
        if len(container.streams) == 0:
            raise containers.unreadable(head, name)
        decoders, notes = _decoders(container, name, max_seconds, number)
        for decoder in decoders:
            decoder.check_stated(file)
        _decode(container, decoders, name, head)
        return _closed(decoders, notes), notes


def _decoders(
    container: "InputContainer", name: str, max_seconds: float, number: int | None
) -> tuple[list[Decoder], list[str]]:
    streams = container.streams.audio
    if number is not None and not 1 <= number <= len(streams):
        raise AudioError(f"{name} has no track {number}: it has {len(streams)}.")
    zero, decoders, notes = containers.zero(container), [], []
    for i, stream in enumerate(streams, 1):
        if number not in (None, i):
            continue
        if stream.codec_context is None:
            notes.append(f"track {i} is left out: it is of a kind that cannot be decoded here")
            continue
        decoders.append(Decoder(container, stream, Track(i, *tags_of(stream)), zero, name, max_seconds))
    if not decoders and number is not None:
        raise AudioError(f"Track {number} of {name} is of a kind that cannot be decoded here: choose another track.")
    if not decoders:
        raise AudioError(f"{name} has no audio track that can be decoded: choose a file with sound.")
    return decoders, notes


def _decode(container: "InputContainer", decoders: Sequence[Decoder], name: str, head: bytes) -> None:
    """Pass every packet to the decoder of its stream."""
    import av

    by_stream = {decoder.stream.index: decoder for decoder in decoders}
    longest = MAX_HELD * max(decoder.line.max_seconds for decoder in decoders)
    try:
        for count, packet in enumerate(container.demux([decoder.stream for decoder in decoders])):
            by_stream[packet.stream.index].decode(packet)
            if count % 1_000 == 0:
                held = sum(d.line.seconds * max(1, len(d.track.channel_names)) for d in decoders)
                if held > longest:
                    raise AudioError(f"{name} has too many channels for its length: choose one track or shorten it.")
    except av.FFmpegError as error:
        if not any(decoder.line.seconds for decoder in decoders):
            raise containers.unreadable(head, name) from error
        for decoder in decoders:
            decoder.whole = False


def _closed(decoders: Sequence[Decoder], notes: list[str]) -> list[Track]:
    """The tracks with sound; one that is damaged throughout is a note, unless it is the only one."""
    tracks = []
    for decoder in decoders:
        try:
            decoder.close()
        except AudioError:
            if len(decoders) == 1:
                raise
            notes.append(f"track {decoder.track.number} is left out: it is damaged")
            continue
        tracks.append(decoder.track)
    return tracks


def of_array(source: tuple, name: str, max_seconds: float) -> Track:
    """The track of (rate, samples) as Gradio hands it over."""
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
    check_rate(rate, name)
    check_length(len(samples) / rate, name, max_seconds)
    track = Track(1, channel_names=channel_names(channels))
    line = Line(track, name, max_seconds)
    line.write(float(rate), to_float(samples, name))
    line.close()
    return track


def tags_of(stream: "AudioStream") -> tuple[str, str]:
    """The name and the language that a file gives a track, "" where it gives none."""
    about = stream.metadata
    language = about.get("language", "")
    return about.get("title", "") or about.get("name", ""), "" if language == "und" else language


def channel_names(channels: int) -> tuple[str, ...]:
    """`left` and `right` for a pair, else `channel 1`, `channel 2`, …"""
    if channels == 2:
        return NAMES
    return tuple(f"channel {i}" for i in range(1, channels + 1))


def to_float(samples: np.ndarray, name: str) -> np.ndarray:
    """Samples of any supported type -> float32 of the same shape, integers / full scale."""
    if samples.dtype == np.float32:
        return samples
    kind, bits = samples.dtype.kind, 8 * samples.dtype.itemsize
    if kind in "iu" and bits <= 32:
        scaled = samples.astype(np.float32 if bits <= 16 else np.float64) / 2.0 ** (bits - 1)
        return (scaled - (kind == "u")).astype(np.float32, copy=False)
    if kind != "f":
        raise AudioError(f"{name} has {samples.dtype} samples: give floats or integers of 8 to 32 bits.")
    with np.errstate(over="ignore", invalid="ignore"):
        return samples.astype(np.float32, copy=False)


def check_rate(rate: float, name: str) -> None:
    if not MIN_RATE <= rate <= MAX_RATE:
        limits = f"{MIN_RATE:,} to {MAX_RATE:,} Hz"
        raise AudioError(f"{name} has a sample rate of {rate:,.0f} Hz: convert it to one of {limits}.")


def check_length(seconds: float, name: str, max_seconds: float, known: str = "") -> None:
    if seconds > max_seconds + 1e-6:
        lengths = f"{known}{length(seconds)} long and the limit is {length(max_seconds)}"
        raise AudioError(f"{name} is {lengths}: cut it into shorter parts.")


def length(seconds: float) -> str:
    """A duration for messages, rounded up to a tenth of a second: 1 h 2 min 3.4 s."""
    minutes, rest = divmod(math.ceil(round(seconds * 10, 6)) / 10, 60)
    hours, minutes = divmod(int(minutes), 60)
    parts = [f"{hours} h"] * (hours > 0) + [f"{minutes} min"] * (minutes > 0)
    return " ".join([*parts, f"{rest:.3g} s"] if rest or not parts else parts)

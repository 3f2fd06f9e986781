"""File formats: those that are read, the duration that a file states, and whether a file is incomplete.

ffmpeg decodes a damaged file without reporting it. These functions find out what is missing.
"""

import io
from typing import TYPE_CHECKING, BinaryIO

from evoxtral.errors import AudioError

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer

# The formats that are read: ffmpeg's readers for each, and how its files end. Self-contained ones only: ffmpeg also
# knows playlists (HLS, DASH, concat), which name more files to open.
FORMATS = {
    "WAV": ("wav w64", ".wav .w64"), "AIFF": ("aiff", ".aif .aiff .aifc"), "AU": ("au", ".au"), "CAF": ("caf", ".caf"),
    "FLAC": ("flac", ".flac"), "WavPack": ("wv", ".wv"), "MP3": ("mp3", ".mp3"), "AAC": ("aac", ".aac"),
    "AC-3": ("ac3 eac3", ".ac3 .eac3"), "AMR": ("amr", ".amr"), "Ogg": ("ogg", ".ogg .oga .opus"),
    "M4A": ("mov", ".m4a .m4b"), "MP4": ("mov", ".mp4 .m4v"), "MOV": ("mov", ".mov"),
    "Matroska": ("matroska", ".mkv .mka"), "WebM": ("matroska", ".webm"), "AVI": ("avi", ".avi"),
    "WMA": ("asf", ".wma .wmv .asf"), "FLV": ("flv", ".flv"), "MPEG-TS": ("mpegts", ".ts .mts .m2ts"),
    "MPEG-PS": ("mpeg", ".mpg .mpeg .vob"),
}  # fmt: skip
SUFFIXES = frozenset(suffix for _, suffixes in FORMATS.values() for suffix in suffixes.split())
READERS = tuple(dict.fromkeys(reader for readers, _ in FORMATS.values() for reader in readers.split()))
OPTIONS = {"format_whitelist": ",".join(READERS), "protocol_whitelist": "none"}
STREAMED = ("mpegts", "mpeg", "flv")  # formats of broadcasts: their clocks start anywhere
MAX_LATE = 60.0  # s; sound that starts later than this in a file without a picture is cut from a stream
UNSTATED_RIFF_SIZE = 0x7FFF_0000  # bytes; programs that stream and cannot know write this or more
OGG_HEADER = 27  # bytes, then one byte for each of at most 255 segments of at most 255 bytes
OGG_PAGE = OGG_HEADER + 255 + 255 * 255  # bytes, the largest page
MISSING_SECONDS, MISSING_SHARE = 0.25, 0.02  # a file may end this much early: encoders pad, headers round
BARE = ("aac", "ac3", "eac3", "amr", "flac")  # formats of frames and nothing else: the last frame shows the end
MP3_KILOBITS = {  # a second, of layer III, by the header's version and bit rate (ISO 11172-3, ISO 13818-3)
    1: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
}
EBML, SEGMENT, CLUSTER = b"\x1aE\xdf\xa3", b"\x18S\x80g", b"\x1fC\xb6u"  # Matroska and WebM: identifiers of elements
TS_SYNC, TS_PACKET, M2TS_PACKET = b"G", 188, 192  # MPEG-TS: a packet's first byte, its length in bytes
PACK, PROGRAM_END = b"\0\0\1\xba", b"\0\0\1\xb9"  # MPEG-PS
AC3_RATES = (48_000, 44_100, 32_000)  # Hz
AC3_KILOBITS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)
MAX_ELEMENTS = 1_000_000  # that are looked at; half an hour has 90,000 blocks of 20 ms


def without_tag(file: BinaryIO) -> BinaryIO:
    """A WAV file without the ID3 tag that some programs put before it; any other file as it is."""
    head = file.read(10)
    file.seek(0)
    if not head.startswith(b"ID3") or len(head) < 10:
        return file
    size = sum((byte & 127) << 7 * place for place, byte in enumerate(reversed(head[6:])))
    file.seek(10 + size)
    behind = file.read(4)
    file.seek(10 + size if behind == b"RIFF" else 0)
    return io.BytesIO(file.read()) if behind == b"RIFF" else file


def cut_off(file: BinaryIO) -> str | None:
    """A clause on what is missing in a file or left over behind it, or None. The file is rewound.

    A WAV or AVI whose data chunk is longer than the file, an Ogg file that stops inside a page, a Matroska or WebM
    file that stops inside an element, an MPEG-TS or MPEG-PS that stops inside a packet, a WAV with another behind it.
    """
    head = file.read(8)
    size = file.seek(0, io.SEEK_END)
    found = None
    if head[:4] == b"RIFF":
        found = _riff(file, size)
    elif head[:4] == b"OggS":
        found = "breaks off in the middle" if _stops_inside_page(file, size) else None
    elif head[:4] == EBML:
        found = "breaks off in the middle" if _stops_inside_element(file, size) else None
    elif _stops_inside_packet(file, size):
        found = "breaks off in the middle"
    file.seek(0)
    return found


def _riff(file: BinaryIO, size: int) -> str | None:
    """A clause on what is wrong with the chunks of a RIFF file of this size in bytes; None where nothing is."""
    file.seek(8)
    kind, position = file.read(4), 12
    while position + 8 <= size:
        file.seek(position)
        head = file.read(8)
        length = int.from_bytes(head[4:], "little")
        end = position + 8 + length
        if head[:4] == b"data" and 0 < length < UNSTATED_RIFF_SIZE:
            if end - size > MISSING_SHARE * length:
                return f"has {size - position - 8:,} of {length:,} bytes of sound"
            return _behind(file, end + length % 2, size)
        if head[:4] == b"data":
            return None
        position = end + length % 2
    if kind == b"AVI " and position - size > MISSING_SHARE * size:
        return "breaks off in the middle"
    return None


def _behind(file: BinaryIO, position: int, size: int) -> str | None:
    """Check what follows the data chunk: chunks of metadata are usual, a second recording or other bytes are not."""
    while position + 8 <= size:
        file.seek(position)
        head = file.read(8)
        if head[:4] == b"RIFF" or not head[:4].isascii() or not head[:4].strip(b"\0"):
            left = size - position
            return f"has {left:,} bytes behind its end that were not read" if left > MISSING_SHARE * size else None
        position += 8 + int.from_bytes(head[4:], "little")
        position += position % 2
    return None


def _stops_inside_page(file: BinaryIO, size: int) -> bool:
    """Whether an Ogg file of so many bytes ends before its last page does (RFC 3533)."""
    file.seek(max(0, size - OGG_PAGE))
    tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    lengths = page[OGG_HEADER : OGG_HEADER + page[OGG_HEADER - 1]] if len(page) >= OGG_HEADER else b""
    return len(page) < OGG_HEADER + len(lengths) + sum(lengths)


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
            return False  # no element: something was appended to the file
        length_bytes = 9 - head[name_bytes].bit_length() if len(head) > name_bytes else 8
        start = position + name_bytes + length_bytes
        if start > size:
            return True
        unknown = (1 << 7 * length_bytes) - 1
        length = int.from_bytes(head[name_bytes : name_bytes + length_bytes]) & unknown
        inside = head[:4] in (SEGMENT, CLUSTER)  # look inside these: their length is often not stated
        if length == unknown and not inside:
            return False
        position = start if inside else start + length
    return position > size


def _stops_inside_packet(file: BinaryIO, size: int) -> bool:
    """Whether an MPEG transport or programme stream of so many bytes ends before its last packet does (ISO 13818-1).

    A transport stream may also begin inside a packet, and have four bytes before each (.m2ts).
    """
    file.seek(0)
    head = file.read(4 * M2TS_PACKET)
    if head.startswith(PACK):
        return _stops_inside_pes(file, size)
    for length in (TS_PACKET, M2TS_PACKET):
        starts = (i for i in range(length) if head[i : i + 4 * length : length] == TS_SYNC * 4)
        first = next(starts, None)
        if first is not None:
            return (size - first + (length - TS_PACKET)) % length != 0
    return False


def _stops_inside_pes(file: BinaryIO, size: int) -> bool:
    position = 0
    for _ in range(MAX_ELEMENTS):
        file.seek(position)
        head = file.read(14)
        if not head.startswith(b"\0\0\1"):
            return False  # no packet: something was appended to the file
        if len(head) < 6:
            return not head.startswith(PROGRAM_END)
        if head.startswith(PACK):  # of MPEG-2, or of MPEG-1
            position += 14 + (head[-1] & 7 if len(head) == 14 else 0) if head[4] >> 6 == 1 else 12
        elif head.startswith(PROGRAM_END):
            position += 4
        else:
            position += 6 + int.from_bytes(head[4:6])
        if position >= size:
            return position > size
    return False


def ac3_frame_bytes(frame: bytes) -> int:
    """How long an AC-3 or E-AC-3 frame says it is, in bytes; 0 where it says nothing (ETSI TS 102 366, 4.4.1, E.1.2).

    ffmpeg decodes a truncated frame without an error.
    """
    if len(frame) < 6 or frame[:2] != b"\x0bw":
        return 0
    if frame[5] >> 3 > 10:  # E-AC-3
        return 2 * (((frame[2] & 7) << 8 | frame[3]) + 1)
    rate, size = frame[4] >> 6, frame[4] & 63
    if rate == 3 or size // 2 >= len(AC3_KILOBITS):
        return 0
    words = AC3_KILOBITS[size // 2] * 96_000 // AC3_RATES[rate]
    return 2 * (words + (size & 1 if rate == 1 else 0))


def mp3_frame_bytes(frame: bytes, rate: int) -> int:
    """How long an MPEG audio frame of layer III says it is, in bytes; 0 for another layer or a free bit rate.

    ffmpeg decodes a truncated frame without an error. rate: in Hz.
    """
    version, layer = 2 - (frame[1] >> 3 & 1), 4 - (frame[1] >> 1 & 3)
    kilobits = MP3_KILOBITS[version][frame[2] >> 4]
    if layer != 3 or kilobits == 0:
        return 0
    return 144_000 // version * kilobits // rate + (frame[2] >> 1 & 1)


def flac_start(frame: bytes, streaminfo: bytes) -> int:
    """The sample at which a FLAC frame begins, by its header (RFC 9639, 9.1); streaminfo: 34 bytes (8.2)."""
    length = max(1, 8 - (frame[4] ^ 0xFF).bit_length())  # a number written as UTF-8 writes characters
    number = frame[4] & (0x7F if length == 1 else 0x7F >> length)
    for byte in frame[5 : 4 + length]:
        number = number << 6 | byte & 0x3F
    return number if frame[1] & 1 else number * int.from_bytes(streaminfo[:2])


def zero(container: "InputContainer") -> float:
    """Seconds on a container's clock at which its clip begins.

    0 for files (MP4, Matroska, Ogg and the like): sound that starts late starts late in the clip. The first packet for
    broadcasts, and for what starts so late that it was cut out of one.
    """
    import av

    start = (container.start_time or 0) / av.time_base
    files = any(name in container.format.name.split(",") for name in ("mov", "matroska", "ogg"))
    return 0.0 if files and start <= MAX_LATE else start


def stated_end(container: "InputContainer", stream: "AudioStream", start: float) -> float:
    """Where a track ends by what the file states, in seconds of the clip; 0 where it states nothing.

    start: see `zero`. ffmpeg guesses where nothing is stated, from the bit rate or the last packet.
    """
    kind = container.format.name
    # An MP3 states its length next to the encoder's delay, which ffmpeg gives as the start.
    if kind in ("aac", "amr", "ac3", "eac3", *STREAMED[:2]) or (kind == "mp3" and not stream.start_time):
        return 0.0
    if "matroska" in kind:
        return _clock(stream.metadata.get("DURATION", "")) or _container_end(container)
    if stream.duration:
        begun = 0 if kind == "ogg" else stream.start_time or 0  # of Ogg, ffmpeg gives the end as the length
        return float((begun + stream.duration) * stream.time_base) - start
    return _container_end(container)


def reaches(container: "InputContainer", index: int, seconds: float) -> bool:
    """Whether the packets of a stream that are in the file reach beyond some seconds of the container's clock. Nothing
    is decoded; the packets up to there are read."""
    import av

    try:
        for packet in container.demux(container.streams[index]):
            if packet.pts is not None and float((packet.pts + (packet.duration or 0)) * packet.time_base) > seconds:
                return True
    except av.FFmpegError:
        pass
    return False


def _container_end(container: "InputContainer") -> float:
    import av

    alone = len(container.streams) == 1  # beside a picture, the container's length may be the picture's
    return container.duration / av.time_base if container.duration and alone else 0.0


def _clock(text: str) -> float:
    """Seconds of "00:00:06.805000000"; 0 for anything else."""
    try:
        hours, minutes, seconds = map(float, text.split(":"))
    except ValueError:
        return 0.0
    return 3_600 * hours + 60 * minutes + seconds


def unreadable(head: bytes, name: str) -> AudioError:
    """The error for a file that ffmpeg cannot open: its first 12 bytes show whether it is a recording."""
    starts = (b"fLaC", b"OggS", b"ID3", EBML)
    if head.startswith(starts) or head[4:8] == b"ftyp" or head[8:] == b"WAVE":
        return AudioError(f"{name} is damaged or incomplete and cannot be decoded: copy, export or record it again.")
    return AudioError(f"{name} is not a recording that can be read: use {', '.join(FORMATS)}.")

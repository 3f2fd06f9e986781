"""Which tracks and channels a recording has, and how a caller names the ones it wants."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from evoxtral.audio import containers
from evoxtral.audio.reading import Choice, Source, opened
from evoxtral.audio.tracks import channel_names, tags_of
from evoxtral.errors import AudioError

if TYPE_CHECKING:
    from av.audio.stream import AudioStream


@dataclass(frozen=True)
class TrackInfo:
    """What a file states about one of its audio tracks."""

    number: int
    """from 1, as it is chosen by"""
    name: str
    language: str
    """as the file writes it, ISO 639 as a rule; empty where it is not stated"""
    channels: tuple[str, ...]
    rate: int
    """Hz"""
    decodes: bool
    """whether it can be decoded here"""


def listing(source: Source) -> list[TrackInfo]:
    """The audio tracks of a recording by what its file states: nothing is decoded. Raises AudioError."""
    import av

    if isinstance(source, tuple):
        rate, samples = source
        return [TrackInfo(1, "", "", channel_names(1 if samples.ndim == 1 else samples.shape[1]), round(rate), True)]
    with opened(source) as (file, name):
        file = containers.without_tag(file)
        head = file.read(12)
        file.seek(0)
        try:
            with av.open(file, options=containers.OPTIONS, metadata_errors="ignore") as container:
                return [_info(number, stream) for number, stream in enumerate(container.streams.audio, 1)]
        except av.FFmpegError as error:
            raise containers.unreadable(head, name) from error


def _info(number: int, stream: "AudioStream") -> TrackInfo:
    codec = stream.codec_context
    names = channel_names(codec.layout.nb_channels) if codec else ()
    return TrackInfo(number, *tags_of(stream), names, codec.sample_rate if codec else 0, codec is not None)


def chosen(track: str | None, channels: str | None) -> tuple[Choice, Choice]:
    """A track and channels as people write them: a number, "mix" or "each", and nothing for neither.

    Raises AudioError.
    """
    return _number_or(track or None, "track"), _number_or(channels or None, "channels")


def _number_or(text: str | None, option: str) -> Choice:
    if text in (None, "mix", "each"):
        return text
    if not (text.isascii() and text.isdecimal()) or len(text) > 3 or int(text) < 1:
        raise AudioError(f"{option} is mix or each or a number from 1, not {text[:40]!r}.")
    return int(text)

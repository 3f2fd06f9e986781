"""Transcripts of a recording with several tracks or channels: mixed, one of them, or each."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING

from evoxtral import audio
from evoxtral.transcript import Transcript

if TYPE_CHECKING:  # the page joins transcripts before PyTorch is imported
    from evoxtral.inference.engine import Engine
    from evoxtral.inference.sampling import Decoding


def stream(
    engine: "Engine",
    source: audio.Source,
    variants: Sequence[str] | None = None,
    language: str | None = "en",
    max_seconds: float = audio.MAX_SECONDS,
    track: audio.Choice = None,
    channels: audio.Choice = None,
    decoding: "Decoding | None" = None,
    gone: Callable[[], bool] = lambda: False,
    client: Hashable = None,
    first: str | None = None,
) -> Iterator[dict[str, Transcript]]:
    """Partial transcripts of a recording, or of one track or channel of it. Where each is written, one final
    transcript, whose cues name theirs.  first: see `Engine.stream`."""
    read = audio.recordings(source, max_seconds, track, channels)
    if len(read) == 1 and "each" not in (track, channels):
        yield from engine.stream(read[0], variants, language, decoding, gone=gone, client=client, first=first)
        return
    found = [*_of_each(engine, read, variants, language, channels == "each", decoding, gone, client)]
    yield together(found) if track == "each" or len(found) > 1 else found[0]


def transcribe(
    engine: "Engine",
    source: audio.Source,
    variants: Sequence[str] | None = None,
    language: str | None = "en",
    max_seconds: float = audio.MAX_SECONDS,
    track: audio.Choice = None,
    channels: audio.Choice = None,
    strict: bool = False,
    decoding: "Decoding | None" = None,
    gone: Callable[[], bool] = lambda: False,
    client: Hashable = None,
) -> Iterator[dict[str, Transcript]]:
    """The transcripts of a recording; of each track where it is read track by track. See `audio.recordings`.

    Where it is read channel by channel, the cues of all channels of a track are in one transcript, in the order of
    their times, and each has the name of its channel.
    """
    read = audio.recordings(source, max_seconds, track, channels, strict)
    yield from _of_each(engine, read, variants, language, channels == "each", decoding, gone, client)


def _of_each(
    engine: "Engine",
    read: Sequence[audio.Recording],
    variants: Sequence[str] | None,
    language: str | None,
    named: bool,
    decoding: "Decoding | None",
    gone: Callable[[], bool],
    client: Hashable,
) -> Iterator[dict[str, Transcript]]:
    """The transcripts of each track of some recordings.  named: whether a single channel's cues name it, too."""
    for _, group in groupby(read, key=lambda recording: recording.track):
        parts = []
        for one in group:
            *_, last = engine.stream(one, variants, language, decoding, gone=gone, client=client)
            parts.append((one.channel, last))
        if len(parts) == 1 and not named:
            yield parts[0][1]
            continue
        yield {
            name: interleaved({channel: transcripts[name] for channel, transcripts in parts}) for name in parts[0][1]
        }


def together(found: Sequence[Mapping[str, Transcript]]) -> dict[str, Transcript]:
    """The transcripts of each track as one, whose cues name their track, and their channel behind it."""
    by_track = {f"track {next(iter(transcripts.values())).track}": transcripts for transcripts in found}
    return {
        name: replace(interleaved({track: own[name] for track, own in by_track.items()}), track=None)
        for name in found[0]
    }


def interleaved(by_channel: Mapping[str, Transcript]) -> Transcript:
    """Join the transcripts of channels or tracks recorded together: cues by time, each with its channel's name."""
    cues = [
        replace(cue, channel=f"{channel} · {cue.channel}" if cue.channel else channel)
        for channel, transcript in by_channel.items()
        for cue in transcript.cues
        if cue.text
    ]
    first = next(iter(by_channel.values()))
    known = [one.confidence for one in by_channel.values() if one.confidence is not None]
    return replace(
        first,
        cues=tuple(sorted(cues, key=lambda cue: cue.heard)),
        elapsed=sum(one.elapsed for one in by_channel.values()),
        confidence=min(known, default=None),
        channel=", ".join(by_channel),
        hide_below=max(one.hide_below for one in by_channel.values()),
    )

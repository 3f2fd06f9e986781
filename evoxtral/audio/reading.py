"""Read recordings of any kind -> waveforms: (T,) float32, mono, 16 kHz, within [-1, 1].

PyAV (ffmpeg inside a wheel) decodes everything: libsndfile reads neither M4A/AAC nor WebM, and a second reader would
add its own rounding, limits and errors. ffmpeg is kept away from the network and from other files: it is
given an open file, never a name or an address, and may neither take a playlist format nor open anything by itself.

What can be decoded of a damaged or torn file is given, with a sentence on what is missing: `Recording.incomplete`.
"""

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from evoxtral.audio import channels as channel_mix
from evoxtral.audio import containers, tracks
from evoxtral.audio.tracks import SAMPLE_RATE, Track
from evoxtral.errors import AudioError

MAX_SECONDS = 1_800.0  # longest recording accepted unless the caller says otherwise
MAX_MEGABYTES = 64.0  # largest file accepted over a network: MAX_SECONDS of 16-bit WAV at 16 kHz, or hours of MP3
MIN_SOUND = 3e-6  # -110 dBFS, of a track's deviation: the dither of 24 bits is lower, that of 16 bits higher

Source = str | os.PathLike[str] | bytes | bytearray | tuple[int, np.ndarray]
# Of tracks and channels: a number from 1, each, or the mix of those with sound, or with speech. None for both mixes
# tracks and channels, or keeps apart those in which people speak at once most of the time.
Choice = int | Literal["mix", "each"] | None
_APART = "people speak at once in {} {}: each is written by itself"


@dataclass(frozen=True)
class Recording:
    """A waveform (T,) float32 at 16 kHz, with notes on how it was read.

    incomplete: what is missing, as "ends after 12.4 of 30.0 s"; None where nothing is.  notes: what was left out, and
    why.  track, channel: which it is, where one was asked for, or each.
    """

    waveform: np.ndarray
    incomplete: str | None = None
    notes: tuple[str, ...] = ()
    track: str | None = None
    channel: str | None = None

    @property
    def duration(self) -> float:
        """Seconds."""
        return duration(self.waveform)


def load(source: Source, max_seconds: float = MAX_SECONDS) -> np.ndarray:
    """Read a recording as `read` does: its waveform (T,) alone, of all that could be decoded."""
    return read(source, max_seconds).waveform


def read(source: Source, max_seconds: float = MAX_SECONDS, strict: bool = False) -> Recording:
    """Read a recording: the mix of its tracks that hold sound and of their channels that carry speech.

    See `recordings` for the arguments and errors.
    """
    return recordings(source, max_seconds, "mix", "mix", strict)[0]


def recordings(
    source: Source,
    max_seconds: float = MAX_SECONDS,
    track: Choice = None,
    channels: Choice = None,
    strict: bool = False,
) -> list[Recording]:
    """Read a recording: one waveform, or one for each track or channel.

    Args:
        source: the path of a local file (a web address is refused, never fetched); the bytes of a file; or
            `(rate in Hz, samples)` with samples (T,) or (T, C), floats at any scale or integers of 8, 16 or
            32 bits at full scale, signed or not, as Gradio hands them over.
        max_seconds: longest recording accepted; a torn file counts with what is in it. Checked on the stated length
            before anything is decoded, and again while decoding, so that it bounds the memory as well.
        track: a number from 1, "each" for one waveform a track, "mix" for the mix of all with sound.
        channels: a number from 1, "each" for one waveform a channel, "mix" for the mix of those with speech.
            Where both are None they are mixed, unless people speak at once in them most of the time: then there is one
            waveform for each track, or for each channel with speech.
        strict: whether a recording that is incomplete is refused.

    Times count from the container's zero: what is missing before, between or inside packets is silence. A constant
    offset is removed. A waveform whose peak is above 1 is scaled down as a whole, which keeps its shape.

    Raises:
        AudioError: missing, a folder, empty, not audio, without an audio track, without anything that decodes, of
            zero length, too long, with NaN or infinite samples, with an unusable rate, shape or type; where it is
            incomplete and strict; where there is no such track or channel.
    """
    if source is None:
        raise AudioError("There is no recording: record one or choose a file.")
    if isinstance(source, tuple):
        name = "The recording"
        found, notes, cut = [tracks.of_array(source, name, max_seconds)], [], None
        if isinstance(track, int) and track != 1:
            raise AudioError(f"{name} has no track {track}: it has 1.")
    else:
        with opened(source) as (file, name):
            file = containers.without_tag(file)
            cut = containers.cut_off(file)
            found, notes = tracks.of_file(file, name, max_seconds, track if isinstance(track, int) else None)
    if sum(one.samples for one in found) == 0:
        if any(one.incomplete for one in found):
            raise AudioError(f"{name} is damaged or incomplete: nothing of it can be decoded; copy or record it again.")
        raise AudioError(f"{name} has a length of zero: there is no sound in it.")
    found = [one for one in found if one.samples]
    incomplete = _missing(found, cut)
    if strict and incomplete:
        raise AudioError(f"{name} is incomplete: it {incomplete}; copy or record it again.")
    if track in (None, "mix") and channels in (None, "mix"):
        return _together(found, notes, incomplete, automatic=track is channels is None)
    several = track == "each" or len(found) > 1  # where only channels are chosen, those of all tracks are given
    chosen = [one for one in found for one in _channels(one, channels or "mix", name, several=several)]
    return [
        Recording(_scaled(waveform), incomplete, (*notes, *left), label, channel)
        for waveform, left, label, channel in chosen
    ]


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


# ---- tracks and channels to waveforms ----------------------------------------------------------------------


def _together(found: Sequence[Track], notes: Sequence[str], incomplete: str | None, automatic: bool) -> list[Recording]:
    """The mean of all tracks that hold sound; silence only where none does.

    automatic: each track, or each channel with speech of the only one, where a mix could not be understood as people
    speak at once in them.
    """
    kept, notes = [], list(notes)  # tracks with their waveforms
    for track in found:
        measures = channel_mix.measured(track)
        overlap = channel_mix.overlap_of(track, measures)
        if automatic and overlap.spoils_a_mix and len(found) == 1:
            notes += [*channel_mix.left_out(track, measures.counts), _APART.format(len(overlap.which), "channels")]
            return [
                Recording(
                    _scaled(channel_mix.one(track, i, measures)), incomplete, tuple(notes), None, _channel(track, i)
                )
                for i in overlap.which
            ]
        waveform, left = channel_mix.mix(track, measures, overlap)
        if len(found) > 1 and not waveform.std() > MIN_SOUND:
            notes.append(f"track {track.label} is left out: it is silent")
            if kept or track is not found[-1]:
                continue
        kept.append((track, waveform))
        if overlap.told:
            left = [*left, "channels are mixed in which people speak at once; each can be had by itself"]
        prefix = f"track {track.label}: " if len(found) > 1 else ""
        notes += [prefix + sentence for sentence in left]
    if len(kept) == 1:
        return [Recording(_scaled(kept[0][1]), incomplete, tuple(notes))]
    overlap = _overlap([waveform for _, waveform in kept])
    if automatic and overlap.spoils_a_mix:
        notes.append(_APART.format(len(kept), "tracks"))
        return [Recording(_scaled(waveform), incomplete, tuple(notes), track.label) for track, waveform in kept]
    told = ", and people speak at once in them" if overlap.told else ""
    notes.append(f"{len(kept)} tracks are mixed{told}; each can be had by itself")
    gains = dict(zip(overlap.which, overlap.gains, strict=True))
    notes += [channel_mix.raised_by(f"track {kept[i][0].label}", gain) for i, gain in gains.items() if gain > 1]
    total = np.zeros(max(len(waveform) for _, waveform in kept), np.float32)
    while kept:
        waveform = kept.pop()[1]
        total[: len(waveform)] += waveform * np.float32(gains.get(len(kept), 1.0))
    return [Recording(_scaled(total), incomplete, tuple(notes))]


def _overlap(waveforms: Sequence[np.ndarray]) -> channel_mix.Overlap:
    """How much people speak at once in some tracks' waveforms."""
    size = min(max(map(len, waveforms)), channel_mix.MAX_MEASURED * SAMPLE_RATE)
    starts = [waveform[:size] for waveform in waveforms]
    speaking = [i for i, w in enumerate(starts) if channel_mix.speech_scores([w[:, None]])[0] >= channel_mix.MIN_SPEECH]
    if len(speaking) < 2:
        return channel_mix.Overlap()
    both = np.zeros((size, len(waveforms)), np.float32)
    for i in speaking:
        both[: len(starts[i]), i] = starts[i]
    return channel_mix.overlap([both], speaking)


def _channels(
    track: Track, channels: int | str, name: str, several: bool
) -> Iterator[tuple[np.ndarray, Sequence[str], str | None, str | None]]:
    """Waveforms of a track with what was left out, the track's label and the channel's name."""
    if channels == "mix":
        waveform, left = channel_mix.mix(track)
        yield waveform, left, track.label, None
        return
    count = max(piece.shape[1] for piece in track.pieces)
    if channels != "each" and not 1 <= channels <= count:
        raise AudioError(f"{name} has no channel {channels}: it has {count}.")
    for i in range(count) if channels == "each" else [channels - 1]:
        yield channel_mix.one(track, i), (), track.label if several else None, _channel(track, i)


def _channel(track: Track, i: int) -> str:
    return track.channel_names[i] if i < len(track.channel_names) else f"channel {i + 1}"


def _missing(found: Sequence[Track], cut: str | None) -> str | None:
    """One sentence on what is missing of the tracks, or behind what their container shows."""
    for track in found:
        if track.incomplete:
            return track.incomplete if len(found) == 1 else f"{track.incomplete} (track {track.number})"
    return cut


def _scaled(waveform: np.ndarray) -> np.ndarray:
    peak = max(waveform.max(), -waveform.min())
    return waveform / peak if peak > 1 else waveform


# ---- opening -----------------------------------------------------------------------------------------------


@contextmanager
def opened(source: str | os.PathLike[str] | bytes | bytearray) -> Iterator[tuple[BinaryIO, str]]:
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
        if path.is_symlink() and not path.exists():
            raise AudioError(f"{name} is a link to what is not there: copy the recording itself.")
        if not path.is_file():
            raise AudioError(f'There is no file "{str(path)[-200:]}": check the path.')
        if path.stat().st_size == 0:
            raise AudioError(f"{name} is empty (0 bytes): copy or record it again.")
        # Opened by its descriptor a file has no name: ffmpeg would trust the suffix of a name.
        with path.open("rb") as named, open(named.fileno(), "rb", closefd=False) as file:
            yield file, name
    except OSError as error:
        raise AudioError(f"{name} cannot be opened ({error.strerror}): check its permissions.") from error

"""Decoding for the page: clips are read and checked here, and decoded on this machine or on a ZeroGPU device."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import spaces

from evoxtral import audio
from evoxtral.errors import AudioError, EvoxtralError
from evoxtral.inference.multitrack import interleaved
from evoxtral.transcript import Transcript
from evoxtral.ui.model import Model
from evoxtral.ui.zerogpu import GpuTime

# Voxtral's languages; tags were trained in English only.
DETECT = "auto"
LANGUAGES = {
    "English": "en",
    "Detect · tags untested": DETECT,
    "Spanish · tags untested": "es",
    "French · tags untested": "fr",
    "Portuguese · tags untested": "pt",
    "Hindi · tags untested": "hi",
    "German · tags untested": "de",
    "Dutch · tags untested": "nl",
    "Italian · tags untested": "it",
}

ZERO_GPU = spaces.config.Config.zero_gpu

# All buttons and endpoints that decode share one queue. The clips of those who are let in are decoded together; on
# ZeroGPU every request gets its own device.
AT_ONCE = int(os.environ.get("EVOXTRAL_AT_ONCE") or 8)
QUEUEING = {"concurrency_id": "decoding", "concurrency_limit": AT_ONCE}

NO_CLIP = "Record or upload a clip, or pick an example."
CLIP_DELETED = "This clip is no longer on the server, which keeps clips for an hour: record, choose or speak it again."


EVERYTHING = "/"  # the part of a clip that is taken unless another is chosen
MAX_PARTS = 16  # that are listed


def parts_of(clip: str | None) -> dict[str, str]:
    """What can be chosen of a clip: label → part, `track/channels` as `audio.chosen` takes them.

    Tracks where there are several, else channels where there are several. Raises AudioError.
    """
    tracks = [track for track in audio.listing(clip) if track.decodes] if clip else []
    parts = {"Everything": EVERYTHING}
    if len(tracks) > 1:
        for track in tracks[:MAX_PARTS]:
            about = ", ".join(filter(None, (track.name[:40], track.language)))
            parts[f"Track {track.number}{f' ({about})' if about else ''} alone"] = f"{track.number}/mix"
        parts["Each track, by name"] = "each/mix"
    elif tracks and len(tracks[0].channels) > 1:
        for number, name in enumerate(tracks[0].channels[:MAX_PARTS], 1):
            parts[f"{name.capitalize()}{' channel' * (name in ('left', 'right'))} alone"] = f"/{number}"
        parts["Each channel, by name"] = "/each"
    return parts


def _label(recording: audio.Recording) -> str:
    """What the cues of one of several parts are named by."""
    track = f"track {recording.track}" if recording.track else ""
    return ", ".join(filter(None, (track, recording.channel)))


@dataclass(frozen=True)
class Example:
    """A clip that ships with the project, and its tagged reference."""

    label: str
    clip: Path
    reference: str

    @classmethod
    def read(cls, folder: Path) -> "tuple[Example, ...]":
        """Read `examples.json` in a folder: a list of {"label", "file", "text"}. Empty without that file."""
        listing = folder / "examples.json"
        if not listing.is_file():
            return ()
        entries = json.loads(listing.read_text(encoding="utf-8"))
        return tuple(cls(entry["label"], folder / entry["file"], entry["text"]) for entry in entries)


class Decoder:
    """Clips in, partial transcripts out; an `EvoxtralError` for a clip that cannot be used."""

    def __init__(self, model: Model):
        self.model, self.gpu_time = model, GpuTime()

        def decode(
            waveform: np.ndarray, language: str | None, variants: Sequence[str] | None
        ) -> Iterator[dict[str, Transcript] | EvoxtralError]:
            """waveform: (T,) float32 at 16 kHz. On ZeroGPU this runs in another process, from which only the class name
            of an exception arrives: so errors are yielded instead of raised.
            """
            try:
                engine = model.engine()
                first = engine.shown_first(variants)
                yield from engine.stream((audio.SAMPLE_RATE, waveform), variants, language, first=first)
            except EvoxtralError as error:
                yield error

        self._on_host, self._on_gpu = decode, spaces.GPU(duration=self.gpu_seconds)(decode)

    def stream(
        self, clip: str | None, language: str, variants: Sequence[str] | None = None, part: str = EVERYTHING
    ) -> Iterator[dict[str, Transcript]]:
        """Growing transcripts; of several tracks or channels one, whose cues name theirs.

        clip: path of a file.  language: one of LANGUAGES.  variants: None for all.  part: see `parts_of`. Raises
        EvoxtralError.
        """
        if clip is None:
            raise AudioError(NO_CLIP)
        recordings = self.read(clip, variants, part)
        if len(recordings) == 1:
            yield from self._stream(recordings[0], language, variants)
            return
        parts: dict[str, dict[str, Transcript]] = {}
        for number, recording in enumerate(recordings, 1):
            for step in self._stream(recording, language, variants):
                parts[_label(recording)] = step
                joined = {name: interleaved({label: one[name] for label, one in parts.items()}) for name in step}
                last = number == len(recordings)
                yield {name: replace(joined[name], done=last and step[name].done) for name in step}

    def _stream(
        self, recording: audio.Recording, language: str, variants: Sequence[str] | None
    ) -> Iterator[dict[str, Transcript]]:
        waveform, about = recording.waveform, {"incomplete": recording.incomplete, "notes": recording.notes}
        # Silence is not decoded: no GPU is requested.
        decode = self._on_host if audio.is_silent(waveform) else self._on_gpu
        for step in decode(waveform, None if language == DETECT else language, variants):
            if isinstance(step, EvoxtralError):
                raise step
            step = {name: replace(transcript, **about) for name, transcript in step.items()}
            yield step
        self.gpu_time.update(step)

    def last(
        self, clip: str | None, language: str, variants: Sequence[str] | None = None, part: str = EVERYTHING
    ) -> dict[str, Transcript]:
        """The finished transcripts. Arguments as of `stream`."""
        *_, transcripts = self.stream(clip, language, variants, part)
        return transcripts

    def read(self, clip: str, variants: Sequence[str] | None = None, part: str = EVERYTHING) -> list[audio.Recording]:
        """Read a clip, or parts of it, and check that it can be decoded here, before a GPU is requested: a refused clip
        costs no quota. Raises EvoxtralError for an unknown variant, AudioError for the clip."""
        if not Path(clip).is_file():
            raise AudioError(CLIP_DELETED)
        if variants:
            self.model.engine().ordered(variants)
        track, _, channels = part.partition("/")
        recordings = audio.recordings(clip, audio.MAX_SECONDS, *audio.chosen(track, channels))
        if ZERO_GPU:
            self.gpu_time.check(sum(one.duration for one in recordings), self._count(variants))
        return recordings

    def gpu_seconds(self, waveform: np.ndarray, language: str | None, variants: Sequence[str] | None) -> float:
        """Seconds that one clip may hold a ZeroGPU device. Same arguments as `decode`."""
        return self.gpu_time.seconds(audio.duration(waveform), self._count(variants))

    def _count(self, variants: Sequence[str] | None) -> int:
        return len(variants or self.model.engine().variants)

"""How long a request may hold a ZeroGPU device: what its clip needs, and never more than a visitor has.

A visitor without an account has 120 s a day, and the platform counts one and a half times what is asked for.
"""

import threading
from collections.abc import Mapping

from evoxtral.errors import AudioError
from evoxtral.transcript import Transcript

FLOOR, CEILING = 15.0, 80.0  # s
START = 10.0  # s: the weights move to the device, and a step is captured there
SPARE = 1.5  # a clip may be slower than those before it
FIRST_SPEED = 60.0  # seconds of audio of one variant in a second, until requests were measured
WINDOW = 30.0  # s; a shorter clip costs as much, so its speed says nothing of longer ones
WEIGHT = 0.3  # of the newest measurement in the speed


class Pace:
    """What the device needs, learned from the requests so far. Threads may share it."""

    def __init__(self) -> None:
        self.speed = FIRST_SPEED
        self._lock = threading.Lock()

    def seconds(self, clip: float, variants: int) -> float:
        """To ask for, for a clip (seconds) by so many variants."""
        return min(CEILING, max(FLOOR, START + SPARE * max(clip, WINDOW) * variants / self.speed))

    def longest(self, variants: int) -> float:
        """The longest clip (seconds) that fits CEILING."""
        return (CEILING - START) * self.speed / (SPARE * variants)

    def check(self, clip: float, variants: int) -> None:
        """Before a device is asked for. Raises AudioError for a clip that is too long for one visit."""
        longest = self.longest(variants)
        if clip > longest:
            raise AudioError(
                f"This clip lasts {clip / 60:.1f} minutes, and {_counted(variants)} can hear "
                f"{longest / 60:.1f} minutes in the {CEILING:.0f} s that one visit has on the shared GPU: "
                f"send a shorter clip{', or ask for one variant' if variants > 1 else ''}."
            )

    def learn(self, transcripts: Mapping[str, Transcript]) -> None:
        """A clip was decoded. What was silent in it cost nothing and counts for nothing."""
        heard = max(sum(cue.end - cue.start for cue in transcript.cues) for transcript in transcripts.values())
        seconds = max(transcript.seconds for transcript in transcripts.values())
        if heard >= WINDOW:
            with self._lock:
                self.speed += WEIGHT * (heard * len(transcripts) / seconds - self.speed)


def _counted(variants: int) -> str:
    return "one variant" if variants == 1 else f"{variants} variants"

"""How long a request may hold a ZeroGPU device: what its clip needs, and never more than a visitor has.

A visitor without an account has 120 s a day, and the platform counts one and a half times what is asked for.
"""

import math
import threading
from collections.abc import Mapping

from evoxtral.errors import AudioError
from evoxtral.transcript import Transcript

FLOOR, CEILING = 15.0, 80.0  # s
START = 10.0  # s: the weights move to the device, a step is captured there, and after a boot its kernels are compiled
SPARE = 1.5  # a clip may be slower than those before it
WINDOW = 30.0  # s; a shorter clip costs as much, so it says nothing of longer ones
# What a device is expected to need until it was measured: twice what an H100 took (docs/speed.md), for what
# ZeroGPU lends may be slower. A window by a variant is a row.
TOGETHER = 64  # rows decoded at once: a step reads the weights once for all of them
STEPS = 130 * 0.01  # s for the tokens of a window: 4.5 ms each there
ROW = 0.04  # s to encode a window and read its prompt: 20 ms there
WEIGHT = 0.3  # of the newest measurement


class Pace:
    """What the device needs, learned from the requests so far. Threads may share it."""

    def __init__(self) -> None:
        self.slowness = 1.0  # seconds that it took, for each that was expected
        self._lock = threading.Lock()

    def seconds(self, clip: float, variants: int) -> float:
        """To ask for, for a clip (seconds) by so many variants."""
        return min(CEILING, max(FLOOR, self._needed(clip, variants)))

    def longest(self, variants: int) -> float:
        """The longest clip (seconds) that fits CEILING, in whole windows; one window always does."""
        windows = 1
        while self._needed((windows + 1) * WINDOW, variants) <= CEILING:
            windows += 1
        return windows * WINDOW

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
        seconds = max(transcript.elapsed for transcript in transcripts.values())
        if heard >= WINDOW:
            with self._lock:
                self.slowness += WEIGHT * (seconds / _expected(heard, len(transcripts)) - self.slowness)

    def _needed(self, clip: float, variants: int) -> float:
        return START + SPARE * self.slowness * _expected(clip, variants)


def _expected(clip: float, variants: int) -> float:
    rows = math.ceil(clip / WINDOW) * variants
    return math.ceil(rows / TOGETHER) * STEPS + rows * ROW


def _counted(variants: int) -> str:
    return "one variant" if variants == 1 else f"{variants} variants"

"""How long a request may hold a ZeroGPU device: what its clip needs, and never more than a visitor's quota.

A visitor without an account has 120 s a day, and the platform counts one and a half times what is asked for.
"""

import math
import threading
from collections.abc import Mapping

from evoxtral.errors import AudioError
from evoxtral.transcript import Transcript

FLOOR, CEILING = 15.0, 80.0  # s
START = 10.0  # s: the weights move to the device, a step is captured there, and after a boot its kernels are compiled
SPARE = 1.5  # margin: a clip may be slower than those before it
WINDOW = 30.0  # s; a shorter clip costs as much, so it says nothing of longer ones
# Expected durations before anything was measured: twice those of an H100 (docs/speed.md), as the devices of ZeroGPU may
# be slower. One window by one variant is a row.
TOGETHER = 64  # rows decoded at once: a step reads the weights once for all of them
STEPS = 130 * 0.01  # s for the tokens of a window: 4.5 ms each there
ROW = 0.04  # s to encode a window and read its prompt: 20 ms there
WEIGHT = 0.3  # of the newest measurement


class Pace:
    """How long the device needs, learned from earlier requests. Thread-safe."""

    def __init__(self) -> None:
        self.slowness = 1.0  # measured over expected duration
        self._lock = threading.Lock()

    def seconds(self, clip: float, variants: int) -> float:
        """Seconds to request for a clip (seconds) and this number of variants."""
        return min(CEILING, max(FLOOR, self._needed(clip, variants)))

    def longest(self, variants: int) -> float:
        """The longest clip (seconds) that fits CEILING, in whole windows; one window always does."""
        windows = 1
        while self._needed((windows + 1) * WINDOW, variants) <= CEILING:
            windows += 1
        return windows * WINDOW

    def check(self, clip: float, variants: int) -> None:
        """Raises AudioError for a clip that is too long for one request, before a device is requested."""
        longest = self.longest(variants)
        if clip > longest:
            raise AudioError(
                f"This clip lasts {clip / 60:.1f} minutes, and {_counted(variants)} can hear "
                f"{longest / 60:.1f} minutes in the {CEILING:.0f} s that one visit has on the shared GPU: "
                f"send a shorter clip{', or ask for one variant' if variants > 1 else ''}."
            )

    def learn(self, transcripts: Mapping[str, Transcript]) -> None:
        """Update the estimate from the transcripts of a decoded clip. Silence costs nothing and is not counted."""
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

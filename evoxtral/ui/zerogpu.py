"""How long a request may hold a ZeroGPU device: the time its clip needs, within a visitor's quota.

A visitor without an account has 120 s a day, and the platform counts 1.5 times the requested time.
"""

import math
import threading
from collections.abc import Mapping

from evoxtral.errors import AudioError
from evoxtral.transcript import Transcript

MIN_SECONDS, MAX_SECONDS = 15.0, 80.0  # s
STARTUP = 10.0  # s to move the weights to the device, to capture a step, and after a boot to compile kernels
MARGIN = 1.5  # factor: a clip may be slower than those before it
WINDOW = 30.0  # s; a shorter clip takes as long, so it is not used to update the estimate
# Expected durations before the first measurement: twice those of an H100 (docs/speed.md), as ZeroGPU's devices may be
# slower. A row is one window by one variant.
MAX_ROWS = 64  # of one batch
DECODE_BATCH = 130 * 0.01  # s to decode the tokens of one batch; 4.5 ms a token on an H100
ENCODE_ROW = 0.04  # s to encode a window and prefill its prompt; 20 ms on an H100
SMOOTHING = 0.3  # weight of the newest measurement (exponential smoothing)


class GpuTime:
    """The time that the device needs for a clip, estimated from earlier requests. Thread-safe."""

    def __init__(self) -> None:
        self.slowdown = 1.0  # measured divided by expected duration
        self._lock = threading.Lock()

    def seconds(self, clip: float, variants: int) -> float:
        """Seconds to request for a clip (seconds) and this number of variants."""
        return min(MAX_SECONDS, max(MIN_SECONDS, self._needed(clip, variants)))

    def max_clip(self, variants: int) -> float:
        """The longest clip (seconds, in whole windows) that fits MAX_SECONDS; one window is always accepted."""
        windows = 1
        while self._needed((windows + 1) * WINDOW, variants) <= MAX_SECONDS:
            windows += 1
        return windows * WINDOW

    def check(self, clip: float, variants: int) -> None:
        """Raises AudioError for a clip that is too long for one request, before a device is requested."""
        max_clip = self.max_clip(variants)
        if clip > max_clip:
            raise AudioError(
                f"This clip lasts {clip / 60:.1f} minutes, and {_counted(variants)} can hear "
                f"{max_clip / 60:.1f} minutes in the {MAX_SECONDS:.0f} s that one visit has on the shared GPU: "
                f"send a shorter clip{', or ask for one variant' if variants > 1 else ''}."
            )

    def update(self, transcripts: Mapping[str, Transcript]) -> None:
        """Update the estimate from the transcripts of a decoded clip. Silence takes no time and is not counted."""
        heard = max(sum(cue.end - cue.start for cue in transcript.cues) for transcript in transcripts.values())
        seconds = max(transcript.elapsed for transcript in transcripts.values())
        if heard >= WINDOW:
            with self._lock:
                self.slowdown += SMOOTHING * (seconds / _expected(heard, len(transcripts)) - self.slowdown)

    def _needed(self, clip: float, variants: int) -> float:
        return STARTUP + MARGIN * self.slowdown * _expected(clip, variants)


def _expected(clip: float, variants: int) -> float:
    rows = math.ceil(clip / WINDOW) * variants
    return math.ceil(rows / MAX_ROWS) * DECODE_BATCH + rows * ENCODE_ROW


def _counted(variants: int) -> str:
    return "one variant" if variants == 1 else f"{variants} variants"

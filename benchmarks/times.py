"""What the times of words and tags cost: the same clips decoded with and without them, in turns; CPU seconds.

`python benchmarks/times.py [RECORDING …] [-o times.json]`: clip by clip (`Engine.compare`) and as a batch
(`Engine.batch`); without recordings, eight scripts in the embedded voice.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from evoxtral import audio
from evoxtral.inference.engine import Engine
from evoxtral.inference.sampling import Decoding
from evoxtral.model import checkpoints
from evoxtral.speech import speak

SCRIPTS = (
    "[calm] The little walrus closed its eyes [pause] and dreamed of the sea.",
    "[excited] I can't believe you remembered my favourite cake! It starts on Monday morning!",
    "[sad] The shop where I bought my first guitar is closed. [sighs] What a terrible way to end the year.",
    "[clears throat] Alright everyone, let's get started with the budget. We need sixteen more plates on Friday.",
    "[shouts] That is NOT how you hold a saucepan! [laughs] I laughed so hard I missed the last bus.",
    "[frustrated] I've already restarted the telephone four times!",
    "[nervous] Please don't be angry, but I ruined the wheelbarrow. [whispers] The soup is cold.",
    "[gasps] Sorry to bother you, but could I borrow some sugar?",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("recordings", nargs="*", type=Path)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    engine = Engine(checkpoints.resolve(options.model))
    waveforms = [audio.load(path) for path in options.recordings] or [speak(script).waveform for script in SCRIPTS]
    clips = [waveform[: int(engine.window_seconds * audio.SAMPLE_RATE)] for waveform in waveforms]
    ways = {
        "one by one": lambda decoding: [engine.compare((audio.SAMPLE_RATE, clip), decoding=decoding) for clip in clips],
        "batch": lambda decoding: engine.batch(clips, decoding=decoding),
    }
    found = {"model": options.model, "clips": len(clips), "threads": torch.get_num_threads()}
    for name, way in ways.items():
        seconds: dict[bool, list[float]] = {True: [], False: []}
        way(Decoding())
        for repeat in range(options.repeats):
            for times in (True, False) if repeat % 2 else (False, True):  # neither is always first
                begun = time.process_time()
                way(Decoding(times=times))
                seconds[times].append(time.process_time() - begun)
        with_times, without = (statistics.median(seconds[times]) for times in (True, False))
        found[name] = {"with": round(with_times, 3), "without": round(without, 3), "ratio": with_times / without}
        found[name]["ratio"] = round(found[name]["ratio"], 3)
    print(json.dumps(found, indent=1))
    if options.output:
        options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How long it takes to read half an hour of stereo M4A and to divide it into segments, and how much memory.

    python benchmarks/reading.py
    python benchmarks/reading.py --baseline ../older-checkout --repeats 5

Each measurement runs in a process of its own; with --baseline another checkout is measured in turns with this one.
Prints medians (processor seconds, peak memory in MB) and stores them in benchmarks/reading.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "reading.json"
MINUTES = 29.9
RATE = 44_100  # Hz
TEXT = "Please do not tell my sister. I left my keys in the car. [laughs] We have all the time in the world."

# Also run by older checkouts, which know neither levels nor every name: only what all of them have.
MEASURE = """
import resource, sys, time
import torch  # which the model needs in any case, and voice activity detection here
from evoxtral import audio
from evoxtral.speech import speak
started = time.process_time()
waveform = audio.load(sys.argv[1])
if hasattr(audio, "levelled"):
    waveform = audio.levelled(waveform)
count = len(audio.segments(waveform, 30))
print(time.process_time() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, count)
"""


def write_clip(path: str, minutes: float) -> None:
    """Speech in two channels, the second a little late and softer, as AAC in MP4."""
    import av
    import numpy as np
    import soxr

    from evoxtral.audio import SAMPLE_RATE
    from evoxtral.speech import speak

    spoken = soxr.resample(speak(TEXT).waveform, SAMPLE_RATE, RATE).astype(np.float32)
    left = np.resize(np.concatenate([spoken, np.zeros(RATE, np.float32)]), round(minutes * 60 * RATE))
    channels = np.stack([left, 0.8 * np.roll(left, 20)])
    with av.open(path, "w", format="ipod") as container:
        stream = container.add_stream("aac", rate=RATE, layout="stereo")
        for start in range(0, channels.shape[1], 10 * RATE):
            part = np.ascontiguousarray(channels[:, start : start + 10 * RATE])
            frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="stereo")
            frame.rate, frame.pts = RATE, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def measure(checkout: Path, clip: Path) -> tuple[float, float, int]:
    """Processor seconds, peak memory in MB, and segments."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(clip)],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, megabytes, count = done.stdout.split()
    return float(seconds), float(megabytes), int(count)


def main(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--baseline", type=Path, metavar="CHECKOUT", help="another checkout, measured in turns")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args(arguments)
    checkouts = {"here": ROOT} | ({"baseline": args.baseline.resolve()} if args.baseline else {})
    runs: dict[str, list[tuple[float, float, int]]] = {name: [] for name in checkouts}
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.m4a"
        # In a process of its own: a child's peak memory begins with what its parent had at most.
        code = f"from benchmarks.reading import write_clip; write_clip({str(clip)!r}, {args.minutes})"
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
        for _ in range(args.repeats):
            for name, checkout in checkouts.items():
                runs[name].append(measure(checkout, clip))
    found = {"minutes": args.minutes, "repeats": args.repeats}
    for name, rows in runs.items():
        seconds, megabytes, counts = zip(*rows, strict=True)
        medians = round(statistics.median(seconds), 2), round(statistics.median(megabytes))
        found[name] = {"seconds": medians[0], "megabytes": medians[1], "segments": counts[0]}
    if args.baseline:
        found["ratio"] = {
            key: round(found["here"][key] / found["baseline"][key], 2) for key in ("seconds", "megabytes")
        }
    args.results.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))
    return found


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()

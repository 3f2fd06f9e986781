#!/usr/bin/env bash
# PyAV 18.1.0: two seconds of sound that begin at 3 s. `duration` of the container is 5 s in Ogg and WebM (when the sound ends), and
# 2 s in MP4 and MOV (how long it is). FLAC in Ogg loses the start altogether: it begins at 0, and "lasts" 5 s with 2 s of samples.
# Expected by most: `duration` is a length, and the same one in every container.
# So "is this recording complete?" cannot be asked by comparing `duration` with the samples that were decoded.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet av==18.1.0 numpy==2.3.5
"$folder/venv/bin/python" - <<'PY'
import io
import sys
from fractions import Fraction

import av
import numpy as np

RATE, START, SECONDS, SIZE = 48_000, 3, 2, 960


def written(container: str, codec: str) -> io.BytesIO:
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        stream = out.add_stream(codec, rate=RATE, layout="mono")
        for begin in range(0, SECONDS * RATE, SIZE):
            wave = 0.3 * np.sin(0.05 * np.arange(begin, begin + SIZE), dtype=np.float32)
            frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = RATE, Fraction(1, RATE), START * RATE + begin
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    file.seek(0)
    return file


found = {}
for container, codec in (("ogg", "libopus"), ("webm", "libopus"), ("mp4", "aac"), ("mov", "aac"), ("ogg", "flac")):
    with av.open(written(container, codec)) as file:
        frames = list(file.decode(audio=0))
        start = float(frames[0].pts * frames[0].time_base)
        sound = sum(frame.samples for frame in frames) / RATE
        found[container, codec] = round(start, 1), round(sound, 1), round(file.duration / 1e6, 1)
print(f"PyAV {av.__version__}, libavformat {'.'.join(map(str, av.library_versions['libavformat']))}: {START} s to {START + SECONDS} s")
for (container, codec), (start, sound, duration) in found.items():
    print(f"{container:5} {codec:8} first frame at {start} s, {sound} s of samples, duration {duration} s")
ends = all(found[one][2] == 5.0 for one in (("ogg", "libopus"), ("webm", "libopus")))
lengths = all(found[one][2] == 2.0 for one in (("mp4", "aac"), ("mov", "aac")))
sys.exit(not (ends and lengths and found["ogg", "flac"] == (0.0, 2.0, 5.0)))
PY

#!/usr/bin/env bash
# The same compressed sound starts at different places in different containers. An encoder puts samples of its own before the first (AAC 1,024,
# MP3 1,105: 64 and 69 ms at 16 kHz, 23 and 25 ms at 44.1 kHz). PyAV 18.1.0 drops them where the container says how many there are
# (MP4, MP3 with its Xing header), and gives them as sound where it does not: AAC in ADTS, MPEG-TS and FLV, MP3 in AVI. From an MP3 whose samples
# are dropped, the first frame's time is still 0.069 s, not 0.
# Expected by most: decoding what was just encoded gives the sound back in its place, and frame times start where the samples do.
# So labels with times (words, tags) move by 64 ms when a clip goes through such a file; a reader that places sound by frame times
# moves a good MP3 by as much.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet av==18.1.0 numpy==2.3.5
"$folder/venv/bin/python" - <<'PY'
import io
import sys

import av
import numpy as np

RATE = 16_000
BURST = np.hanning(400) * np.random.default_rng(0).standard_normal(400)
SOUND = np.zeros(3 * RATE, np.float32)
SOUND[RATE : RATE + 400] = 0.3 * BURST


def encoded(codec: str, container: str) -> io.BytesIO:
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=RATE)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(SOUND[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = RATE, 0
        resampler = av.AudioResampler(format=stream.format, layout="mono", rate=RATE)
        for part in [*resampler.resample(frame), *resampler.resample(None), None]:
            output.mux(stream.encode(part))
    file.seek(0)
    return file


def delay(file: io.BytesIO) -> tuple[int, float]:
    """Samples by which the burst is late, to 5 ms; the first frame's time in seconds."""
    with av.open(file) as source:
        frames = list(source.decode(audio=0))
    samples = np.concatenate([frame.to_ndarray()[0] for frame in frames]).astype(np.float32)
    power = np.convolve(samples**2, np.ones(400), "same")
    return int(np.argmax(power)) - (RATE + 200), float(frames[0].time)


print(f"PyAV {av.__version__}")
found = {}
for codec, container in (("aac", "mp4"), ("aac", "adts"), ("aac", "mpegts"), ("aac", "flv"), ("libmp3lame", "mp3"), ("libmp3lame", "avi")):
    found[container] = delay(encoded(codec, container))
    late, first = found[container]
    print(f"{codec} in {container}: {late} samples late ({1000 * late / RATE:.0f} ms), first frame's time {first:.4f} s")
in_place = all(abs(found[name][0]) < 80 for name in ("mp4", "mp3"))
late = all(abs(found[name][0] - 1024) < 80 for name in ("adts", "mpegts", "flv")) and abs(found["avi"][0] - 1105) < 80
sys.exit(not (in_place and late and abs(found["mp3"][1] - 0.0690625) < 1e-6))
PY

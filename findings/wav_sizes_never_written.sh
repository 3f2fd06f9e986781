#!/usr/bin/env bash
# A WAV whose sizes were never filled in. Recorders leave 0 there until they stop, so one that died leaves a header of 0 before all of
# its sound: soundfile 0.14.0 reads 0 frames without an error, Python's `wave` refuses it, PyAV 18.1.0 reads everything.
# Programs that write into a pipe leave 0xFFFFFFFF: `wave` then counts 2,147,483,647 frames, soundfile and PyAV the true ones.
# Expected by most: a reader that does not raise has read what is in the file.
# So a recording that "is empty" may hold all of what was said, and a frame count is no length before the samples are read.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet av==18.1.0 soundfile==0.14.0 numpy==2.3.5
"$folder/venv/bin/python" - <<'PY'
import io
import struct
import sys
import wave

import av
import numpy as np
import soundfile

COUNT = 16_000
SAMPLES = (9000 * np.sin(np.arange(COUNT) / 5)).astype("<i2").tobytes()


def written(riff: int, data: int) -> io.BytesIO:
    form = struct.pack("<IHHIIHH", 16, 1, 1, 16_000, 32_000, 2, 16)
    return io.BytesIO(b"RIFF" + struct.pack("<I", riff) + b"WAVEfmt " + form + b"data" + struct.pack("<I", data) + SAMPLES)


def by_wave(file: io.BytesIO) -> str:
    try:
        return f"{wave.open(file).getnframes()} frames"
    except wave.Error as error:
        return f"refused ({error})"


def by_av(file: io.BytesIO) -> str:
    return f"{sum(frame.samples for frame in av.open(file).decode(audio=0))} frames"


def by_soundfile(file: io.BytesIO) -> str:
    return f"{len(soundfile.read(file)[0])} frames"


print(f"soundfile {soundfile.__version__} ({soundfile.__libsndfile_version__}), PyAV {av.__version__}, Python {sys.version.split()[0]}")
found = {}
for name, sizes in (("a recorder that died", (0, 0)), ("written into a pipe", (0xFFFFFFFF, 0xFFFFFFFF))):
    found[name] = [reader(written(*sizes)) for reader in (by_wave, by_soundfile, by_av)]
    print(f"{name}, {COUNT} frames of sound: wave {found[name][0]}; soundfile {found[name][1]}; PyAV {found[name][2]}")
died, piped = found.values()
expected = died[0].startswith("refused") and died[1:] == ["0 frames", "16000 frames"]
sys.exit(not (expected and piped == ["2147483647 frames", "16000 frames", "16000 frames"]))
PY

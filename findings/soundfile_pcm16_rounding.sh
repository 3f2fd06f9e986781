#!/usr/bin/env bash
# soundfile 0.14.0 (libsndfile 1.2.2): the same float samples written with subtype PCM_16 become different integers in WAV and in
# FLAC. WAV rounds down (0.6 of a step becomes 0, -0.4 becomes -1: half a step of constant offset), FLAC to the nearest.
# Expected by most: both round to the nearest, and a lossless container holds what the other one holds.
# So a speech model's features of "the same" clip differ between the two, and integers are best rounded before they are written.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet soundfile==0.14.0 numpy==2.3.5
"$folder/venv/bin/python" - <<'PY'
import io
import sys

import numpy as np
import soundfile

steps = np.array([0.4, 0.6, 1.4, 1.6, -0.4, -0.6, -1.4, -1.6], np.float32)


def written(container: str) -> list[int]:
    file = io.BytesIO()
    soundfile.write(file, steps / 32768, 16_000, format=container, subtype="PCM_16")
    file.seek(0)
    return soundfile.read(file, dtype="int16")[0].tolist()


print(f"soundfile {soundfile.__version__}, {soundfile.__libsndfile_version__}; steps of 16 bits: {steps.tolist()}")
wav, flac = written("WAV"), written("FLAC")
print("WAV ", wav)
print("FLAC", flac)
as_seen = wav == np.floor(steps).tolist() and flac == np.round(steps).tolist()
print("as described" if as_seen else "CHANGED: both may round alike now")
sys.exit(not as_seen)
PY

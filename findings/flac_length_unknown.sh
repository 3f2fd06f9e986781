#!/usr/bin/env bash
# A FLAC whose length was never filled in. An encoder that writes into a pipe cannot go back and leaves 0 for "number of samples unknown", which
# the format allows. soundfile 0.14.0 (libsndfile 1.2.2) then states 9,223,372,036,854,775,807 frames, `read` raises ("array is too
# big"), and reading a given number of frames fails with an error about seeking; `blocks` fails, too. PyAV 18.1.0 reads everything.
# Expected by most: FLAC states its length or is read to its end.
# So `soundfile.info(...).duration` must be compared with something possible before memory or prices are computed from it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet av==18.1.0 soundfile==0.14.0 numpy==2.3.5
"$folder/venv/bin/python" - <<'PY'
import io
import sys

import av
import numpy as np
import soundfile

COUNT = 16_000
written = io.BytesIO()
soundfile.write(written, (0.3 * np.sin(np.arange(COUNT) / 5)).astype(np.float32), 16_000, format="FLAC", subtype="PCM_16")
data = bytearray(written.getvalue())
# STREAMINFO is the first block: 4 bytes "fLaC", 4 of header, 34 of content. Its bits 108 to 143 are the number of samples.
data[4 + 4 + 13] &= 0xF0
data[4 + 4 + 14 : 4 + 4 + 18] = bytes(4)


def tried(what) -> str:
    try:
        return str(what())
    except (ValueError, soundfile.LibsndfileError) as error:
        return f"{type(error).__name__}: {error}"


print(f"soundfile {soundfile.__version__} ({soundfile.__libsndfile_version__}), PyAV {av.__version__}")
frames = soundfile.info(io.BytesIO(data)).frames
whole = tried(lambda: soundfile.read(io.BytesIO(data))[0].shape)
some = tried(lambda: soundfile.SoundFile(io.BytesIO(data)).read(frames=COUNT).shape)
blocks = tried(lambda: sum(len(block) for block in soundfile.blocks(io.BytesIO(data), blocksize=4_000)))
by_av = sum(frame.samples for frame in av.open(io.BytesIO(data)).decode(audio=0))
print(f"{COUNT} frames of sound: info {frames}; read: {whole}; read(frames): {some}; blocks: {blocks}; PyAV: {by_av} frames")
sys.exit(not (frames == 2**63 - 1 and "Error" in whole and "Error" in some and by_av == COUNT))
PY

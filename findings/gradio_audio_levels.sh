#!/usr/bin/env bash
# A waveform that a function gives to `gr.Audio` as (rate, float array) is scaled to full level: gradio 6.31.0 divides floats by their
# peak, so a whisper at -40 dBFS is heard as loud as a shout. The same samples as int16 keep their level; int32 is shifted by 16 bits,
# so that samples of a 16-bit recording held in int32 become silence.
# Expected by most: a float waveform in -1..1 is played as it is.
# So levels that matter (a quiet voice, two clips to compare, clipping) are lost on the page: write a file, or give int16.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet gradio==6.31.0 soundfile==0.14.0 numpy==2.3.5
cd "$folder"
GRADIO_TEMP_DIR="$folder/files" GRADIO_ANALYTICS_ENABLED=False "$folder/venv/bin/python" - <<'PY'
import sys
import warnings

import gradio as gr
import numpy as np
import soundfile

warnings.simplefilter("ignore")
TONE = np.sin(np.arange(16_000) / 5)


def peaks(waveform: np.ndarray) -> list[int]:
    """The largest 16-bit sample of each channel, as the page gets it."""
    file = gr.Audio().postprocess((16_000, waveform))
    samples = soundfile.read(file.path, dtype="int16", always_2d=True)[0]
    return np.abs(samples.astype(int)).max(axis=0).tolist()


print(f"gradio {gr.__version__}, soundfile {soundfile.__version__}")
found = {
    "float32, peak 0.01": peaks((0.01 * TONE).astype(np.float32)),
    "float32, two channels, peaks 0.01 and 0.001": peaks(np.stack([0.01 * TONE, 0.001 * TONE], 1).astype(np.float32)),
    "int16, peak 327": peaks((327 * TONE).astype(np.int16)),
    "int32, peak 327": peaks((327 * TONE).astype(np.int32)),
}
for name, value in found.items():
    print(f"{name}: {value} of 32767")
quiet, two, short, long = found.values()
sys.exit(not (quiet == [32767] and two[0] == 32767 and two[1] < 3300 and short[0] in (326, 327) and long == [0]))
PY

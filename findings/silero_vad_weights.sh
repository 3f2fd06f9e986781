#!/usr/bin/env bash
# silero-vad: the wheel carries its 16 kHz network twice, as a TorchScript graph and as a .safetensors file, and the two
# hold other weights: a network built from the .safetensors gives other probabilities than the package does. And the
# import of the package sets PyTorch's number of threads to one, for the whole process.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "silero-vad==6.2.3" "torch==2.13.0" "safetensors==0.8.0" "numpy==2.3.5"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import load_file

torch.set_num_threads(2)
import silero_vad

threads = torch.get_num_threads()
data = Path(silero_vad.__file__).parent / "data"
graph = torch.jit.load(data / "silero_vad.jit").state_dict()
file = load_file(data / "silero_vad_16k.safetensors")
spectrum = (graph["_model.stft.forward_basis_buffer"] - file["stft_conv.weight"]).abs().max().item()
worst = max(
    (graph[f"_model.encoder.{i}.reparam_conv.weight"] - file[f"conv{i + 1}.weight"]).abs().max().item() for i in range(4)
)
print(f"silero-vad {version('silero-vad')}, torch {torch.__version__}")
print(f"threads set to 2 before the import, {threads} after it")
print(f"short-time spectrum: largest difference {spectrum:g}; convolutions: {worst:.1f}")
raise SystemExit(0 if threads == 1 and spectrum == 0 and worst > 1 else 1)
PYTHON

#!/usr/bin/env bash
# PyTorch's dynamic quantisation (nn.Linear by quantize_dynamic) has one scale for all activations of a call: a row's
# result depends on the other rows of its batch, and a quiet row beside a loud one becomes zero, without a word.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "torch==2.13.0" "numpy==2.3.5"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from torch import nn

torch.manual_seed(0)
linear = nn.Linear(64, 64, bias=False)
dynamic = torch.ao.quantization.quantize_dynamic(nn.Sequential(linear), {nn.Linear}, dtype=torch.qint8)
quiet, loud = torch.randn(1, 64) / 1000, torch.randn(1, 64)
expected = linear(quiet)


def off(y):
    return float((y - expected).norm() / expected.norm())


size = loud.abs().amax(), quiet.abs().amax()
alone, beside = off(dynamic(quiet)), off(dynamic(torch.cat([quiet, loud]))[:1])
scaled = off(dynamic(torch.cat([quiet / size[1], loud / size[0]]))[:1] * size[1])
print(f"torch {torch.__version__}, engine {torch.backends.quantized.engine}: error of a quiet row")
print(f"  alone {alone:.1%}, beside a row a thousand times louder {beside:.1%}, each row divided by its size before {scaled:.1%}")
raise SystemExit(0 if alone < 0.05 and scaled < 0.05 and beside > 0.9 else 1)
PYTHON

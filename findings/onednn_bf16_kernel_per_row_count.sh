#!/usr/bin/env bash
# torch 2.13.0 on a CPU with AVX512: a linear layer in bfloat16 makes oneDNN compile and keep a kernel of about half a megabyte for
# every number of rows and every shape of weights; in float32 (MKL) nothing is kept.
# Expected by most: memory depends on weights and activations, not on how many different batch sizes a process has seen.
# So a server whose batch grows and shrinks by one row gains hundreds of megabytes that no tensor accounts for: pad row counts to a few.
# On a CPU without 16-bit products the path is another one: then this says so and ends with 0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.3.5
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PY'
import sys

import torch
from torch.nn.functional import linear


def resident() -> float:
    """MB"""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) / 1024


def growth(dtype: torch.dtype, rows: range) -> tuple[float, float]:
    """MB that a first and a second pass over numbers of rows add, for eight shapes of weights."""
    weights = [torch.randn(1024 + 16 * number, 512).to(dtype) for number in range(8)]
    inputs, seen = torch.randn(64, 512).to(dtype), []
    linear(inputs[:1], weights[0])
    for _ in range(2):
        before = resident()
        for count in rows:
            for weight in weights:
                linear(inputs[:count], weight)
        seen.append(resident() - before)
    return seen[0], seen[1]


print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}")
if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
    print("oneDNN has no bfloat16 products on this CPU: nothing to see here.")
    sys.exit(0)
rows, found = range(13, 65), {}
for dtype in (torch.float32, torch.bfloat16):
    found[dtype] = growth(dtype, rows)
    first, second = found[dtype]
    print(f"{dtype}: {len(rows)} numbers of rows x 8 shapes: first pass {first:+.0f} MB, second {second:+.0f} MB")
print(f"a kernel: {found[torch.bfloat16][0] / (8 * len(rows)):.2f} MB")
kept = found[torch.bfloat16][0] > 80 and found[torch.bfloat16][1] < 10 and found[torch.float32][0] < 20
sys.exit(not kept)
PY

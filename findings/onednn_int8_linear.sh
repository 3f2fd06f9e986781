#!/usr/bin/env bash
# PyTorch's oneDNN product for 8 bits (onednn::qlinear_prepack and qlinear_pointwise): weights that are not contiguous are
# read as if they were, and the product is wrong without an error; and signed activations are multiplied thousands of
# times slower than unsigned ones (seen on an AMD EPYC with AVX512-VNNI; another CPU may have a kernel for them).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "torch==2.13.0" "numpy==2.3.5"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import time

import torch

torch.set_num_threads(1)
torch.manual_seed(0)


def multiplied(x, zero, packed, outs):
    scales, zeros = torch.ones(outs), torch.zeros(outs, dtype=torch.int64)
    none = "none", [], ""
    return torch.ops.onednn.qlinear_pointwise(x, 1.0, zero, packed, scales, zeros, None, 1.0, 0, torch.float32, *none)


weight = torch.randint(-127, 128, (256, 128), dtype=torch.int8)
strided = weight.t().contiguous().t()
assert torch.equal(weight, strided) and not strided.is_contiguous()
x = torch.randint(0, 256, (5, 128), dtype=torch.uint8)
expected = (x.float() - 128) @ weight.float().t()
found = {}
for name, same in {"contiguous": weight, "other strides": strided}.items():
    y = multiplied(x, 128, torch.ops.onednn.qlinear_prepack(same, None), 256)
    found[name] = float((y - expected).abs().max())
    print(f"torch {torch.__version__}: the same weights, {name}: off by {found[name]:.0f} of {expected.abs().max():.0f}")
wrong = found["contiguous"] == 0 and found["other strides"] > 1000

packed = torch.ops.onednn.qlinear_prepack(torch.randint(-127, 128, (512, 512), dtype=torch.int8), None)
taken = {}
for dtype, zero in ((torch.uint8, 128), (torch.int8, 0)):
    x = torch.randint(0, 100, (3, 512), dtype=dtype)
    multiplied(x, zero, packed, 512)
    begun = time.perf_counter()
    multiplied(x, zero, packed, 512)
    taken[dtype] = time.perf_counter() - begun
    print(f"3 rows of {dtype} by 512 x 512: {1e3 * taken[dtype]:.2f} ms")
slow = taken[torch.int8] > 20 * taken[torch.uint8]
raise SystemExit(0 if wrong and slow else 1)
PYTHON

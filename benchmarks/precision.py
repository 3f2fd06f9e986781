"""float32 against bf16 products of the scale model's shapes, on one core: which one should train here?

    python benchmarks/precision.py

Prints GFLOP/s and stores them in benchmarks/precision.json. `training/loop.py` decides by the same
measurement.
"""

import json
import platform
import re
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F

SHAPES = {"attention": (3000, 256, 256), "MLP": (3000, 256, 704), "vocabulary": (1000, 256, 1320)}
RESULTS = Path(__file__).with_suffix(".json")


def processor() -> str:
    """The processor's name, as the system tells it."""
    path = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.+)", path.read_text()) if path.exists() else None
    return named[1] if named else platform.processor() or platform.machine()


def gflops(m: int, k: int, n: int, dtype: torch.dtype, repeats: int = 50) -> float:
    """Median rate of (m, k) @ (k, n)."""
    a, b = torch.randn(m, k, dtype=dtype), torch.randn(n, k, dtype=dtype)
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        F.linear(a, b)
        seconds.append(time.perf_counter() - begun)
    return 2e-9 * m * k * n / statistics.median(seconds)


def main() -> None:
    torch.set_num_threads(1)
    flags = torch.cpu.get_capabilities()
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    table = {
        name: {key: round(gflops(*shape, dtype)) for key, dtype in dtypes.items()} for name, shape in SHAPES.items()
    }
    for name, row in table.items():
        print(f"{name:12}", *(f"{dtype} {rate} GFLOP/s  " for dtype, rate in row.items()))
    content = {
        "processor": processor(),
        "torch": torch.__version__,
        "avx512_bf16": flags.get("avx512_bf16", False),
        "amx_bf16": flags.get("amx_bf16", False),
        "gflops_per_core": table,
    }
    RESULTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

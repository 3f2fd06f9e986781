"""What a CPU with AVX2 alone would run, on one that has more: each library limited by a variable of its own.

FBGEMM, oneDNN, MKL and PyTorch's own operators each choose their instructions when they are first used. Clocks, caches
and memory are still those of the CPU at hand, so a ratio of two ways says more than a duration.
"""

import os

AVX2 = {
    "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}


def limit(arguments: list[str]) -> str:
    """Limit this process and those that it starts if --avx2 is among its arguments; before PyTorch is imported.

    Gives what to add to the processor's name.
    """
    if "--avx2" not in arguments:
        return ""
    os.environ.update(AVX2)
    return ", limited to AVX2"

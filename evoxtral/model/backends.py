"""Matrix products on a CPU: FBGEMM for float16 weights, oneDNN for float32 and bfloat16; and their precisions."""

import time
from collections.abc import Callable

import torch


def activations(weights: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype of activations (inputs and outputs of a product) for weights of this dtype on this device."""
    return torch.float32 if fbgemm_supports(weights, device) else weights


def fbgemm_supports(weights: torch.dtype, device: torch.device) -> bool:
    """Whether FBGEMM can multiply such weights here: stored in float16, multiplied in float32.

    A CPU without 16-bit instructions then reads half the memory. bfloat16 weights lose next to nothing in float16: it
    holds all their digits from 7.6e-6 upwards, and below that the error is at most 3e-8.
    """
    return weights is torch.float16 and device.type == "cpu" and fbgemm_is_here()


def fbgemm_is_here() -> bool:
    return torch.backends.quantized.engine in ("fbgemm", "x86")


def onednn_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x (…, in), weight (outs, in), plain or prepacked -> (…, outs)."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def onednn_supports(x: torch.Tensor) -> bool:
    """Whether oneDNN can multiply tensors of this dtype and device here."""
    if x.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return x.dtype is torch.float32 or (x.dtype is torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


@torch.inference_mode()
def shortest_duration(call: Callable[[], object]) -> float:
    """The shortest of five runs, in seconds: other load on the machine can only make a run longer.

    By the clock: in processor time, products that are not divided among threads would look faster than they are.
    """
    times = []
    for _ in range(5):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)

"""How a CPU multiplies: FBGEMM for weights in float16, oneDNN for float32 and bfloat16, and which precision is what."""

import time
from collections.abc import Callable

import torch


def activations(weights: torch.dtype, device: torch.device) -> torch.dtype:
    """The precision of what weights of this one are multiplied with, and of what comes out."""
    return torch.float32 if fbgemm_supports(weights, device) else weights


def fbgemm_supports(weights: torch.dtype, device: torch.device) -> bool:
    """Whether FBGEMM multiplies weights like these here: float16 in memory, float32 in the product.

    So a CPU without instructions for 16 bits reads half as much. Weights published in bfloat16 lose nothing: from
    7.6e-6 on float16 has all their digits, and below it is 3e-8 off at most.
    """
    return weights is torch.float16 and device.type == "cpu" and fbgemm_is_here()


def fbgemm_is_here() -> bool:
    return torch.backends.quantized.engine in ("fbgemm", "x86")


def onednn_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x (…, in), weight (outs, in), plain or packed -> (…, outs)."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def onednn_supports(x: torch.Tensor) -> bool:
    """Whether oneDNN multiplies tensors like this one here."""
    if x.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return x.dtype is torch.float32 or (x.dtype is torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


@torch.inference_mode()
def least_seconds(call: Callable[[], object]) -> float:
    """The least of five times: what else runs on the machine only adds to it."""
    times = []
    for _ in range(5):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)

"""Probability of speech over time, by Silero VAD: its published weights, computed for many frames at once.

The package's own front end computes a frame at a time, at 30 times real time on one core, and sets PyTorch's number of
threads when it is imported; here the convolutions of all frames are one product each.
"""

import warnings
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

HOP = 512  # samples (32 ms) of a frame
CONTEXT = 64  # samples before a frame that are read with it
STFT = 256  # samples of a short-time spectrum, with a hop of half of it
ROWS = 16  # waveforms that the recurrence reads together
BLOCK = 256
GRAPH = "data/silero_vad.jit"
CELL = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
CONVOLUTIONS = ((0, 1), (1, 2), (2, 2), (3, 1))  # number, stride


def speech_probabilities(waveform: np.ndarray) -> np.ndarray:
    """Probability of speech in each 32 ms of a waveform (T,) at 16 kHz: (ceil(T / 512),) float32."""
    return of_each([waveform])[0]


def of_each(waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
    """`speech_probabilities` of several waveforms, each from the detector's first state; like lengths together."""
    import torch

    found = [np.zeros(0, np.float32)] * len(waveforms)
    order = sorted((i for i in range(len(waveforms)) if len(waveforms[i])), key=lambda i: len(waveforms[i]))
    weights, recurrence = _network()
    for first in range(0, len(order), ROWS):
        rows = order[first : first + ROWS]
        with torch.inference_mode():
            inputs = [_inputs(waveforms[i], weights) for i in rows]
            padded = torch.nn.utils.rnn.pad_sequence(inputs, batch_first=True)  # behind the end: it is read forwards
            hidden = recurrence(padded)[0].relu()  # (rows, frames, 128)
            logits = hidden @ weights["decoder.decoder.2.weight"].flatten() + weights["decoder.decoder.2.bias"]
            probabilities = logits.sigmoid().numpy()
        for i, own, row in zip(rows, inputs, probabilities, strict=True):
            found[i] = row[: len(own)]
    return found


def _inputs(waveform: np.ndarray, weights: dict) -> "torch.Tensor":
    """What the recurrence reads of a waveform (T,): (ceil(T / 512), 128)."""
    import torch

    frames = -(-len(waveform) // HOP)
    samples = np.pad(waveform, (CONTEXT, frames * HOP - len(waveform))).astype(np.float32, copy=False)
    # (frames, 576): each frame behind the last samples of the one before it
    windows = torch.from_numpy(np.ascontiguousarray(samples)).unfold(0, CONTEXT + HOP, HOP)
    return torch.cat([_features(windows[i : i + BLOCK], weights) for i in range(0, frames, BLOCK)])


def _features(windows: "torch.Tensor", weights: dict) -> "torch.Tensor":
    """What the recurrence reads of frames (N, 576): (N, 128)."""
    import torch
    from torch.nn import functional

    x = functional.pad(windows[:, None], (0, CONTEXT), mode="reflect")
    x = functional.conv1d(x, weights["stft.forward_basis_buffer"], stride=STFT // 2)
    half = x.shape[1] // 2
    x = torch.hypot(x[:, :half], x[:, half:])  # magnitudes
    for number, stride in CONVOLUTIONS:
        weight, bias = (weights[f"encoder.{number}.reparam_conv.{part}"] for part in ("weight", "bias"))
        x = functional.conv1d(x, weight, bias, stride=stride, padding=1).relu()
    return x.squeeze(-1)


@lru_cache(1)
def _network() -> tuple[dict[str, "torch.Tensor"], "torch.nn.LSTM"]:
    """Weights by name, and the recurrence. They are those of the package's graph: the `.safetensors` file that version
    6.2.3 carries beside it holds other ones, of another model."""
    import torch

    # Found without importing the package: its import sets PyTorch's number of threads to one.
    package = find_spec("silero_vad").submodule_search_locations[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit: the graph is read for its weights alone
        graph = torch.jit.load(Path(package) / GRAPH, map_location="cpu")
    tensors, prefix = graph.state_dict(), "_model."  # that for 16 kHz; `_model_8k.` is beside it
    weights = {name.removeprefix(prefix): tensors[name] for name in tensors if name.startswith(prefix)}
    recurrence = torch.nn.LSTM(128, 128, batch_first=True)
    recurrence.load_state_dict({f"{name}_l0": weights[f"decoder.rnn.{name}"] for name in CELL})
    return weights, recurrence.eval().requires_grad_(False)

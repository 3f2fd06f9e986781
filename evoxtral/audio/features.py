"""Whisper's log-mel features, which Voxtral's encoder reads, computed where the model runs."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import WhisperFeatureExtractor

PCM_STEPS = 32768  # levels of 16-bit audio on each side of zero


def log_mel(
    waveforms: Sequence[np.ndarray],
    samples: int,
    extractor: WhisperFeatureExtractor,
    device: str | torch.device = "cpu",
) -> torch.Tensor:
    """Log-mels (S, bands, samples / hop) float32 of S waveforms (T,), each padded with silence to `samples`.

    Everything is computed on `device`. Equal to the processor's own (`WhisperFeatureExtractor`), which gets its audio
    through 16-bit WAV (libsndfile rounds down). Raises ValueError for a waveform that is longer.
    """
    padded = torch.zeros(len(waveforms), samples, device=device)
    for row, waveform in zip(padded, waveforms, strict=True):
        if len(waveform) > samples:
            raise ValueError(f"a waveform of {len(waveform)} samples is longer than the window of {samples}")
        row[: len(waveform)] = torch.from_numpy(waveform)
    padded.mul_(PCM_STEPS).floor_().clamp_(-PCM_STEPS, PCM_STEPS - 1).div_(PCM_STEPS)
    hann = torch.hann_window(extractor.n_fft, device=device)
    spectrum = torch.stft(padded, extractor.n_fft, extractor.hop_length, window=hann, return_complex=True)
    power = spectrum[..., :-1].abs().square()
    bands = torch.from_numpy(extractor.mel_filters).to(device, torch.float32).T @ power
    levels = bands.clamp_(min=1e-10).log10_()
    loudest = levels.amax(dim=(1, 2), keepdim=True)
    return torch.maximum(levels, loudest - 8).add_(4).div_(4)

"""Weights and what computes with them: checkpoints, LoRA, encoder, text model, cache, kernels."""

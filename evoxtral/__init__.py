"""Evoxtral: speech in, expressive transcript out."""

__version__ = "0.1.0"

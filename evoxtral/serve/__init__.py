"""The engine for other programs."""

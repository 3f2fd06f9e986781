"""Corpora: folders, Parquet files and Hub datasets of recordings with their tagged texts."""

"""The pipeline that makes the adapters: data, SFT, RAFT, bench. `python training/run.py`."""

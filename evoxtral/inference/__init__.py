"""From audio to transcripts: prompts, decoding, the engine, tracks and channels, bulk."""

"""From audio to transcripts: prompts, decoding, the engine, bulk."""

"""When each word of a transcript was said, in OpenAI's words."""

from evoxtral.transcript import Transcript


def of(transcript: Transcript) -> list[dict]:
    """OpenAI's `words`: every word with its start and end in seconds; tags, and words of unknown time, are left out."""
    return [
        {"word": word.text, "start": word.start, "end": word.end}
        for word in transcript.words
        if word.kind == "word" and word.start is not None and word.end is not None
    ]

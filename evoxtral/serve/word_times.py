"""When each word of a transcript was said, as far as is known."""

import re

from evoxtral.transcript import Transcript

_WORD = re.compile(r"\S+")


def of(transcript: Transcript) -> list[dict]:
    """OpenAI's `words` of a transcript without tags, in seconds from its start.

    Words have no times of their own yet: those of a segment share what sounds in it by their letters.
    """
    words = []
    for cue in transcript.spoken_cues():
        start, end = cue.heard
        per_character = (end - start) / len(cue.text)
        words += [
            {
                "word": word.group(),
                "start": round(start + word.start() * per_character, 2),
                "end": round(start + word.end() * per_character, 2),
            }
            for word in _WORD.finditer(cue.text)
        ]
    return words

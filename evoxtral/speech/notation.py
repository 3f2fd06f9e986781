"""What is heard of a tagged text, as the symbols that the scale model's encoder is trained to hear."""

import re
from itertools import groupby

from evoxtral import tags
from evoxtral.speech.espeak import Espeak

STRESSED = "^"  # stands before a stressed word among the phonemes
TUNE = "|"  # stands before the mark that ends a clause among the phonemes: each has its own melody
MARKS = ("[", STRESSED, TUNE)  # what no phoneme begins with
_CLAUSE = re.compile(r"([^.,!?]*)([.,!?]?)[.,!?]*")


def phonemes(engine: Espeak, text: str, language: str) -> list[str]:
    """What is heard of a tagged text: phonemes, a mark before each stressed word, one for the melody that ends each
    clause (`!` is not `.`), and each tag in its place.
    """
    out: list[str] = []
    for piece in tags.parse(text):
        if isinstance(piece, tags.Tag):
            out.append(piece.raw)
            continue
        for clause, mark in _CLAUSE.findall(piece.raw):
            for stressed, words in groupby(clause.split(), lambda word: bool(tags.EMPHASIS.search(word))):
                if stressed:
                    out += [symbol for word in words for symbol in (STRESSED, *engine.phonemes(word.lower(), language))]
                else:
                    out += engine.phonemes(" ".join(words), language)
            if mark:
                out.append(TUNE + mark)
    return out

"""WER as papers and leaderboards report it: after the English normaliser that Whisper was published with.

It is transformers' copy (`models/whisper/english_normalizer.py`). The table of British spellings that turns "colour"
into "color" is not part of that package, so spellings stay. Beyond case and punctuation, the normaliser has effects
that surprise: "oh" becomes "0", "one two three" becomes "123", "mhm" disappears. Tags are taken out by this project's
own grammar before, so that none is left in the text and no word is lost with one.
"""

from functools import cache
from typing import TYPE_CHECKING

import jiwer

from evoxtral import tags

if TYPE_CHECKING:
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer


@cache
def _normaliser() -> "EnglishTextNormalizer":
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    return EnglishTextNormalizer({})


def version() -> str:
    """Name and version of the normaliser: results with another one are not comparable."""
    from transformers import __version__

    return f"transformers {__version__}, EnglishTextNormalizer, no table of spellings"


def normalised(text: str) -> str:
    """Tagged text as the normaliser leaves its words."""
    return _normaliser()(tags.plain(text)).strip()


def align(prediction: str, reference: str) -> jiwer.WordOutput:
    """Word errors of two tagged texts after the normaliser."""
    return jiwer.process_words(normalised(reference), normalised(prediction))

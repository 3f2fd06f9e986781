"""WER as papers and leaderboards report it: after the English normaliser that Whisper was published with.

It is transformers' copy (`models/whisper/english_normalizer.py`). The table of British spellings that turns "colour"
into "color" is not part of that package, so spellings stay. Beyond case and punctuation, the normaliser has effects
that surprise: "oh" becomes "0", "one two three" becomes "123", "mhm" disappears. Tags are taken out by this project's
own grammar before, so that none is left in the text and no word is lost with one.
"""

from collections.abc import Callable
from functools import cache
from importlib import metadata, util
from pathlib import Path

import jiwer

from evoxtral import tags


@cache
def _normaliser() -> Callable[[str], str]:
    """From its file alone, which needs the package `regex` only: all of transformers would take a second or more."""
    package = Path(util.find_spec("transformers").origin).parent
    spec = util.spec_from_file_location("whisper_english", package / "models" / "whisper" / "english_normalizer.py")
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.EnglishTextNormalizer({})


def version() -> str:
    """Name and version of the normaliser: results with another one are not comparable. requirements.txt pins it."""
    return f"transformers {metadata.version('transformers')}, EnglishTextNormalizer, no table of spellings"


def normalised(text: str) -> str:
    """Tagged text as the normaliser leaves its words."""
    return _normaliser()(tags.plain(text)).strip()


def align(prediction: str, reference: str) -> jiwer.WordOutput:
    """Word errors of two tagged texts after the normaliser."""
    return jiwer.process_words(normalised(reference), normalised(prediction))

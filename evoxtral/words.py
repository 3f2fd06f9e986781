"""Words and tags of tagged text, one by one, and when each of them sounds.

A word is what stands between white space and tags, punctuation included: `there,`. What has no letter and no digit is
no word. A tag is a tag as `tags.parse` finds it: `[laughs]`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from evoxtral import tags

Kind = Literal["word", "tag"]

# Deliveries of the next word alone; all others reach to the end of their sentence, or to the next delivery.
OF_NEXT_WORD = frozenset({"stammers", "hesitates", "emphasized"})


@dataclass(frozen=True)
class Word:
    """One word or tag.

    A sound or a pause lasts from `start` to `end`. A delivery, such as [whispers], lasts from the first word after it
    to the end of its sentence or to the next delivery.
    """

    text: str
    """as written: a word with its punctuation, a tag with its brackets"""
    start: float | None
    """seconds from the start of the clip; null where no time is known"""
    end: float | None
    """seconds from the start of the clip; null where no time is known"""
    probability: float | None
    """of all of it, 0 to 1; null if a person wrote it"""
    kind: Kind
    """`word` or `tag`"""
    offset: int
    """character offset in `text`"""


def split(text: str) -> Iterator[tuple[int, str, Kind]]:
    """Words and tags in order: character offset, as written, and which it is."""
    offset = 0
    for piece in tags.parse(text):
        if isinstance(piece, tags.Tag):
            yield offset, piece.raw, "tag"
        else:
            begin = 0
            for raw in piece.raw.split():
                begin = piece.raw.index(raw, begin)
                if any(map(str.isalnum, raw)):
                    yield offset + begin, raw, "word"
                begin += len(raw)
        offset += len(piece.raw)


def is_delivery(raw: str) -> bool:
    """Whether a tag, as written, tells how words are said: a feeling or a way of speaking, not a sound or a pause."""
    return tags.category(raw[1:-1]) in ("emotion", "delivery")


def is_of_next_word(raw: str) -> bool:
    """Whether a delivery, as written, is of one word."""
    return tags.group(raw[1:-1]) in OF_NEXT_WORD


def with_extents(words: Sequence[Word]) -> tuple[Word, ...]:
    """The same words, where deliveries with a time end with what they tell of."""
    found: list[Word] = []
    reach: float | None = None  # end of what is said in one go from the next word on
    next_end: float | None = None  # end of the next word
    divided = False  # whether a delivery begins before the next word
    for word in reversed(words):
        if word.kind == "word":
            ends_here = divided or reach is None or tags.ends_sentence(word.text)
            reach, next_end, divided = (word.end if ends_here else reach), word.end, False
        elif word.start is not None and is_delivery(word.text):
            alone = is_of_next_word(word.text)
            end = next_end if alone else reach
            if end is not None:
                word = replace(word, end=max(word.start, end))
            divided = divided or not alone
        found.append(word)
    return tuple(reversed(found))

"""Differences between tagged texts: among variants, and from a reference.

Words are compared in lower case, without punctuation around them, and by whether they are stressed; tags by name and by
where they stand between the words. Two texts are aligned by their longest common subsequence, with rapidfuzz: some
milliseconds for half an hour of speech.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from rapidfuzz.distance import LCSseq, MatchingBlock

from evoxtral import tags

WORD = re.compile(r"\S+")
_AROUND_A_WORD = re.compile(r"^\W+|\W+$")


@dataclass(frozen=True)
class Item:
    """A word or a tag.  text: as written.  start: offset in its text (characters).  key: what it is aligned by."""

    text: str
    start: int
    key: str
    is_tag: bool

    @property
    def stressed(self) -> bool:
        return not self.is_tag and bool(tags.EMPHASIS.search(self.text))

    @property
    def is_expressive(self) -> bool:
        """Whether it is a tag or a stressed word."""
        return self.is_tag or self.stressed


@dataclass(frozen=True)
class Marks:
    """What to highlight in a text.

    differs: offsets of its items that the other texts do not have.  missing: items of the reference that it lacks, by
    the offset of the item they belong in front of (the text's length for its end).
    """

    differs: frozenset[int] = frozenset()
    missing: Mapping[int, tuple[Item, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class TagChange:
    """How the tags of one variant differ from those of another: names in order, with repetitions."""

    before: str
    after: str
    added: tuple[str, ...]
    dropped: tuple[str, ...]


def items(text: str) -> tuple[Item, ...]:
    """The words and tags of a tagged text, in order."""
    found: list[Item] = []
    position = 0
    for piece in tags.parse(text):
        if isinstance(piece, tags.Tag):
            found.append(Item(piece.raw, position, f"[{piece.name}]", True))
        else:
            for word in WORD.finditer(piece.raw):
                key = _AROUND_A_WORD.sub("", word.group()).lower() or word.group()
                found.append(Item(word.group(), position + word.start(), key, False))
        position += len(piece.raw)
    return tuple(found)


def _matched(mine: tuple[Item, ...], other: tuple[Item, ...]) -> frozenset[int]:
    """Offsets of the items of `mine` that are aligned with equal ones of `other`."""
    return frozenset(item.start for block in _align(mine, other) for item in mine[block.a : block.a + block.size])


def _align(a: tuple[Item, ...], b: tuple[Item, ...]) -> list[MatchingBlock]:
    """Matching blocks, in order; the last one is empty, at the ends of both (as in difflib)."""
    return LCSseq.opcodes([item.key for item in a], [item.key for item in b]).as_matching_blocks()


def kept_offsets(before: str, after: str) -> dict[int, int]:
    """The words and tags that an edit kept: offset in `after` → offset in `before`."""
    old, new = items(before), items(after)
    return {new[same.b + i].start: old[same.a + i].start for same in _align(old, new) for i in range(same.size)}


def _stress_differences(mine: tuple[Item, ...], other: tuple[Item, ...]) -> set[int]:
    """Offsets of the words of `mine` that `other` has with different stress."""
    pairs = ((mine[b.a + i], other[b.b + i]) for b in _align(mine, other) for i in range(b.size))
    return {here.start for here, there in pairs if here.stressed != there.stressed}


def mark_differences(texts: Mapping[str, str]) -> dict[str, Marks]:
    """For each variant, its words and tags that some other variant does not have, or has with different stress.

    A variant that writes neither tags nor stress is not compared on them.
    """
    itemised = {name: items(text) for name, text in texts.items()}
    silent = {name for name, mine in itemised.items() if not any(item.is_expressive for item in mine)}
    marks = {}
    for name, mine in itemised.items():
        differs: set[int] = set()
        for other_name, other in itemised.items():
            if other_name != name:
                matched = _matched(mine, other)
                differs |= {i.start for i in mine if i.start not in matched and not (i.is_tag and other_name in silent)}
                if not {name, other_name} & silent:
                    differs |= _stress_differences(mine, other)
        marks[name] = Marks(frozenset(differs))
    return marks


def word_agreement(texts: Mapping[str, str]) -> float:
    """Share of words, 0 to 1, that all variants have in common; for the variant where this share is smallest."""
    marks = mark_differences({name: tags.unstressed(text) for name, text in texts.items()})
    shares = []
    for name, text in texts.items():
        words = [item for item in items(text) if not item.is_tag]
        if words:
            shares.append(sum(word.start not in marks[name].differs for word in words) / len(words))
        elif any(texts.values()):
            shares.append(0.0)
    return min(shares, default=1.0)


def tag_change(before: str, after: str, texts: Mapping[str, str]) -> TagChange:
    """The aligned difference of two variants' tags: those that `after` adds to `before`, and those it drops."""
    old, new = items(texts[before]), items(texts[after])
    kept_of_new, kept_of_old = _matched(new, old), _matched(old, new)
    return TagChange(
        before,
        after,
        added=tuple(item.key[1:-1] for item in new if item.is_tag and item.start not in kept_of_new),
        dropped=tuple(item.key[1:-1] for item in old if item.is_tag and item.start not in kept_of_old),
    )


def mark_against_reference(reference: str, text: str) -> Marks:
    """Items of `text` that the reference does not have (or has with different stress), and items that `text` lacks."""
    wanted, written = items(reference), items(text)
    differs = _stress_differences(written, wanted)
    missing: dict[int, tuple[Item, ...]] = {}
    seen = heard = 0  # indices up to which the reference and the text are aligned
    for same in _align(wanted, written):
        differs |= {item.start for item in written[heard : same.b]}
        if same.a > seen:
            place = written[heard].start if heard < len(written) else len(text)
            missing[place] = wanted[seen : same.a]
        seen, heard = same.a + same.size, same.b + same.size
    return Marks(frozenset(differs), missing)

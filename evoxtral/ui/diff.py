"""Where tagged texts differ: between variants, and from a reference.

Words are compared lower-cased and without the punctuation around them, so a comma is no disagreement, and by
whether they are stressed; tags by their name and by their place between the words. Two texts at a time are aligned
so that as much as possible matches; rapidfuzz does that in milliseconds for half an hour of speech, and for any text
that a visitor pastes.
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
    """A word or a tag as written, where it starts in its text (characters), and what it is aligned by."""

    text: str
    start: int
    key: str
    is_tag: bool

    @property
    def stressed(self) -> bool:
        return not self.is_tag and bool(tags.EMPHASIS.search(self.text))

    @property
    def tells_how(self) -> bool:
        """Whether it marks expression (a tag or a stressed word), not only words."""
        return self.is_tag or self.stressed


@dataclass(frozen=True)
class Marks:
    """What to highlight in a text.

    differs: starts of its items that others lack.  missing: items of a reference that it lacks, by the start
    of the item that they should have stood before (the text's length: at its end).
    """

    differs: frozenset[int] = frozenset()
    missing: Mapping[int, tuple[Item, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """What one variant's tags have over another's: names in order, with repetitions."""

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
    """Starts of the items of `mine` that `other` has in the same place."""
    return frozenset(item.start for block in _align(mine, other) for item in mine[block.a : block.a + block.size])


def _align(a: tuple[Item, ...], b: tuple[Item, ...]) -> list[MatchingBlock]:
    """Matching blocks of both, in order; the last one is empty, at the ends (as in difflib)."""
    return LCSseq.opcodes([item.key for item in a], [item.key for item in b]).as_matching_blocks()


def stayed(before: str, after: str) -> dict[int, int]:
    """Offsets of the words and tags that an edit kept: start in `after` → start in `before`."""
    old, new = items(before), items(after)
    return {new[same.b + i].start: old[same.a + i].start for same in _align(old, new) for i in range(same.size)}


def _otherwise_stressed(mine: tuple[Item, ...], other: tuple[Item, ...]) -> set[int]:
    """Starts of the words of `mine` that `other` has too, stressed where they are not here or the other way round."""
    pairs = ((mine[b.a + i], other[b.b + i]) for b in _align(mine, other) for i in range(b.size))
    return {here.start for here, there in pairs if here.stressed != there.stressed}


def between(texts: Mapping[str, str]) -> dict[str, Marks]:
    """For each of two or more variants, its words and tags that some other variant does not have, or not so stressed.

    A variant that writes neither tags nor stress says nothing about them, so it disagrees with none.
    """
    itemised = {name: items(text) for name, text in texts.items()}
    silent = {name for name, mine in itemised.items() if not any(item.tells_how for item in mine)}
    marks = {}
    for name, mine in itemised.items():
        differs: set[int] = set()
        for other_name, other in itemised.items():
            if other_name != name:
                matched = _matched(mine, other)
                differs |= {i.start for i in mine if i.start not in matched and not (i.is_tag and other_name in silent)}
                if not {name, other_name} & silent:
                    differs |= _otherwise_stressed(mine, other)
        marks[name] = Marks(frozenset(differs))
    return marks


def agreed_share(texts: Mapping[str, str]) -> float:
    """Share of words, 0 to 1, that every variant has: of the variant where it is smallest."""
    marks = between({name: tags.unstressed(text) for name, text in texts.items()})
    shares = []
    for name, text in texts.items():
        words = [item for item in items(text) if not item.is_tag]
        if words:
            shares.append(sum(word.start not in marks[name].differs for word in words) / len(words))
        elif any(texts.values()):
            shares.append(0.0)
    return min(shares, default=1.0)


def tag_change(before: str, after: str, texts: Mapping[str, str]) -> Change:
    """The tags that variant `after` adds to those of `before`, and those it drops, place by place."""
    old, new = items(texts[before]), items(texts[after])
    kept_of_new, kept_of_old = _matched(new, old), _matched(old, new)
    return Change(
        before,
        after,
        added=tuple(item.key[1:-1] for item in new if item.is_tag and item.start not in kept_of_new),
        dropped=tuple(item.key[1:-1] for item in old if item.is_tag and item.start not in kept_of_old),
    )


def against(reference: str, text: str) -> Marks:
    """What in `text` the reference does not have, or not so stressed, and what of the reference is missing in it."""
    wanted, written = items(reference), items(text)
    differs = _otherwise_stressed(written, wanted)
    missing: dict[int, tuple[Item, ...]] = {}
    seen = heard = 0  # of the reference and of the text, up to here
    for same in _align(wanted, written):
        differs |= {item.start for item in written[heard : same.b]}
        if same.a > seen:
            place = written[heard].start if heard < len(written) else len(text)
            missing[place] = wanted[seen : same.a]
        seen, heard = same.a + same.size, same.b + same.size
    return Marks(frozenset(differs), missing)

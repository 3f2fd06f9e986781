"""Which clips are trained on, validated with and tested with: 80 / 10 / 10, seed 42.

No sentence is in two splits, and no recording or speaker where there are enough of them: a score on what was trained
on says nothing.
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

from evoxtral import tags
from training.corpora.reading import Row

SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
SEED = 42
LEAST = 0.5  # of its share that every split must reach, or else speakers, then recordings, are not kept apart
_MARKS = re.compile(r"[^\w\s']")


def sentence(text: str) -> str:
    """What two texts share that say the same: words without tags, case and punctuation."""
    return " ".join(_MARKS.sub(" ", tags.plain(text).lower()).split())


def split(rows: Sequence[Row]) -> tuple[list[Row], str]:
    """The rows, each with its split, and a sentence on how it was chosen. Rows that have one keep it if all have."""
    if all(row.split for row in rows):
        return list(rows), "The splits are the corpus's own."
    asked = [replace(row, split="") for row in rows]
    ignored = " Not every line names its split, so none is used." if any(row.split for row in rows) else ""
    speakers = {row.speaker for row in rows if row.speaker}
    several = len({row.source for row in rows}) < len(rows)  # clips of one recording
    ways = [((_sentence, _recording), "by sentence"), ((_sentence,), "by sentence, within recordings too")]
    if not several:
        ways.pop(0)
        ways[0] = ((_sentence,), "by sentence")
    why = ""
    if speakers:
        ways.insert(0, ((_speaker, _sentence, _recording), f"by sentence and by speaker ({len(speakers)})"))
        why = f" Speakers are in several splits, as {len(speakers)} cannot be divided so."
    found = [(_assigned(asked, *keys), how) for keys, how in ways]
    chosen, how = next((one for one in found if _full_enough(one[0])), found[-1])
    if chosen is found[0][0]:
        why = ""
    return chosen, f"The clips are split 80/10/10 {how}, seed {SEED}.{why}{ignored}"


def _full_enough(rows: Sequence[Row]) -> bool:
    return all(sum(row.split == name for row in rows) >= LEAST * share * len(rows) for name, share in SHARES.items())


def _speaker(row: Row) -> Hashable:
    return ("speaker", row.speaker) if row.speaker else None


def _sentence(row: Row) -> Hashable:
    said = sentence(row.text)
    return ("sentence", said) if said else None


def _recording(row: Row) -> Hashable:
    return ("recording", row.source)


def _assigned(rows: Sequence[Row], *keys: Callable[[Row], Hashable]) -> list[Row]:
    """Rows that share any key are in one split; splits fill up as SHARES say, in an order that the seed shuffles."""
    groups = _connected(rows, keys)
    sizes = Counter(groups)
    order = sorted(sizes)
    random.Random(SEED).shuffle(order)
    order.sort(key=lambda group: -sizes[group])  # the largest first: what is left fits the gaps
    filled, of_group = dict.fromkeys(SHARES, 0), {}
    for group in order:
        name = min(SHARES, key=lambda name: (filled[name] + sizes[group] / 2) / SHARES[name])
        of_group[group] = name
        filled[name] += sizes[group]
    names = list(of_group.values())
    for name in SHARES:  # of a handful of clips the smaller splits would get none
        if name not in names and names.count("train") > 1:
            last = [group for group in order if of_group[group] == "train"][-1]
            of_group[last] = name
            names = list(of_group.values())
    return [replace(row, split=of_group[group]) for row, group in zip(rows, groups, strict=True)]


def _connected(rows: Sequence[Row], keys: Sequence[Callable[[Row], Hashable]]) -> list[int]:
    """For each row the first row that it is connected to: a union-find over the keys."""
    parent = list(range(len(rows)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = index = parent[parent[index]]
        return index

    first: dict[Hashable, int] = {}
    for index, row in enumerate(rows):
        for key in (key(row) for key in keys):
            if key is not None:
                one, other = root(first.setdefault(key, index)), root(index)
                parent[max(one, other)] = min(one, other)
    return [root(index) for index in range(len(rows))]

"""Subtitles that can be read: segments of tagged text divided into cues, and the SRT and WebVTT files of them.

A cue is at most two lines of 42 characters and, where the speech allows, shown for 1 to 7 s at 20 characters a second
or fewer, the limits of common subtitling guidelines (https://bbc.github.io/subtitle-guidelines/). Cues end where
sentences do, else at a clause or a breath. A tag is never split, and stays with the words it belongs to.

Cues begin and end with their words where these have times. In a segment where most have none, they come from its
stretches of sound: characters are spread evenly over what sounds, and ends of sentences and clauses are placed in
pauses near where they are expected.
"""

import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate, pairwise, zip_longest
from typing import NamedTuple, Protocol

from evoxtral.tags import Tag, category, parse
from evoxtral.words import Word, is_delivery, split

MAX_LINE = 42  # characters; a longer tag has a line of its own
MAX_LINES = 2
MIN_SECONDS, MAX_SECONDS = 1.0, 7.0
FLASH = 0.2  # s that a cue has where its words have no time at all; the next one begins later
MAX_RATE = 20.0  # characters a second

Sounds = tuple[tuple[float, float], ...]

SOUND_WEIGHT = 8.0  # characters: a laugh or a sigh lasts about as long as a word or two
_ABBREVIATIONS = frozenset("mr mrs ms dr st prof vs etc no e.g i.e".split())
_SENTENCE_END = re.compile(r"[.!?…。！？]+[\"'”’»)]*$")
_CLAUSE_END = re.compile(r"[,;:–—.!?…，；：、。！？-][\"'”’»)]*$")

# Weights of the search for cue boundaries, by what ends at an atom: the gain for a pause there, and the cost of ending.
_WORTH = {"pause": 1.2, "sentence": 1.0, "clause": 0.6, "sound": 0.6}
_COST = {"pause": 0.0, "sentence": 0.0, "clause": 2.0, "after": 1.0, "sound": 2.0, "word": 6.0, "lead": 20.0}
_PER_SECOND_OFF = 0.35  # what a pause loses in worth for each second that it lies from where it is expected
_WORDLESS = 2.0  # what a cue of tags alone costs
_BREATH = 0.8  # s of silence that should not lie inside a cue


class Spoken(Protocol):
    """What is divided: `text` with tags from `start` to `end`, in seconds; sounds: stretches of it that are not silent,
    () if unknown; channel: who speaks, "" if that is not said; words: its words and tags."""

    start: float
    end: float
    text: str
    sounds: Sounds
    channel: str

    @property
    def words(self) -> tuple[Word, ...]: ...


@dataclass(frozen=True)
class Caption:
    """One cue of a file, `start` to `end` in seconds. channel: who speaks; the first line has room for that."""

    start: float
    end: float
    lines: tuple[str, ...]
    channel: str = ""


class _Atom(NamedTuple):
    """The smallest unit of a cue: a word, a tag, or both where no white space is between them.

    spaced: whether white space comes before it.  weight: how long it lasts, in characters.  ends: what ends with it, a
    key of _COST: "lead" is a tag that tells how what follows is said, "after" a sound behind a sentence.
    """

    text: str
    spaced: bool
    weight: float
    ends: str


def captions(segments: Iterable[Spoken]) -> list[Caption]:
    """The cues of segments, sorted by time; they overlap only where the segments do, and where two channels do."""
    by_channel: dict[str, list[Spoken]] = {}
    for segment in segments:
        by_channel.setdefault(segment.channel, []).append(segment)
    shown = [caption for own in by_channel.values() for caption in _of_one_channel(own)]
    return sorted(shown, key=lambda caption: caption.start)


def _of_one_channel(segments: Iterable[Spoken]) -> list[Caption]:
    found = [
        (caption, segment.end)
        for segment in segments
        for caption in _divided(
            segment.start, segment.end, segment.text, segment.sounds, segment.channel, _known(segment.words)
        )
    ]
    found.sort(key=lambda item: item[0].start)
    shown: list[Caption] = []
    before = pushed = 0.0
    for index, (caption, end) in enumerate(found):
        if pushed > caption.start:
            caption = replace(caption, start=pushed, end=max(pushed, caption.end))
        following = found[index + 1][0].start if index + 1 < len(found) else end
        room = max(following, caption.end)
        wanted = max(MIN_SECONDS, _length(caption) / MAX_RATE)
        end = min(max(caption.end, caption.start + wanted), room, caption.start + MAX_SECONDS)
        start = max(min(caption.start, end - MIN_SECONDS), min(before, caption.start))
        if end - start < FLASH and end - start < caption.end - caption.start + 1e-6 <= FLASH:
            end = pushed = start + FLASH
        shown.append(replace(caption, start=start, end=end))
        before = max(before, end)
    return shown


def to_srt(segments: Iterable[Spoken]) -> str:
    """SubRip subtitles, tags in. (The format knows no escapes.)"""
    return "".join(
        f"{number}\n{_clock(caption.start, ',')} --> {_clock(caption.end, ',')}\n"
        f"{lead(caption.channel)}{chr(10).join(caption.lines)}\n\n"
        for number, caption in enumerate(captions(segments), start=1)
    )


def to_vtt(segments: Iterable[Spoken]) -> str:
    """WebVTT captions, tags in (https://www.w3.org/TR/webvtt1/)."""
    # A channel's name is the voice of its captions.
    # Escaping `<`, `&` and `>` also takes care of `-->`, which may not occur in a caption.
    return "WEBVTT\n\n" + "".join(
        f"{_clock(caption.start, '.')} --> {_clock(caption.end, '.')}\n"
        f"{_voice(caption.channel)}{html.escape(chr(10).join(caption.lines), quote=False)}\n\n"
        for caption in captions(segments)
    )


def lead(channel: str) -> str:
    """What stands before the words of a channel in SRT and TXT: `Left: `; nothing where there is no name."""
    return f"{channel[:1].upper()}{channel[1:]}: " if channel else ""


def _voice(channel: str) -> str:
    name = " ".join(lead(channel)[:-2].split())
    return f"<v {html.escape(name, quote=False)}>" if name else ""


def paragraphs(text: str, most: int) -> list[str]:
    """Tagged text in paragraphs of at most `most` characters, with one space between words; each but the last ends with
    a sentence, if one ends in its second half."""
    found: list[str] = []
    held: list[_Atom] = []
    for atom in _atoms(text):
        if held and len(_joined([*held, atom])) > most:
            cut = len(held)
            for index in range(len(held), 0, -1):
                if held[index - 1].ends == "sentence" and 2 * len(_joined(held[:index])) >= most:
                    cut = index
                    break
            found.append(_joined(held[:cut]))
            held = held[cut:]
        held.append(atom)
    return [*found, _joined(held)] if held else found


# ------------------------------------------------------------------------------------------------- dividing


@lru_cache(1024)  # a page draws the same text again and again
def _divided(
    start: float,
    end: float,
    text: str,
    sounds: Sounds,
    channel: str,
    known: tuple[tuple[float, float] | None, ...],
) -> tuple[Caption, ...]:
    """The cues of one segment by dynamic programming: the division with the lowest cost.  known: times of its words."""
    atoms = _atoms(text)
    if not atoms:
        return ()
    times = _times_of_words(atoms, known, start, end) or _times(atoms, _inside(sounds, start, end))
    search = _Search(atoms, times, end, len(lead(channel)))
    best: list[tuple[float, int]] = [(0.0, 0)]  # of the first atoms: what they cost, and where their last cue begins
    for stop in range(1, len(atoms) + 1):
        ways = []
        for first in range(stop - 1, -1, -1):
            if search.line_break(first, stop) is None and first < stop - 1:
                break
            ways.append((best[first][0] + search.cost(first, stop), first))
        best.append(min(ways))
    cuts = [len(atoms)]
    while cuts[-1]:
        cuts.append(best[cuts[-1]][1])
    return tuple(
        Caption(times[first][0], times[stop - 1][1], search.lines(first, stop), channel)
        for first, stop in pairwise(reversed(cuts))
    )


class _Search:
    """What cues of some atoms cost and how their lines are divided, from sums over the first atoms of the segment.

    end: of the segment, in seconds.  name: characters that later stand before the first line.
    """

    def __init__(self, atoms: Sequence[_Atom], times: Sequence[tuple[float, float]], end: float, name: int):
        self._atoms, self._times, self._name = atoms, times, name
        self._until = [*(begins for begins, _ in times[1:]), max(end, times[-1][1])]  # each may be shown until then
        self._lengths = [0, *accumulate(len(atom.text) + atom.spaced for atom in atoms)]
        self._words = [0, *accumulate(not _is_tag(atom.text) for atom in atoms)]
        gaps = [after[0] - before[1] for before, after in pairwise(times)]
        inside = [
            2.0 * (atom.ends == "sentence") + 3 * max(0.0, min(gap, 3.0) - _BREATH)
            for atom, gap in zip(atoms, gaps, strict=False)
        ]
        self._inside = [0.0, *accumulate(inside)]  # what sentences and breaths inside a cue cost

    def cost(self, first: int, stop: int) -> float:
        """The cost of a cue of atoms[first:stop]; 0.5 for a sentence at a readable rate."""
        begins, ends, until = self._times[first][0], self._times[stop - 1][1], self._until[stop - 1]
        cost = 0.5 + self._inside[stop - 1] - self._inside[first]
        if stop < len(self._atoms):
            cost += max(0.0, _COST[self._atoms[stop - 1].ends] - 4 * (until - ends))
        if ends - begins > MAX_SECONDS:
            cost += 5 + 8 * min(ends - begins - MAX_SECONDS, 5.0)
        cost += 4 * max(0.0, MIN_SECONDS - (until - begins))
        cost += _WORDLESS * (self._words[stop] == self._words[first])
        length = self._lengths[stop] - self._lengths[first]
        return cost + 0.2 * min(max(0.0, length / max(until - begins, 0.1) - MAX_RATE), 20.0)

    def line_break(self, first: int, stop: int) -> int | None:
        """Where the second line of atoms[first:stop] begins: lines are of similar length, divided after a clause where
        possible. `stop` if one line holds all, None if two do not."""
        whole = self._name + self._length(first, stop)
        if whole <= MAX_LINE:
            return stop
        if whole > MAX_LINES * MAX_LINE + 1:
            return None
        ways = []
        for index in range(first + 1, stop):
            upper, lower = self._name + self._length(first, index), self._length(index, stop)
            if upper > MAX_LINE:
                break
            if lower <= MAX_LINE:
                ways.append((abs(upper - lower) + 2 * _COST[self._atoms[index - 1].ends], index))
        return min(ways)[1] if ways else None

    def lines(self, first: int, stop: int) -> tuple[str, ...]:
        """The lines of atoms[first:stop]."""
        cut = self.line_break(first, stop) or stop
        return tuple(_joined(self._atoms[i:j]) for i, j in ((first, cut), (cut, stop)) if i < j)

    def _length(self, first: int, stop: int) -> int:
        """Characters of atoms[first:stop], on one line."""
        return self._lengths[stop] - self._lengths[first] - self._atoms[first].spaced


def _joined(atoms: Sequence[_Atom]) -> str:
    return "".join(" " * atom.spaced + atom.text for atom in atoms).lstrip()


# ----------------------------------------------------------------------------------------------------- text


def _atoms(text: str) -> list[_Atom]:
    atoms: list[_Atom] = []
    groups = _groups(text)
    for parts, following in zip_longest(groups, groups[1:], fillvalue=[""]):
        ends = _ends(parts[-1], following[0], atoms[-1].ends if atoms else "word")
        pieces = ["".join(parts)]
        if len(pieces[0]) > MAX_LINE:  # as of a script without spaces
            pieces = [piece for part in parts for piece in _short(part)]
        weights = [sum(map(_weight, parts))] if len(pieces) == 1 else map(_weight, pieces)
        for index, (piece, weight) in enumerate(zip(pieces, weights, strict=True), start=1):
            atoms.append(_Atom(piece, index == 1, weight, ends if index == len(pieces) else "word"))
    return atoms


def _groups(text: str) -> list[list[str]]:
    """Groups of words and tags that have no white space between them."""
    groups: list[list[str]] = []
    apart = True
    for piece in parse(text):
        words = [" ".join(piece.raw.split())] if isinstance(piece, Tag) else piece.raw.split()
        apart = apart or (not isinstance(piece, Tag) and piece.raw[:1].isspace())
        for word in words:
            if apart:
                groups.append([word])
            else:
                groups[-1].append(word)
            apart = True
        apart = not isinstance(piece, Tag) and piece.raw[-1:].isspace()
    return groups


def _short(part: str) -> list[str]:
    """A tag whole, a word in stretches of a line."""
    return [part] if _is_tag(part) else [part[i : i + MAX_LINE] for i in range(0, len(part), MAX_LINE)]


def _is_tag(part: str) -> bool:
    return isinstance(parse(part)[0], Tag)


def _weight(part: str) -> float:
    """How long a word or tag lasts, in characters."""
    if not _is_tag(part):
        return len(part) + 1.0
    return SOUND_WEIGHT if category(part[1:-1]) in ("non-verbal", "other") else 0.0


def _ends(part: str, following: str, before: str) -> str:
    """What ends with a word or tag: see _Atom. before: what ended with the one before."""
    if _is_tag(part):
        kind = category(part[1:-1])
        if kind == "pause":
            return "pause"
        if kind in ("emotion", "delivery"):
            return "lead"
        return "after" if before in ("sentence", "after") else "sound"
    starts_small = following[:1].islower()  # "So... maybe" is one sentence
    if _SENTENCE_END.search(part) and not starts_small and part.rstrip(".").lower() not in _ABBREVIATIONS:
        return "sentence"
    return "clause" if _CLAUSE_END.search(part) else "word"


# ---------------------------------------------------------------------------------------------------- times


def _inside(sounds: Sounds, start: float, end: float) -> Sounds:
    """The stretches of sound in a segment; all of it where none is known."""
    inside = sorted((max(begin, start), min(stop, end)) for begin, stop in sounds if begin < end and stop > start)
    apart = all(before[1] <= after[0] for before, after in pairwise(inside))
    return tuple(inside) if inside and apart else ((start, end),)


def _known(words: Sequence[Word]) -> tuple[tuple[float, float] | None, ...]:
    """Start and end of each word and tag; of a delivery, which sounds in the words after it, only the start."""
    return tuple(
        None if word.start is None else (word.start, word.start if _leads(word) else word.end) for word in words
    )


def _leads(word: Word) -> bool:
    return word.kind == "tag" and is_delivery(word.text)


def _times_of_words(
    atoms: Sequence[_Atom], known: Sequence[tuple[float, float] | None], start: float, end: float
) -> list[tuple[float, float]]:
    """When each atom begins and ends, by its words; [] where most words have no time."""
    counts = [sum(1 for _ in split(atom.text)) for atom in atoms]
    if not known or sum(counts) != len(known) or 2 * sum(time is not None for time in known) < len(known):
        return []
    coming = iter(known)
    own = [[time for time in (next(coming) for _ in range(count)) if time] for count in counts]
    times: list[tuple[float, float]] = []
    for index, inside in enumerate(own):
        before = times[-1][1] if times else None
        if inside:
            times.append((max(inside[0][0], before or start), max(inside[-1][1], before or start)))
        else:  # from the one before to the next that has a time; what comes first, as a speaker's name, with that
            following = next((later[0][0] for later in own[index + 1 :] if later), end)
            times.append((following if before is None else before, max(before or start, following)))
    return times


def _times(atoms: Sequence[_Atom], sounds: Sounds) -> list[tuple[float, float]]:
    """When each atom begins and ends, in seconds."""
    weights = [atom.weight for atom in atoms]
    if not any(weights):
        weights = [1.0] * len(atoms)
    times: list[tuple[float, float]] = []
    spans = [(0, len(atoms), 0, len(sounds))]
    while spans:  # of atoms and of sounds, the first of them last
        first, stop, low, high = spans.pop()
        anchor = _anchor(atoms, weights, sounds, first, stop, low, high)
        if anchor:
            index, gap = anchor
            spans += [(index, stop, gap, high), (first, index, low, gap)]
        else:
            times += _spread(weights[first:stop], sounds[low:high])
    return times


def _anchor(
    atoms: Sequence[_Atom], weights: Sequence[float], sounds: Sounds, first: int, stop: int, low: int, high: int
) -> tuple[int, int] | None:
    """The most certain pause in atoms[first:stop]: the atom and the sound that begin after it."""
    expected = _shares(weights[first:stop], sum(end - begin for begin, end in sounds[low:high]))
    sounded = [0.0, *accumulate(end - begin for begin, end in sounds[low:high])]
    best, found = 0.05, None
    for index in range(first + 1, stop):
        worth = _WORTH.get(atoms[index - 1].ends, 0.0)
        for gap in range(low + 1, high) if worth else ():
            here = sounded[gap - low]
            off = abs(expected[index - first] - here)
            if off > 0.4 + 0.2 * min(here, sounded[-1] - here):
                continue
            score = worth * min(sounds[gap][0] - sounds[gap - 1][1], 1.0) - _PER_SECOND_OFF * off
            if score > best:
                best, found = score, (index, gap)
    return found


def _spread(weights: Sequence[float], sounds: Sounds) -> list[tuple[float, float]]:
    """Times of atoms that share some sounds evenly; silence between them is passed over."""
    ends = [0.0, *accumulate(end - begin for begin, end in sounds)]
    shares = _shares(weights, ends[-1])
    times = []
    for begin, end in pairwise(shares):
        starts_in = max(k for k in range(len(sounds)) if ends[k] <= begin + 1e-9)
        ends_in = max((k for k in range(len(sounds)) if ends[k] < end - 1e-9), default=0)
        ends_in = max(ends_in, starts_in)
        times.append((sounds[starts_in][0] + begin - ends[starts_in], sounds[ends_in][0] + end - ends[ends_in]))
    return times


def _shares(weights: Sequence[float], total: float) -> list[float]:
    """Where each of some weights begins, and the last ends, in a stretch of length `total`."""
    sums = [0.0, *accumulate(weights)]
    if not sums[-1]:
        sums = list(map(float, range(len(sums))))
    return [total * part / sums[-1] for part in sums]


# ---------------------------------------------------------------------------------------------------- files


def _length(caption: Caption) -> int:
    """Characters to be read."""
    return sum(map(len, caption.lines)) + len(caption.lines) - 1


def _clock(seconds: float, point: str) -> str:
    """`01:02:03,456` for SRT (`point=","`), `01:02:03.456` for VTT."""
    total_seconds, milliseconds = divmod(round(seconds * 1000), 1000)
    total_minutes, seconds_left = divmod(total_seconds, 60)
    hours, minutes = divmod(total_minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds_left:02}{point}{milliseconds:03}"

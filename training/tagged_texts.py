"""Scripts for the voice to speak: unlimited, varied, tagged where a person would put the tags.

A script is one to four sentences. A sentence comes from one of three sources: a *frame* (an everyday situation with
slots, written with the moods that fit it), the *open* grammar (ordinary sentences over the whole lexicon, so that a
model learns words and not templates), or loose *words* (no grammar to guess from: only the sound tells). Train,
validation and test never share a sentence.
"""

import hashlib
import itertools
import random
import re
from dataclasses import asdict, dataclass, replace
from functools import cache

from evoxtral import tags
from training import grammar, lexicon
from training.lexicon import words

SPLITS = ("train", "validation", "test")
TAG_RANGE = {"plain": (0, 0), "light": (1, 2), "moderate": (3, 4), "dense": (5, 8)}
SOUNDS = ("laughs", "sighs", "gasps", "clears throat", "crying", "pause")
DELIVERIES = ("whispers", "shouts", "excited", "sad", "angry", "nervous", "calm", "frustrated", "stammers")
UNSTRESSED = frozenset({"whispers", "frustrated", "stammers"})  # deliveries that hide or imitate stress
_STAR = re.compile(r"\*([^*]+)\*")
_ARTICLE = re.compile(r"\b([Aa])n? (\*?)([A-Za-z]+)")
_STRESSABLE = re.compile(r"[A-Za-z]{3,}")
_PAUSING = re.compile(r"(,|\.\.\.)$")  # a sound may interrupt a sentence after such a word
_BEFORE = frozenset("and but because so that when if while until who which before after".split())  # or before these


@dataclass(frozen=True)
class Sources:
    """Where sentences come from; shares that add up to 1."""

    frames: float = 0.85
    open: float = 0.15
    words: float = 0.0


@dataclass(frozen=True)
class Slices:
    """How densely scripts are tagged; shares that add up to 1. edge: see `_edge`."""

    plain: float = 0.25
    light: float = 0.25
    moderate: float = 0.25
    dense: float = 0.15
    edge: float = 0.10

    def draw(self, rng: random.Random) -> str:
        """The name of a slice."""
        shares = asdict(self)
        return rng.choices(list(shares), list(shares.values()))[0]


@dataclass(frozen=True)
class Script:
    """text: tagged. slice: a field of Slices. domain: of the frames, or "open"."""

    text: str
    slice: str
    domain: str


@dataclass(frozen=True)
class Sentence:
    """words: as spoken. stressable: indices of words that a speaker could stress. moods: tags that fit, maybe none."""

    words: tuple[str, ...]
    stressable: tuple[int, ...]
    moods: tuple[str, ...]

    @property
    def plain(self) -> str:
        return " ".join(self.words)


def split_of(sentence: str) -> str:
    """The split a sentence belongs to, from its own text: the same in every run and every process."""
    bucket = int.from_bytes(hashlib.blake2b(sentence.lower().encode(), digest_size=4).digest(), "big") % 100
    return "test" if bucket < 4 else "validation" if bucket < 6 else "train"


def write(
    rng: random.Random,
    kind: str,
    split: str,
    sources: Sources = Sources(),  # noqa: B008 - frozen
    max_characters: int = 115,
    stress: float = 1.15,
) -> Script:
    """A script of one slice and split. max_characters: of plain text, about, so that a clip fits the model's window.
    stress: words stressed, on average, in a sentence that stresses any and has two that can be; from 1 to 2.
    """
    domain = rng.choice(domains())
    if kind == "edge":
        return Script(_edge(rng, split, domain, sources, stress), kind, domain)
    count = rng.randint(*TAG_RANGE[kind])
    # Many tags take time of their own: leave less of the window to words. And they need more than one sentence.
    room = max(36, max_characters - 9 * max(0, count - 1))
    least = 1 + (count > 4)
    for attempt in itertools.count(1):
        sentences = _sentences(rng, split, domain, sources, rng.choice((1, 1, 2, 2, 3)) + least - 1, room)
        if len(sentences) >= least:
            break
        if attempt % 1000 == 0:  # there may be no two that are short enough
            domain = rng.choice(domains())
    return Script(tagged(rng, sentences, count, stress), kind, domain)


# --- sentences ------------------------------------------------------------------------------------------------------


def _sentences(rng, split, domain, sources, count, room) -> list[Sentence]:
    chosen: list[Sentence] = []
    while len(chosen) < count:
        sentence = sentence_of(rng, split, domain, sources)
        if len(sentence.plain) <= room or not chosen and len(sentence.plain) <= 60:
            chosen.append(sentence)
            room -= len(sentence.plain)
        elif room < 12 and chosen or chosen and rng.random() < 0.1:
            break
    return chosen


def sentence_of(rng: random.Random, split: str, domain: str, sources: Sources) -> Sentence:
    """One sentence of a split."""
    shares = (sources.frames, sources.open, sources.words)
    make = rng.choices((_from_frame, _from_grammar, _from_words), shares)[0]
    while True:
        text, moods, fixed = make(rng, domain)
        # A frame without slots always gives the same sentence: it is for training only.
        if split_of(_STAR.sub(r"\1", text)) == split if not fixed else split == "train":
            return _parse(text, moods)


def _parse(text: str, moods: tuple[str, ...]) -> Sentence:
    """Stars mark the words that may be stressed; of a starred phrase it is the last."""
    text = _STAR.sub(lambda m: " ".join([*m[1].split()[:-1], "*" + m[1].split()[-1]]), text)
    text = _ARTICLE.sub(lambda m: ("A" if m[1] == "A" else "a") + lexicon.article(m[3])[1:] + f" {m[2]}{m[3]}", text)
    text = re.sub(r"[A-Za-z]", lambda m: m[0].upper(), text, count=1)
    tokens = text.split()
    stressable = tuple(
        i for i, token in enumerate(tokens)
        if i and token.startswith("*") and _STRESSABLE.fullmatch(token.strip("*.,!?"))
    )  # fmt: skip
    return Sentence(tuple(token.replace("*", "") for token in tokens), stressable, moods)


@cache
def _frames() -> dict[str, list[tuple[tuple[str, ...], str]]]:
    """domain -> [(moods, frame)]."""
    frames: dict[str, list[tuple[tuple[str, ...], str]]] = {}
    for line in _lines("frames"):
        domain, moods, frame = (part.strip() for part in line.split("|", 2))
        names = tuple(m.strip() for m in moods.split(",") if m.strip() != "neutral")
        frames.setdefault(domain, []).append((names, frame))
    return frames


@cache
def _slots() -> dict[str, tuple[str, ...]]:
    slots = {"name": words("names"), "city": words("cities")}
    for line in _lines("slots"):
        name, values = line.split(":", 1)
        slots[name.strip()] = tuple(v.strip() for v in values.split("|") if v.strip())
    return slots


def _lines(kind: str) -> list[str]:
    text = (lexicon.WORDS / f"{kind}.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


@cache
def domains() -> tuple[str, ...]:
    """The everyday situations that the frames cover."""
    return tuple(_frames())


def _from_frame(rng, domain):
    moods, frame = rng.choice(_frames()[domain])
    text = re.sub(r"\{(\w+)\}", lambda m: rng.choice(_slots()[m[1]]), frame)
    return text, moods, "{" not in frame


def _from_grammar(rng, domain):
    return grammar.sentence(rng), (), False


def _from_words(rng, domain):
    return grammar.loose_words(rng), (), False


def with_pauses(script: Script) -> Script:
    """The script with a [pause] wherever a sentence follows another without a tag between them."""
    tokens = script.text.split(" ")
    text = tokens[0]
    for before, token in itertools.pairwise(tokens):
        bare = tags.ends_sentence(before) and not token.startswith("[")
        text += f" [pause] {token}" if bare else f" {token}"
    return replace(script, text=text)


def pauses(script: Script) -> int:
    """How many a script has."""
    return script.text.count("[pause]")


# --- tags -----------------------------------------------------------------------------------------------------------


def tagged(rng: random.Random, sentences: list[Sentence], count: int, stress: float) -> str:
    """Place `count` tags over the sentences: deliveries and stammers by sentence, sounds between and inside.

    One sentence has room for up to 4 tags, and each further one for 4 more.
    """
    n = len(sentences)
    deliveries = min(n, round(count * rng.uniform(0.4, 0.8)))
    coloured = set(rng.sample(range(n), deliveries))
    gaps: list[list[str]] = [[] for _ in range(n + 1)]  # sounds before sentence i; the last gap is the end
    inside: dict[int, str] = {}
    while deliveries + sum(map(len, gaps)) + len(inside) < count:
        i = rng.randrange(n + 1)
        sound = _mood(rng, sentences[min(i, n - 1)], SOUNDS)
        silent = sound == "pause" and i in (0, n)  # silence at the ends is not heard as a pause
        if rng.random() < 0.8 and not silent:
            if len(gaps[i]) < 2 and sound not in gaps[i]:
                gaps[i].append(sound)
        elif i < n and len(sentences[i].words) > 1:
            inside.setdefault(i, sound)
    stress *= rng.random() < (0.75 if count else 0.2)
    parts: list[str] = []
    previous = None
    for i, sentence in enumerate(sentences):
        delivery = None
        if i in coloured:
            delivery = _mood(rng, sentence, tuple(d for d in DELIVERIES if d != previous))
        previous = delivery
        parts += [f"[{sound}]" for sound in gaps[i]]
        parts.append(_perform(rng, sentence, delivery, inside.get(i), stress))
    return " ".join(parts + [f"[{sound}]" for sound in gaps[n]])


def _mood(rng: random.Random, sentence: Sentence, choices: tuple[str, ...]) -> str:
    """Half of the time what fits the words, else anything: the sound has to be heard, the words may lie."""
    fitting = [m for m in sentence.moods if m in choices]
    return rng.choice(fitting if fitting and rng.random() < 0.5 else choices)


def _perform(rng: random.Random, sentence: Sentence, delivery: str | None, inside: str | None, stress: float) -> str:
    """One sentence as text, with its delivery, a sound inside it and its stressed words, see `write`; 0: none."""
    tokens = list(sentence.words)
    if stress and sentence.stressable and delivery not in UNSTRESSED and rng.random() < 0.85:
        for i in rng.sample(sentence.stressable, 1 if rng.random() < 2 - stress else min(2, len(sentence.stressable))):
            tokens[i] = tokens[i].upper()
    before: dict[int, list[str]] = {0: []}  # tags in front of word i
    if delivery == "stammers":
        before.setdefault(0 if rng.random() < 0.6 else min(rng.randint(1, 3), len(tokens) - 1), []).append(delivery)
    elif delivery:
        before[0].append(delivery)
    if inside:
        breaks = [i for i in range(1, len(tokens)) if _PAUSING.search(tokens[i - 1]) or tokens[i].lower() in _BEFORE]
        place = rng.choice(breaks or range(1, len(tokens)))
        before.setdefault(place, []).insert(0, inside)
    return " ".join(part for i, token in enumerate(tokens) for part in (*(f"[{t}]" for t in before.get(i, ())), token))


def _edge(rng: random.Random, split: str, domain: str, sources: Sources, stress: float) -> str:
    """What breaks careless systems: sounds alone, one word, the same tag twice, stacked tags, all words stressed."""
    kind = rng.randrange(6)
    if kind == 0:
        return " ".join(f"[{s}]" for s in rng.sample(SOUNDS[:-1], rng.randint(1, 2)))
    if kind == 1:
        word = rng.choice(words("interjections"))
        sentence = Sentence((word[0].upper() + word[1:] + rng.choice(".!?"),), (), ())
        return tagged(rng, [sentence], rng.randint(0, 1), stress)
    sentences = _sentences(rng, split, domain, sources, 2, 80)
    if kind == 2:
        sound = rng.choice(SOUNDS)
        first, rest = sentences[0], sentences[1:]
        return " ".join(
            [
                first.plain,
                f"[{sound}]",
                *(s.plain for s in rest),
                f"[{sound if sound != 'pause' else 'sighs'}]",
            ]
        )
    if kind == 3:
        delivery = rng.choice(DELIVERIES)
        return " ".join(_perform(rng, s, delivery, None, 0) for s in sentences)
    if kind == 4:
        stack = rng.sample(SOUNDS[:-1], 2)
        return " ".join([f"[{s}]" for s in stack] + [_perform(rng, sentences[0], rng.choice(DELIVERIES), None, 0)])
    return " ".join(_perform(rng, s, None, None, stress) for s in sentences)

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
from dataclasses import asdict, dataclass
from functools import cache

from training import lexicon
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


# --- the open grammar: ordinary sentence shapes over every word of the lexicon ---------------------------------------

SUBJECTS = ("I", "you", "we", "they", "he", "she", "it")
THIRD = frozenset({"he", "she", "it"})
MODALS = tuple("can can't could couldn't will won't would wouldn't should shouldn't must might may".split())
PREPOSITIONS = tuple(
    "in on under behind near from with without by over into through across along around against inside outside "
    "beside between above below after before for about at to of off toward past".split()
)
JOINTS = (
    "and",
    "but",
    "so",
    "because",
    "when",
    "while",
    "if",
    "until",
    "although",
    "before",
    "after",
    "unless",
)
OPENERS = ("when", "if", "because", "after", "before", "while", "although", "since", "once", "unless")


def _noun(rng: random.Random) -> tuple[str, str]:
    """A noun and its number: singular, plural or mass."""
    kind = rng.choices(("nouns_concrete", "nouns_abstract", "nouns_mass"), (6, 2, 1.5))[0]
    noun = rng.choice(words(kind))
    if kind == "nouns_mass":
        return noun, "mass"
    return (lexicon.plural(noun), "plural") if rng.random() < 0.3 else (noun, "singular")


def _adjective(rng: random.Random) -> str:
    adjective = rng.choice(words("adjectives"))
    graded = rng.choice((lexicon.comparative, lexicon.superlative))(adjective) if rng.random() < 0.1 else None
    return f"*{graded or adjective}*"


DETERMINERS = {
    "singular": "the the the the a a a a this that my your his her our their each every one another".split(),
    "plural": "the the the the these those my your his her our their some many few two three four five six ten".split(),
    "mass": "the the the some some my your his her our their this no much more".split(),
}


def _phrase(rng: random.Random, depth: int = 0) -> tuple[str, bool]:
    """A noun phrase, and whether its verb takes the plural."""
    u = rng.random()
    if u < 0.08:
        return rng.choice(words("names")), False
    noun, number = _noun(rng)
    parts = [rng.choice(DETERMINERS[number])] if rng.random() < 0.9 or number == "singular" else []
    if rng.random() < 0.4:
        parts.append(_adjective(rng))
    if rng.random() < 0.06:
        parts.append(rng.choice(words("nouns_concrete")))
    parts.append(f"*{noun}*" if rng.random() < 0.3 else noun)
    if depth == 0 and rng.random() < 0.12:
        parts += ["of", _phrase(rng, 1)[0]]
    return " ".join(parts), number == "plural"


def _subject(rng: random.Random) -> tuple[str, bool]:
    """A subject, and whether its verb takes the plural form (I and you do, but for be)."""
    if rng.random() < 0.45:
        pronoun = rng.choice(SUBJECTS)
        return pronoun, pronoun not in THIRD
    return _phrase(rng)


def _be(subject: str, plural: bool, past: bool) -> str:
    if subject == "I":
        return "was" if past else "am"
    return ("were" if plural else "was") if past else ("are" if plural else "is")


def _verb(rng: random.Random, subject: str, plural: bool, verb: str) -> str:
    """The verb in some tense, agreeing with its subject."""
    u = rng.random()
    if u < 0.45:
        return lexicon.past(verb)
    if u < 0.62:
        return verb if plural else lexicon.third_person(verb)
    if u < 0.78:
        return f"{rng.choice(MODALS)} {verb}"
    if u < 0.88:
        return f"{_be(subject, plural, rng.random() < 0.6)} {lexicon.gerund(verb)}"
    if u < 0.94:
        return f"{'have' if plural else 'has'} {lexicon.participle(verb)}"
    return f"{rng.choice(['didn’t', 'did not']).replace('’', chr(39))} {verb}"


def _where(rng: random.Random) -> str:
    u = rng.random()
    if u < 0.12:
        return f"in {rng.choice(words('cities'))}"
    if u < 0.2:
        return f"on {rng.choice(words('days_months')[:7])}"
    return f"{rng.choice(PREPOSITIONS)} {_phrase(rng, 1)[0]}"


def _predicate(rng: random.Random, subject: str, plural: bool) -> str:
    u = rng.random()
    if u < 0.5:
        text = f"{_verb(rng, subject, plural, rng.choice(words('verbs_transitive')))} {_phrase(rng)[0]}"
        if rng.random() < 0.35:
            text += f" {_where(rng)}"
    elif u < 0.78:
        text = _verb(rng, subject, plural, rng.choice(words("verbs_intransitive")))
        text += f" {_where(rng)}" if rng.random() < 0.7 else f" *{rng.choice(words('adverbs'))}*"
    else:
        text = f"{_be(subject, plural, rng.random() < 0.5)} {_adjective(rng)}"
        if rng.random() < 0.4:
            text += f" {_where(rng)}"
    return text


def _clause(rng: random.Random) -> str:
    subject, plural = _subject(rng)
    adverb = f"*{rng.choice(words('adverbs'))}* " if rng.random() < 0.08 else ""
    return f"{subject} {adverb}{_predicate(rng, subject, plural)}"


def _question(rng: random.Random) -> str:
    subject, plural = _subject(rng)
    verb = rng.choice(words("verbs_transitive"))
    opener = rng.choice(("", "", "where ", "why ", "when ", "how "))
    auxiliary = rng.choice(("did", "will", "can", "should", "could", "do" if plural else "does"))
    return f"{opener}{auxiliary} {subject} {verb} {_phrase(rng)[0]}?"


def _command(rng: random.Random) -> str:
    negation = rng.choice(("", "", "don't ", "please ", "let's "))
    where = f" {_where(rng)}" if rng.random() < 0.5 else ""
    return f"{negation}{rng.choice(words('verbs_transitive'))} {_phrase(rng)[0]}{where}"


def _there(rng: random.Random) -> str:
    phrase, plural = _phrase(rng)
    return f"there {_be('', plural, rng.random() < 0.5)} {phrase} {_where(rng)}"


def _joined(rng: random.Random) -> str:
    if rng.random() < 0.5:
        return f"{rng.choice(OPENERS)} {_clause(rng)}, {_clause(rng)}"
    return f"{_clause(rng)} {rng.choice(JOINTS)} {_clause(rng)}"


def _from_grammar(rng, domain):
    make = rng.choices((_clause, _question, _command, _there, _joined), (52, 12, 12, 8, 16))[0]
    text = make(rng)
    if rng.random() < 0.06:
        text = f"{rng.choice(words('interjections'))}, {text}"
    return text if text.endswith("?") else text + rng.choice("....!"), (), False


def _any_word(rng: random.Random) -> str:
    """Any surface form of the lexicon; function words more often, as in speech."""
    u = rng.random()
    if u < 0.25:
        return rng.choice(words(rng.choice(("functions", "prepositions", "pronouns", "determiners", "numbers"))))
    if u < 0.6:
        return _noun(rng)[0]
    if u < 0.8:
        verb = rng.choice(words(rng.choice(("verbs_transitive", "verbs_intransitive"))))
        inflect = rng.choice((str, lexicon.third_person, lexicon.past, lexicon.gerund))
        return inflect(verb)
    if u < 0.93:
        return _adjective(rng)
    return rng.choice(words(rng.choice(("adverbs", "names", "cities", "interjections"))))


def _from_words(rng, domain):
    return " ".join(_any_word(rng) for _ in range(rng.randint(2, 8))) + ".", (), False


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

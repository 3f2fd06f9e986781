"""The words of the speech-training text generator and the inflections the grammar needs.

The lists lie in `words/*.txt`: words separated by white space; lines that start with `#` are comments.
`verbs_irregular` (base past participle) and `plurals_irregular` (singular plural) are tables: a line is one
entry and its first column is the base form. Lists load on first use and are kept.
"""

import re
from functools import cache
from pathlib import Path

WORDS = Path(__file__).with_name("words")
# Named here because the folder also holds files that are not lists of words (sentence frames and slots).
KINDS = (
    "adjectives adjectives_graded adjectives_predicative adverbs cities conjunctions days_months determiners "
    "functions interjections names nouns_abstract nouns_concrete nouns_mass numbers plurals_irregular "
    "prepositions pronouns verbs_intransitive verbs_irregular verbs_transitive words_double"
).split()
TABLES = frozenset({"verbs_irregular", "plurals_irregular"})

# The only verbs whose third person is not the base with -s or -es.
_THIRD = {"be": "is", "have": "has"}
# Nouns in -ch that are said with a k take a plain -s.
_HARD_CH = frozenset("stomach monarch epoch patriarch matriarch tech loch".split())
# Nouns in consonant + o that take -es; the newer and borrowed ones (piano, photo) take -s.
_O_ES = frozenset("potato tomato hero echo veto torpedo mosquito tornado volcano domino mango".split())
_COMPARED = {
    "good": ("better", "best"),
    "bad": ("worse", "worst"),
    "far": ("farther", "farthest"),
    "late": ("later", "latest"),
    # dry turns to drier, these keep their y
    "shy": ("shyer", "shyest"),
    "sly": ("slyer", "slyest"),
    "wry": ("wryer", "wryest"),
}
# Written with a silent h, so the word opens with a vowel.
_SILENT_H = re.compile(r"(hour|honest|honor|heir)")
# Spelled with a vowel but said with "y" or "w": university, useful, Europe, one. Where un- is a prefix
# (unimportant, uninvited, unidentified) the vowel is a real one.
_SAID_AS_CONSONANT = re.compile(r"(uni(?!n|mp|d|mag)|unanim|us[aeu]|ut[ei]|ur[ai]n|uk|ubiq|e[uw]|on(c?e)\b)")


@cache
def _rows(kind: str) -> tuple[tuple[str, ...], ...]:
    """The lines of a list, split into words, without comments and empty lines."""
    lines = (WORDS / f"{kind}.txt").read_text(encoding="utf-8").splitlines()
    return tuple(tuple(line.split()) for line in lines if line.strip() and not line.startswith("#"))


@cache
def kinds() -> tuple[str, ...]:
    """The names of the word lists that exist, sorted."""
    return tuple(kind for kind in KINDS if (WORDS / f"{kind}.txt").exists())


@cache
def words(kind: str) -> tuple[str, ...]:
    """The words of one list in file order; of a table, its base forms."""
    if kind in TABLES:
        return tuple(row[0] for row in _rows(kind))
    return tuple(word for row in _rows(kind) for word in row)


@cache
def _table(kind: str) -> dict[str, tuple[str, ...]]:
    """A table as base form -> the other columns."""
    return {row[0]: row[1:] for row in _rows(kind)}


@cache
def _set(kind: str) -> frozenset[str]:
    """The words of one list, for quick membership."""
    return frozenset(words(kind))


def _with_s(word: str) -> str:
    """The spelling both the plural and the third person share: cups, boxes, cities."""
    if re.search(r"(s|x|sh|ch|zz|tz)$", word):
        return word + "es"
    if word.endswith("iz"):  # quiz, whiz
        return word + "zes"
    if re.search(r"([^aeiou]|qu)y$", word):
        return word[:-1] + "ies"
    return word + "s"


def _with_vowel(word: str, ending: str, doubles: bool) -> str:
    """Add -ed, -er or -est: the final e is shared, y after a consonant turns to i, the end may double."""
    if word.endswith("e"):
        return word + ending[1:]
    if re.search(r"[^aeiou]y$", word):
        return word[:-1] + "i" + ending
    if word.endswith("c"):  # frolic, panic: the k keeps the sound hard
        return word + "k" + ending
    return word + (word[-1] if doubles else "") + ending


def plural(noun: str) -> str:
    """Plural of a countable noun: cup -> cups, box -> boxes, child -> children."""
    if noun in _table("plurals_irregular"):
        return _table("plurals_irregular")[noun][0]
    if noun in _HARD_CH:
        return noun + "s"
    return noun + "es" if noun in _O_ES else _with_s(noun)


def third_person(verb: str) -> str:
    """Third person singular of the present: walk -> walks, go -> goes, carry -> carries."""
    if verb in _THIRD:
        return _THIRD[verb]
    # do, go, undo, echo take -es; boo, moo and the like do not.
    return verb + "es" if re.search(r"[^aeiou]o$", verb) else _with_s(verb)


def past(verb: str) -> str:
    """Simple past: walk -> walked, stop -> stopped, go -> went."""
    if verb in _table("verbs_irregular"):
        return _table("verbs_irregular")[verb][0]
    return _with_vowel(verb, "ed", verb in _set("words_double"))


def participle(verb: str) -> str:
    """Past participle: walk -> walked, go -> gone."""
    if verb in _table("verbs_irregular"):
        return _table("verbs_irregular")[verb][1]
    return past(verb)


def gerund(verb: str) -> str:
    """The -ing form: walk -> walking, make -> making, lie -> lying, run -> running, see -> seeing."""
    if verb.endswith("ie"):
        return verb[:-2] + "ying"
    # The e stays where dropping it would change the sound: see, dye, tiptoe, be.
    if verb.endswith("e") and verb != "be" and not re.search(r"[eoy]e$", verb):
        return verb[:-1] + "ing"
    if verb.endswith("c"):
        return verb + "king"
    return verb + (verb[-1] if verb in _set("words_double") else "") + "ing"


def _compared(adjective: str, degree: int) -> str | None:
    if adjective in _COMPARED:
        return _COMPARED[adjective][degree]
    # Which adjectives take -er is usage, not spelling ("deader", "loyaler"), so a list says it.
    if adjective not in _set("adjectives_graded"):
        return None
    # big, thin, flat double; a w, x or y never does, nor does a consonant after two vowels (cool, quiet).
    doubles = re.search(r"(^|[^aeiou])[aeiou][bdglmnpt]$", adjective) is not None
    return _with_vowel(adjective, ("er", "est")[degree], doubles)


def comparative(adjective: str) -> str | None:
    """The -er form of a short adjective (big -> bigger, good -> better); None where it takes "more"."""
    return _compared(adjective, 0)


def superlative(adjective: str) -> str | None:
    """The -est form of a short adjective (big -> biggest, good -> best); None where it takes "most"."""
    return _compared(adjective, 1)


def article(word: str) -> str:
    """The indefinite article by sound, "a" or "an": an hour, a university, an apple, a one-way street."""
    word = word.lower()
    if _SILENT_H.match(word):
        return "an"
    return "an" if word[:1] in set("aeiou") and not _SAID_AS_CONSONANT.match(word) else "a"


@cache
def vocabulary() -> frozenset[str]:
    """Every surface form, lower-case: all lists with all inflections."""
    forms = {word for kind in kinds() for row in _rows(kind) for word in row}
    verbs = {verb for kind in ("verbs_transitive", "verbs_intransitive") for verb in words(kind)}
    forms |= {inflect(verb) for verb in verbs for inflect in (third_person, past, participle, gerund)}
    for kind in ("nouns_concrete", "nouns_abstract"):
        if kind in kinds():
            forms |= {plural(noun) for noun in words(kind)}
    for kind in ("adjectives", "adjectives_predicative"):
        for adjective in words(kind):
            forms |= {form for form in (comparative(adjective), superlative(adjective)) if form}
    return frozenset(form.lower() for form in forms)

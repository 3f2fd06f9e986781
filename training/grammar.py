"""The open grammar: ordinary sentence shapes over every word of the lexicon."""

import random

from training import lexicon
from training.lexicon import words

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


def sentence(rng: random.Random) -> str:
    """A statement, a question or a command, with its mark at the end."""
    make = rng.choices((_clause, _question, _command, _there, _joined), (52, 12, 12, 8, 16))[0]
    text = make(rng)
    if rng.random() < 0.06:
        text = f"{rng.choice(words('interjections'))}, {text}"
    return text if text.endswith("?") else text + rng.choice("....!")


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


def loose_words(rng: random.Random) -> str:
    """Two to eight words without grammar."""
    return " ".join(_any_word(rng) for _ in range(rng.randint(2, 8))) + "."

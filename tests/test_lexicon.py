"""The lexicon gives clean words and correct inflections."""

import pytest

from training import lexicon

MINE = (
    "verbs_transitive verbs_intransitive words_double adjectives adjectives_predicative adjectives_graded "
    "adverbs prepositions conjunctions determiners pronouns interjections functions"
).split()
CAPITAL_I = {"I", "I'm", "I'll", "I've", "I'd"}


def verbs():
    return set(lexicon.words("verbs_transitive")) | set(lexicon.words("verbs_intransitive"))


@pytest.mark.parametrize(
    ("kind", "least"),
    [
        ("verbs_transitive", 750),
        ("verbs_intransitive", 400),
        ("adjectives", 900),
        ("adverbs", 280),
        ("prepositions", 50),
        ("interjections", 50),
        ("functions", 120),
    ],
)
def test_the_lists_are_long_enough(kind, least):
    assert len(lexicon.words(kind)) >= least


@pytest.mark.parametrize("kind", lexicon.kinds())
def test_no_list_has_duplicates(kind):
    found = lexicon.words(kind)
    assert sorted(found) == sorted(set(found))


@pytest.mark.parametrize("kind", MINE)
def test_words_are_lower_case_except_the_first_person(kind):
    assert {word for word in lexicon.words(kind) if word != word.lower()} <= CAPITAL_I


@pytest.mark.parametrize("kind", lexicon.kinds())
def test_nothing_is_in_all_capitals_because_capitals_mean_emphasis(kind):
    letters = {word: "".join(filter(str.isalpha, word)) for word in lexicon.words(kind)}
    assert not [word for word, plain in letters.items() if len(plain) > 1 and plain.isupper()]


def test_words_are_letters_and_apostrophes():
    odd = [word for kind in MINE for word in lexicon.words(kind) if not word.replace("'", "").isalpha()]
    assert odd == []


def test_every_irregular_verb_is_a_verb_we_use():
    assert set(lexicon.words("verbs_irregular")) - verbs() <= {"be"}


def test_every_doubling_and_graded_word_is_one_we_use():
    assert set(lexicon.words("words_double")) <= verbs()
    assert set(lexicon.words("adjectives_graded")) <= set(lexicon.words("adjectives"))


@pytest.mark.parametrize(
    ("verb", "forms"),
    [
        ("walk", "walks walked walked walking"),
        ("stop", "stops stopped stopped stopping"),
        ("prefer", "prefers preferred preferred preferring"),
        ("visit", "visits visited visited visiting"),
        ("label", "labels labeled labeled labeling"),
        ("carry", "carries carried carried carrying"),
        ("play", "plays played played playing"),
        ("make", "makes made made making"),
        ("agree", "agrees agreed agreed agreeing"),
        ("dye", "dyes dyed dyed dyeing"),
        ("tiptoe", "tiptoes tiptoed tiptoed tiptoeing"),
        ("argue", "argues argued argued arguing"),
        ("lie", "lies lay lain lying"),
        ("tie", "ties tied tied tying"),
        ("go", "goes went gone going"),
        ("moo", "moos mooed mooed mooing"),
        ("have", "has had had having"),
        ("be", "is was been being"),
        ("catch", "catches caught caught catching"),
        ("buzz", "buzzes buzzed buzzed buzzing"),
        ("fix", "fixes fixed fixed fixing"),
        ("quiz", "quizzes quizzed quizzed quizzing"),
        ("frolic", "frolics frolicked frolicked frolicking"),
        ("slide", "slides slid slid sliding"),
        ("run", "runs ran run running"),
        ("sweep", "sweeps swept swept sweeping"),
    ],
)
def test_verbs_inflect(verb, forms):
    inflections = (lexicon.third_person, lexicon.past, lexicon.participle, lexicon.gerund)
    assert " ".join(inflect(verb) for inflect in inflections) == forms


@pytest.mark.parametrize(
    ("one", "many"),
    [
        ("cup", "cups"),
        ("box", "boxes"),
        ("bus", "buses"),
        ("dish", "dishes"),
        ("bench", "benches"),
        ("city", "cities"),
        ("toy", "toys"),
        ("quiz", "quizzes"),
        ("waltz", "waltzes"),
        ("stomach", "stomachs"),
        ("potato", "potatoes"),
        ("piano", "pianos"),
        ("child", "children"),
        ("knife", "knives"),
        ("foot", "feet"),
    ],
)
def test_nouns_have_plurals(one, many):
    assert lexicon.plural(one) == many


@pytest.mark.parametrize(
    ("adjective", "more", "most"),
    [
        ("tall", "taller", "tallest"),
        ("big", "bigger", "biggest"),
        ("large", "larger", "largest"),
        ("happy", "happier", "happiest"),
        ("shy", "shyer", "shyest"),
        ("cool", "cooler", "coolest"),
        ("quiet", "quieter", "quietest"),
        ("clever", "cleverer", "cleverest"),
        ("slow", "slower", "slowest"),
        ("free", "freer", "freest"),
        ("good", "better", "best"),
        ("bad", "worse", "worst"),
        ("far", "farther", "farthest"),
        ("beautiful", None, None),
        ("dead", None, None),
    ],
)
def test_only_short_adjectives_compare(adjective, more, most):
    assert (lexicon.comparative(adjective), lexicon.superlative(adjective)) == (more, most)


@pytest.mark.parametrize(
    "phrase",
    "a cup|an apple|an hour|an honest|an heir|a house|a university|a uniform|an uninvited|an unimportant|"
    "an unidentified|a useful|a usual|an ugly|an umbrella|a one|a once|an only|a European|an egg|a yellow|"
    "a utensil|an utter|a urinal|an urgent|a unanimous|an unable|a union|an Uncle|a ewe".split("|"),
)
def test_the_article_follows_the_sound(phrase):
    article, word = phrase.split()
    assert lexicon.article(word) == article


def test_the_vocabulary_holds_every_form_in_lower_case():
    vocabulary = lexicon.vocabulary()
    assert len(vocabulary) > 5000
    assert {"slid", "hoisting", "dips", "swept", "thaws", "bigger", "happiest", "i'm", "won't"} <= vocabulary
    assert all(word == word.lower() for word in vocabulary)

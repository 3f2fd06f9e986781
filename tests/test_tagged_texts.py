"""What the scripts promise: variety, slices, and splits that never share a sentence."""

import random
import re
from collections import Counter
from dataclasses import asdict
from functools import cache

import pytest

from evoxtral import speech, tags
from training import lexicon, tagged_texts
from training.tagged_texts import Slices, Sources

SENTENCE = re.compile(r"[^.!?]+[.!?]+")


def some(
    count: int,
    split: str = "train",
    seed: int = 0,
    slices: Slices = Slices(),  # noqa: B008 - frozen
    **arguments,
) -> list[tagged_texts.Script]:
    rng = random.Random(seed)
    return [tagged_texts.write(rng, slices.draw(rng), split, **arguments) for _ in range(count)]


@cache
def many() -> list[tagged_texts.Script]:
    return some(2000)


def sentences(split: str) -> set[str]:
    # Without the dense slice, whose short sentences are searched for long in a small split.
    sparse = Slices(plain=0.2, light=0.4, moderate=0.3, dense=0.0, edge=0.1)
    # "..." is written as one sign, so that it does not end a sentence.
    texts = (tags.plain(script.text).replace("...", "…").lower() for script in some(800, split, slices=sparse))
    return {s.strip() for text in texts for s in SENTENCE.findall(text) if len(s.split()) > 3}


def test_the_same_seed_writes_the_same_scripts():
    assert some(50, seed=7) == some(50, seed=7)
    assert some(50, seed=7) != some(50, seed=8)


def test_splits_share_no_sentence():
    train, validation, test = (sentences(split) for split in tagged_texts.SPLITS)
    assert len(train) > 700
    assert not train & test and not train & validation and not validation & test


def test_slices_have_their_shares_and_their_number_of_tags():
    written = many()
    shares = Counter(script.slice for script in written)
    for name, share in asdict(Slices()).items():
        assert abs(shares[name] / len(written) - share) < 0.04, name
    for name, (least, most) in tagged_texts.TAG_RANGE.items():
        counts = {len(tags.names(script.text)) for script in written if script.slice == name}
        assert counts == set(range(least, most + 1)), name


def test_scripts_are_varied():
    words = Counter(w for s in many() for w in re.findall(r"[a-z']+", tags.plain(s.text).lower()))
    assert len(words) > 2000
    assert len(tagged_texts.domains()) >= 10
    assert len(lexicon.vocabulary()) > 10_000


def test_every_tag_of_a_script_can_be_spoken():
    names = {name for script in many() for name in tags.names(script.text)}
    assert names == {*tagged_texts.SOUNDS, *tagged_texts.DELIVERIES}
    assert names <= set(speech.SPOKEN_TAGS)


def test_a_script_never_starts_or_ends_with_a_pause():
    for script in many():
        assert not script.text.startswith("[pause]") and not script.text.endswith("[pause]"), script.text


def test_pauses_are_put_between_sentences_that_follow_each_other():
    script = tagged_texts.Script('He left. "Where?" she asked. [sighs] No... never! Go.', "light", "open")
    paused = tagged_texts.with_pauses(script)
    assert paused.text == 'He left. [pause] "Where?" [pause] she asked. [sighs] No... never! [pause] Go.'
    assert tagged_texts.pauses(paused) == 3 and tagged_texts.with_pauses(paused) == paused


def test_emphasis_is_a_choice_and_never_an_acronym():
    written = many()
    stressed = sum(bool(tags.emphasised(script.text)) for script in written)
    assert 0.2 < stressed / len(written) < 0.6
    for script in written:
        assert not tags.emphasised(tags.plain(script.text))


def test_a_script_is_one_line_that_starts_with_a_capital_or_a_tag():
    for script in some(500, sources=Sources(0.4, 0.4, 0.2)):
        assert re.match(r"[A-Z\[]", script.text), script.text
        assert script.text == " ".join(script.text.split())
        assert not re.search(r"[{}*|]", script.text), script.text
        assert not re.search(r"\b[Aa] [aeio]\w*", tags.plain(script.text).replace("a one", "")), script.text


@pytest.mark.parametrize("room", [60, 115, 300])
def test_plain_text_keeps_to_its_length_limit(room):
    lengths = [len(tags.plain(script.text)) for script in some(150, max_characters=room)]
    assert max(lengths) <= max(room, 80) + 25  # a first sentence of 60 is always let in


def test_the_share_of_a_slice_can_be_raised():
    rare = Slices(plain=0.0, light=0.0, moderate=0.0, dense=0.0, edge=1.0)
    assert {script.slice for script in some(50, slices=rare)} == {"edge"}


def test_the_share_of_stress_can_be_raised():
    def stressed(stress):
        scripts_ = some(600, sources=Sources(frames=0, open=1, words=0), stress=stress)
        words = [len(tags.emphasised(script.text)) for script in scripts_]
        return sum(words), sum(count > 0 for count in words)

    (few, scripts_with_few), (many, scripts_with_many) = stressed(1.0), stressed(2.0)
    assert many > 1.25 * few and abs(scripts_with_many - scripts_with_few) < 0.15 * scripts_with_few


def test_scripts_of_one_source_alone_are_written_too():
    for kind in ("frames", "open", "words"):
        alone = Sources(**{name: float(name == kind) for name in ("frames", "open", "words")})
        assert len(some(10, sources=alone, slices=Slices(0, 0, 0, 1, 0))) == 10

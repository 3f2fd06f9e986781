"""Times of words and tags: by hand-made looks, and of the shipped model against the embedded voice's true times."""

import json
import shutil

import numpy as np
import pytest

from evoxtral import audio
from evoxtral.errors import CheckpointError
from evoxtral.inference import alignment
from evoxtral.inference.alignment import FRAME, Heads, units
from evoxtral.inference.engine import Engine
from evoxtral.inference.sampling import Decoding
from evoxtral.model import checkpoints
from evoxtral.speech import speak
from training import alignment as measuring

SCRIPTS = (
    "[sad] I was there. [laughs] You know the garden!",
    "Please bring the umbrella, [pause] it is raining.",
    "[whispers] The soup is cold. [sighs] We need more plates on Friday.",
)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(checkpoints.resolve("tiny"), device="cpu")


def looks_at(*places: tuple[int, int], positions: int = 50) -> np.ndarray:
    """Shares of tokens that each look evenly at the audio tokens [first, stop)."""
    shares = np.full((len(places), positions), 1e-4, np.float32)
    for row, (first, stop) in zip(shares, places, strict=True):
        row[first:stop] = 1 / (stop - first)
    return shares


def test_words_lie_where_their_tokens_look_and_a_pause_where_nothing_sounds():
    pieces = ["So", " un", "til", " [pause]", " now", "."]
    loud = np.ones(round(4 / FRAME))
    loud[round(2 / FRAME) : round(3 / FRAME)] = 0
    shares = looks_at((5, 8), (10, 14), (14, 20), (24, 26), (30, 38), (30, 38))  # of 0.1 s each
    times = alignment.token_times(pieces, shares, loud, window_seconds=5.0)
    starts, ends = np.array(times).T
    assert starts == pytest.approx([0.5, 1.0, 1.0, 2.0, 3.0, 3.0], abs=0.1)
    assert ends == pytest.approx([0.8, 2.0, 2.0, 3.0, 3.8, 3.8], abs=0.1)


def test_times_are_in_order_even_where_looks_are_not():
    found = units([" a", " b", " c", " [laughs]"])
    times = alignment.unit_times(found, looks_at((40, 45), (5, 9), (20, 25), (1, 3)), np.ones(300), 5.0)
    flat = [time for pair in times for time in pair]
    assert flat == sorted(flat) and flat[0] >= 0 and flat[-1] <= 300 * FRAME


def test_a_delivery_begins_with_the_next_word_and_a_last_one_where_the_words_end():
    found = units(["[sad]", " a", " [whispers]"])
    (sad, word, last) = alignment.unit_times(found, looks_at((0, 1), (10, 20), (0, 1)), np.ones(300), 5.0)
    assert sad == word == pytest.approx((1.0, 2.0), abs=0.1)
    assert last == (word[1], word[1])


@pytest.mark.parametrize("pieces", [[], ["", " "], [" —"], ["[sad]"], [" a"] * 400])
def test_any_text_has_times_with_and_without_known_heads(pieces):
    for shares in (None, looks_at(*[(0, 50)] * len(pieces))):
        times = alignment.token_times(pieces, shares, np.ones(100), 5.0)
        assert len(times) == len(pieces)
        assert all(0 <= time[0] <= time[1] <= 100 * FRAME + 0.01 for time in times if time[0] is not None)


def test_words_of_the_embedded_voice_are_where_they_sound_in_every_variant(engine):
    clips = [measuring.Spoken(s, (r := speak(s, seed=3)).waveform, tuple(measuring._truth(s, r))) for s in SCRIPTS]
    found = measuring.judged(engine, [measuring.joined(clips, np.random.default_rng(0))])  # several segments
    for figures in found["variants"].values():
        assert figures["word"]["n"] > 12
        assert figures["word"]["start_median"] < 0.1 and figures["word"]["start_within_0.15"] > 0.7
    assert found["variants"]["rl"]["tag"]["start_median"] < 0.25


def test_times_change_no_text_and_a_batch_has_them_too(engine):
    waveform = speak(SCRIPTS[0], seed=3).waveform
    whole = engine.transcribe((audio.SAMPLE_RATE, waveform))
    without = engine.transcribe((audio.SAMPLE_RATE, waveform), decoding=Decoding(times=False))
    assert whole.text == without.text and all(word.start is None for word in without.words)
    (batched,) = engine.batch([waveform], ("rl",))
    assert all(0 <= word.start <= word.end <= whole.duration for word in (*whole.words, *batched["rl"][0].words))


def test_heads_are_read_from_beside_a_model_and_refused_if_they_are_of_another(tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    assert alignment.load([base, tmp_path], 4, 4) == Heads()
    heads = Heads(((3, 1, 1.0), (2, 0, 0.5)), clips=4, median_error=0.02, p90_error=0.05)
    heads.save(tmp_path)
    assert alignment.load([base, tmp_path], 4, 4) == heads and heads.watched == ((2, 0), (3, 1))
    for broken in ("{}", '{"heads": [[9, 0, 1.0]]}', json.dumps({"heads": [[1, 0, 0.0]]}), '{"heads": 3}', "["):
        (tmp_path / alignment.FILE).write_text(broken, encoding="utf-8")
        with pytest.raises(CheckpointError):
            alignment.load([tmp_path], 4, 4)
    Heads().save(base)  # the base's own comes first
    assert alignment.load([base, tmp_path], 4, 4) == Heads()


def test_heads_are_chosen_by_where_they_look(engine):
    chosen = measuring.calibrated(engine, measuring._first(measuring.spoken(5, "validation", 9.0), 2))
    assert chosen.heads[0][:2] == engine.heads.heads[0][:2] and chosen.heads[0][2] == 1.0
    assert chosen.clips == 2 and chosen.median_error < 0.1


def test_anyone_can_choose_the_heads_of_a_model(checkpoint, tmp_path, monkeypatch, capsys):
    """Of random weights: whatever heads they are, the table is of this model, and an adapter's folder brings it."""
    monkeypatch.setattr(measuring, "LOOKS", 1)  # as of a large model: one clip at a time
    for folder in ("base", "mine"):
        shutil.copytree(checkpoint.base if folder == "base" else checkpoint.adapters["sft"], tmp_path / folder)
    assert measuring.main(["--model", str(tmp_path), "--clips", "2", "--output", str(tmp_path / "mine")]) == 0
    heads = Engine(checkpoints.resolve(str(tmp_path))).heads
    assert heads.heads and heads.clips == 2
    capsys.readouterr()
    assert measuring.main(["--model", str(tmp_path), "--output", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err == f"{tmp_path / 'none'} is no folder: name one that exists.\n"

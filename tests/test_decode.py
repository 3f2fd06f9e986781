"""Choosing tokens and knowing when to stop, and the session's logits against those of transformers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evoxtral.inference.sampling import (
    LOOP_REPEATS,
    LOOP_TOKENS,
    LOOP_UNIT,
    Decoding,
    Row,
    choose,
    repeated_tail,
    uniform_draws,
)
from evoxtral.model import checkpoints
from evoxtral.model.cache import Cache
from evoxtral.model.linear import Mix
from evoxtral.model.text import TextModel

EOS = 2


def added(tokens: list[int], budget: int = 1000, stop_loops: bool = True) -> Row:
    row = Row(budget)
    for token in tokens:
        if not row.done:
            row.add(token, 0.5, EOS, stop_loops)
    return row


# ------------------------------------------------------------------------------------------------- stop rules


def test_a_row_ends_at_its_end_of_text_and_the_end_is_no_part_of_it():
    row = added([7, 8, EOS, 9])
    assert (row.ids, row.done, row.truncated) == ([7, 8], True, False)
    assert len(row.probabilities) == 2


def test_a_row_ends_at_its_budget_and_is_marked_truncated():
    row = added([7, 8, 9, 10], budget=3)
    assert (row.ids, row.done, row.truncated) == ([7, 8, 9], True, True)


def test_a_row_that_just_fills_its_budget_is_marked_truncated():
    assert added([7, 8, EOS], budget=2).truncated


@pytest.mark.parametrize("unit", [1, 2, 5, LOOP_UNIT])
def test_a_repeating_tail_is_stopped_and_kept_once(unit):
    phrase = list(range(100, 100 + unit))
    row = added([50, 51, *phrase * 100])
    assert row.done and row.truncated
    assert row.ids[:2] == [50, 51] and len(row.ids) < 2 + 2 * unit + LOOP_TOKENS
    assert repeated_tail(row.ids) == 0 and row.ids[2 : 2 + unit] == phrase


@pytest.mark.parametrize("said", [[5] * 12, [5, 6] * 8, [5, 6, 7, 8, 9, 10] * 3, list(range(100, 101 + LOOP_UNIT)) * 3])
def test_ordinary_repetitions_are_no_loop(said):
    assert added(said).ids == said


def test_loop_detection_can_be_switched_off():
    assert len(added([5] * 300, stop_loops=False).ids) == 300


@given(st.lists(st.integers(3, 6), max_size=20), st.lists(st.integers(3, 6), max_size=8), st.integers(0, 30))
def test_a_loop_is_found_exactly_where_the_tail_repeats_often_and_long_enough(before, unit, times):
    ids = before + unit * times

    def loops(u: int) -> bool:
        span = max(LOOP_REPEATS * u, LOOP_TOKENS)
        tail = ids[-span:]
        return len(ids) >= span and all(tail[i] == tail[i + u] for i in range(span - u))

    assert (repeated_tail(ids) > 0) == any(loops(u) for u in range(1, LOOP_UNIT + 1))


def test_the_budget_follows_the_audio():
    assert Decoding().budget(30.0) > 4 * Decoding().budget(1.0)
    assert Decoding(max_tokens=7).budget(30.0) == 7


@pytest.mark.parametrize("wrong", [{"temperature": -1}, {"top_p": 0}, {"top_p": 1.5}, {"max_tokens": 0}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Decoding(**wrong)


# ----------------------------------------------------------------------------------------------------- choice


def test_greedy_takes_the_likeliest_and_gives_its_log_probability():
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])
    token, log_probability = choose(logits, Decoding(), torch.zeros(2))
    assert token.tolist() == [1, 0]
    torch.testing.assert_close(log_probability, logits.log_softmax(-1)[[0, 1], [1, 0]])


def test_sampling_follows_the_distribution():
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    uniform = (torch.arange(1000) + 0.5) / 1000
    token, _ = choose(probabilities.log().repeat(1000, 1), Decoding(temperature=1.0), uniform)
    np.testing.assert_allclose(torch.bincount(token, minlength=4) / 1000, probabilities, atol=2e-3)


def test_the_nucleus_is_the_smallest_set_with_probability_top_p():
    probabilities = torch.tensor([0.05, 0.5, 0.15, 0.3])
    uniform = torch.linspace(0, 1 - 1e-6, 500)
    token, _ = choose(probabilities.log().repeat(500, 1), Decoding(temperature=1.0, top_p=0.75), uniform)
    counts = torch.bincount(token, minlength=4) / 500
    np.testing.assert_allclose(counts, [0, 0.5 / 0.8, 0, 0.3 / 0.8], atol=5e-3)


def test_temperature_sharpens_what_is_sampled_and_leaves_the_reported_probability():
    logits = torch.tensor([[1.0, 0.0]]).repeat(1000, 1)
    uniform = (torch.arange(1000) + 0.5) / 1000
    token, log_probability = choose(logits, Decoding(temperature=0.1), uniform)
    assert (token == 0).all()
    torch.testing.assert_close(log_probability, logits.log_softmax(-1)[:, 0])


@given(st.floats(0, 1, exclude_max=True, width=32), st.floats(0.01, 1.0))
def test_no_draw_leaves_the_nucleus(uniform, top_p):
    logits = torch.tensor([[0.1, -3.0, 2.5, 2.4, -50.0]])
    token, log_probability = choose(logits, Decoding(temperature=0.7, top_p=top_p), torch.tensor([uniform]))
    assert 0 <= token.item() < 5 and log_probability.isfinite().all()
    if top_p < 0.4:
        assert token.item() == 2


def test_the_draws_of_a_row_depend_on_the_seed_and_its_key_only():
    one = uniform_draws(5, [(0, 0), (1, 0), (1, 1)], steps=8)
    assert one.shape == (3, 8) and ((one >= 0) & (one < 1)).all()
    np.testing.assert_array_equal(uniform_draws(5, [(1, 0)], steps=8)[0], one[1])
    np.testing.assert_array_equal(uniform_draws(5, [(1, 0)], steps=4)[0], one[1][:4])
    assert not np.array_equal(uniform_draws(6, [(0, 0)], 8), one[:1])
    assert not np.array_equal(uniform_draws(None, [(0, 0)], 8), uniform_draws(None, [(0, 0)], 8))


# ---------------------------------------------------------------------------------------------------- session


@pytest.mark.parametrize("static", [False, True], ids=["as far as the text goes", "static shapes"])
@pytest.mark.parametrize("copies", [1, 3])
def test_prefill_and_steps_give_the_logits_of_the_whole_sequence(checkpoint, copies, static):
    model = checkpoints.load_base(Path(checkpoint.base), torch.float32)
    ids = torch.randint(64, 300, (2, 19), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(input_ids=ids).logits.repeat_interleave(copies, dim=0)
        text = TextModel(model, [], Mix([]), torch.device("cpu"))
        session = Cache(text, rows=2 * copies, length=64, static=static)
        for _ in range(2):  # a session serves one batch after another
            logits = session.prefill(text.embed(ids[:, :12]))
            torch.testing.assert_close(logits, expected[:, 11], atol=1e-4, rtol=1e-4)
            for t in range(12, 19):
                logits = session.step(ids[:, t].repeat_interleave(copies))
                torch.testing.assert_close(logits, expected[:, t], atol=1e-4, rtol=1e-4)


def test_weights_are_in_memory_once(checkpoint):
    model = checkpoints.load_base(Path(checkpoint.base), torch.float32)
    language_model = model.model.language_model
    text = TextModel(model, [], Mix([]), torch.device("cpu"))
    left = dict(language_model.named_parameters())
    assert left.keys() == {"embed_tokens.weight", "norm.weight"}, "its layers were taken out"
    assert left["embed_tokens.weight"] is text.embed.weight and left["norm.weight"] is text.norm
    assert not hasattr(model, "lm_head"), "so was its output layer"

"""RL's losses on toy cases whose answers are known, and the comparison of its methods."""

import numpy as np
import pytest
import torch

from evoxtral import metrics
from evoxtral.bench import sets
from evoxtral.errors import RecipeError
from training import doc_tables, objectives, rl_methods


def test_raft_takes_the_first_best_of_each_clip():
    found = objectives.advantages("raft", np.array([[0.2, 0.9, 0.9], [1.0, 1.0, 1.0]]))
    assert found.tolist() == [[0, 1, 0], [1, 0, 0]]


def test_reinforce_rej_drops_clips_that_are_all_right_or_all_wrong():
    rewards = np.array([[1.0, 1.0], [0.0, 0.0], [1.0, 0.5], [0.4, 0.4]])
    assert objectives.kept(rewards).tolist() == [False, False, True, True]
    assert objectives.advantages("reinforce-rej", rewards).tolist() == [[0, 0], [0, 0], [0.25, -0.25], [0, 0]]


def test_pairs_are_the_best_against_the_worst_and_ties_are_none():
    found = objectives.advantages("pairs", np.array([[0.5, 0.1, 0.8], [0.7, 0.7, 0.7]]))
    assert found.tolist() == [[0, -1, 1], [0, 0, 0]]


def test_gdpo_tells_attempts_apart_whose_sums_are_equal():
    """Of the paper's example: (0, 1) and (0, 2) have other sums, and after normalising the sum the same advantage."""
    rewards = np.array([[[0.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [1.0, 1.0]]])
    summed = rewards.sum(axis=2)
    together = (summed - summed.mean(1, keepdims=True)) / summed.std(1, keepdims=True)
    assert together[0].tolist() == together[1].tolist() == [-1, 1]
    found = objectives.advantages("gdpo", rewards)
    assert found[1, 1] == pytest.approx(2 * found[0, 1]) and found[0].tolist() == (-found[0][::-1]).tolist()
    assert found.mean() == pytest.approx(0) and found.std() == pytest.approx(1)


def test_a_reward_that_is_the_same_for_all_attempts_counts_nothing_in_gdpo():
    rewards = np.random.default_rng(0).random((4, 3, 2))
    constant = np.concatenate([rewards, np.full((4, 3, 1), 0.7)], axis=2)
    assert objectives.advantages("gdpo", constant) == pytest.approx(objectives.advantages("gdpo", rewards))


def test_an_unknown_method_is_named():
    with pytest.raises(ValueError, match="'ppo' must be one of raft, reinforce-rej, pairs, gdpo"):
        objectives.advantages("ppo", np.zeros((1, 2)))


def test_where_nothing_has_moved_the_policy_loss_has_reinforces_gradient():
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels, advantage = torch.tensor([[1, 2, -100], [0, 4, 3]]), torch.tensor([1.0, -0.5])
    new, counts = objectives.log_probability(logits, labels)
    assert counts.tolist() == [2, 3] and new[0, 2] == 0
    loss = objectives.policy_loss(new, new.detach(), counts, advantage)
    (found,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (expected,) = torch.autograd.grad(-(advantage[:, None] * new).sum() / 5, logits)
    assert torch.allclose(found, expected, atol=1e-7)
    assert loss.item() == pytest.approx(-(2 * 1.0 - 3 * 0.5) / 5)


def test_a_step_beyond_the_clip_range_has_no_gradient_in_its_direction():
    old = torch.zeros(1, 1)
    for moved, advantage, gradient in ((0.5, 1.0, 0.0), (-0.5, -1.0, 0.0), (-0.5, 1.0, -np.exp(-0.5))):
        new = torch.full((1, 1), moved, requires_grad=True)
        loss = objectives.policy_loss(new, old, torch.tensor([1]), torch.tensor([advantage]))
        (found,) = torch.autograd.grad(loss, new)
        assert found.item() == pytest.approx(gradient, abs=1e-6)


def test_the_loss_of_pairs_is_log_two_at_the_start_and_falls_with_the_margin():
    at = torch.tensor([-3.0])
    assert objectives.pair_loss(at, at, at, at).item() == pytest.approx(np.log(2))
    found = objectives.pair_loss(at + 4, at - 6, at, at, beta=0.1).item()
    assert found == pytest.approx(np.log(1 + np.exp(-1.0)))


def test_the_four_rewards_of_an_attempt_are_the_benchs():
    assert objectives.rewards("[sad] a b", "[sad] a b") == [1, 1, 1, 1]
    assert objectives.rewards("[calm] a x", "[sad] a B") == [0.5, 0, 0, 1]  # one capital is no stress
    assert objectives.rewards("[laughs] so it IS", "so it IS [laughs]")[1] == 0


# ------------------------------------------------------------------------------------------------- the comparison


def reports(*texts: tuple[str, str]) -> metrics.Report:
    return metrics.score(list(zip(texts, ("[sad] a b", "c d"), strict=True)))


def test_methods_are_compared_by_their_mean_over_seeds_and_all_that_is_worse_is_told():
    before = reports("[sad] a b", "c x")
    found = rl_methods.differences(before, [reports("[sad] a b", "c d"), reports("a b", "c d")], resamples=50)
    assert found["wer"]["value"] == -0.25 and found["wer"]["seeds"] == [-0.25, -0.25]
    assert found["tagged_placed_tag_f1"]["value"] == -0.5 and found["tagged_placed_tag_f1"]["seeds"] == [0, -1]
    assert found["wer"]["low"] <= -0.25 <= found["wer"]["high"] <= 0
    assert rl_methods.is_no_worse(found)  # one seed of two lost the only tag
    found = rl_methods.differences(before, 2 * [reports("a b", "c d")], resamples=50)
    assert not rl_methods.is_no_worse(found) and rl_methods.is_no_worse({"wer": found["wer"]})


def test_the_table_of_methods_stands_between_its_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{rl_methods.START}old\n{rl_methods.END}\nafter\n", encoding="utf-8")
    doc_tables.write_block(page, rl_methods.START, rl_methods.END, "new\n")
    assert page.read_text(encoding="utf-8") == f"before\n{rl_methods.START}new\n{rl_methods.END}\nafter\n"
    page.write_text("nothing", encoding="utf-8")
    with pytest.raises(RecipeError, match="no place for the table"):
        doc_tables.write_block(page, rl_methods.START, rl_methods.END, "new\n")
    change = {"value": -0.01, "low": -0.02, "high": 0.001, "seeds": [-0.01, -0.01]}
    found = {key: 1 for key in ("rollouts", "clips", "seeds", "model", "weights", "commit", "date")}
    sft = {"wer": {"value": 0.1, "low": 0.05, "high": 0.15}}
    rung = {"n": 3, "sft": sft, "methods": {"gdpo": {"wer": change}}}
    found |= {"rungs": {"noise, 20 dB": rung, rl_methods.TOGETHER: rung}, "beyond": {"gdpo": 0.021}}
    shown = rl_methods.table(found | {"texts": {"gdpo": 7}}).splitlines()
    assert "| gdpo, together | 7, 2.1 % | −1.00 (−2.00 to +0.10); −1.00, −1.00 | yes |" in shown
    assert "| gdpo, noise, 20 dB | | −1.00 (−2.00 to +0.10) | |" in shown
    assert "| SFT, noise, 20 dB | | 10.00 (5.00 to 15.00) | |" in shown


def test_methods_are_judged_on_each_rung_and_on_all_of_them():
    clips = [sets.Clip(name, rung, k, "[sad] a b", None) for name, rung in rl_methods.RUNGS for k in range(2)]
    right, wrong = ["[sad] a b"] * 8, ["[sad] a b", "[sad] a x"] * 4
    found = rl_methods.figures({"sft": wrong, "gdpo-0": right, "gdpo-1": wrong}, clips)
    assert [found[label]["n"] for label in found] == [2, 2, 2, 2, 8] and list(found)[-1] == rl_methods.TOGETHER
    assert found["dense, 8 or more"]["sft"]["wer"]["value"] == 0.25
    assert found[rl_methods.TOGETHER]["methods"]["gdpo"]["wer"]["seeds"] == [-0.25, 0]
    assert found[rl_methods.TOGETHER]["methods"]["gdpo"]["wer"]["value"] == -0.125

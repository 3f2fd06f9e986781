"""How a batch goes through the memory that is free, and random numbers that do not depend on it."""

import json
import math

import pytest
import torch

from training import noise, passes, recipe
from training.passes import Need, Passes

GIB = 1 << 30
NEED = Need(state=GIB, rest=GIB // 2, layers=(4, 6), kept=(GIB // 4, GIB // 8), inputs=(GIB // 64, GIB // 64))


def test_a_clip_takes_what_its_layers_keep_or_only_what_goes_into_them():
    assert NEED.of_clip(False) == (0.5 + 4 * 0.25 + 6 * 0.125 + 0.25) * GIB
    assert NEED.of_clip(True) == (0.5 + 10 / 64 + 0.25) * GIB
    assert NEED.of(Passes(4)) == (1 + 4 * 2.5) * GIB


@pytest.mark.parametrize(
    ("free", "chosen"),
    [
        (100.0, Passes(16)),
        (30.0, Passes(8)),  # 9 would fit: two passes of 8 are as many as 9 and 7
        (14.0, Passes(4)),
        (5.0, Passes(1)),
        (4.0, Passes(2, True)),
        (0.0, Passes(1, True)),
        (math.inf, Passes(16)),
    ],
)
def test_as_many_clips_at_once_as_memory_holds(free, chosen):
    found = passes.choose(NEED, free * GIB, 16)
    assert found == chosen
    assert free < 3 or NEED.of(found) <= 0.8 * free * GIB


def test_a_cpu_takes_no_more_clips_at_once_than_are_of_use():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert passes.most(0, 16, 250, cpu) == 16 and passes.most(0, 16, 1500, cpu) == 2
    assert passes.most(0, 16, 1500, cuda) == 16 and passes.most(8, 16, 1500, cpu) == 8
    assert passes.most(7, 16, 250, cpu) == 6, "three passes of about one size"
    assert passes.most(16, 4, 250, cpu) == 4


def test_what_was_chosen_is_said_and_noted_and_a_resumed_run_keeps_it(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    settings = recipe.load("tiny")
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.dataclasses.asdict(settings)))
    monkeypatch.setattr(passes, "free", lambda _: 14.0 * GIB)
    device = torch.device("cpu")
    assert passes.decide(tmp_path, "sft", NEED, device, 16) == Passes(4)
    assert caplog.messages == ["sft: 4 clips at once, activations kept: 14.0 GiB are free, the estimate is 11.0 GiB"]
    written = (tmp_path / "recipe.json").read_text()
    assert json.loads(written)["as_run"] == {"sft": {"micro_batch": 4, "checkpointing": False}}
    assert recipe.same(written, settings)
    monkeypatch.setattr(passes, "free", lambda _: 100.0 * GIB)
    assert passes.decide(tmp_path, "sft", NEED, device, 16) == Passes(4)
    monkeypatch.setattr(passes, "free", lambda _: 4.0 * GIB)
    assert passes.decide(tmp_path, "sft", NEED, device, 16) == Passes(2, True)


class Task:
    device, passes, steps = torch.device("cpu"), Passes(8), 0

    def losses(self, step: int):
        return iter(())


@pytest.mark.parametrize(("took", "left"), [(9, 8), (30, 8), (60, 5), (400, 1)])
def test_the_first_step_is_measured_and_one_that_took_too_much_leads_to_fewer_clips(monkeypatch, caplog, took, left):
    caplog.set_level("INFO")
    monkeypatch.setattr(passes, "free", lambda _: 50.0 * GIB)
    monkeypatch.setattr(passes.Peak, "bytes", lambda _: took * GIB)
    task = Task()
    watched = passes.Watched("sft", task, NEED)
    watched.losses(0)
    assert task.passes == Passes(8) and not caplog.messages
    watched.losses(1), watched.losses(2)
    assert task.passes == Passes(left)
    assert caplog.messages[0] == f"sft: the first step took {took}.0 GiB, estimated 21.0"
    assert len(caplog.messages) == 1 + (left < 8)


def test_the_peak_of_a_step_is_what_it_took():
    peak = passes.Peak(torch.device("cpu"))
    block = torch.ones(40_000_000)
    del block
    took = peak.bytes()
    assert took is None or 150e6 < took < 400e6


def test_dropout_from_a_table_is_dropout():
    dropout, ones = noise.Dropout(0.25), torch.ones(64, 100, 1000)  # more than the table has
    torch.manual_seed(1)
    first, second = dropout(ones), dropout(ones)
    assert {0.0, round(4 / 3, 4)} == {round(value, 4) for value in first.unique().tolist()}
    assert abs(float((first == 0).float().mean()) - 0.25) < 0.005
    both = float(((first == 0) & (second == 0)).float().mean())
    assert abs(both - 0.25**2) < 0.005, "independent of each other"
    neighbours = float(((first[1:] == 0) & (first[:-1] == 0)).float().mean())
    assert abs(neighbours - 0.25**2) < 0.005
    torch.manual_seed(1)
    assert torch.equal(dropout(ones), first) and torch.equal(dropout.eval()(ones), ones)


def test_a_clip_has_the_same_random_numbers_in_whichever_pass_it_goes_through():
    x, dropout, lengths = torch.randn(6, 40, 32), noise.Dropout(0.5), torch.tensor([40, 30, 20, 40, 35, 40])

    def at_once(size: int) -> torch.Tensor:
        out = []
        for first in range(0, 6, size):
            torch.manual_seed(3)
            noise.begin_at(first)
            part = slice(first, first + size)
            out.append(dropout(noise.neftune(x[part], lengths[part], 5.0)))
        noise.begin_at(0)
        return torch.cat(out)

    assert torch.equal(at_once(1), at_once(6)) and torch.equal(at_once(4), at_once(6))


def test_neftune_is_uniform_noise_whose_size_falls_with_the_length():
    x, lengths = torch.zeros(2, 400, 64), torch.tensor([400, 100])
    added = noise.neftune(x, lengths, 5.0)
    for row, length in zip(added, lengths.tolist(), strict=True):
        bound = 5 / math.sqrt(length * 64)
        assert float(row.abs().max()) == pytest.approx(bound, rel=0.01)
        assert float(row.std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)

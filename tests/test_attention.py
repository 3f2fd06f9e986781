"""Attention in bfloat16 by compiled functions: as exact as PyTorch's, whatever the number of positions and threads."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from evoxtral.model import attention

pytestmark = pytest.mark.skipif(
    attention.functions() is None, reason="this CPU has no AVX512-BF16, or llvmlite is gone"
)


def heads(batch: int, positions: int, count: int) -> torch.Tensor:
    """Queries, keys and values as the encoder has them: views of one product, whose scores differ a lot."""
    generator = torch.Generator().manual_seed(positions)
    qkv = 3 * torch.randn(batch, positions, 3, count, attention.WIDTH, generator=generator)
    return qkv.bfloat16().permute(2, 0, 3, 1, 4)


@pytest.mark.parametrize(("batch", "positions", "count"), [(1, 6, 1), (2, 50, 3), (1, 64, 2), (1, 131, 2), (1, 300, 2)])
def test_it_is_as_exact_as_pytorch_s(batch, positions, count):
    qkv = heads(batch, positions, count)
    exact = scaled_dot_product_attention(*qkv.double())
    ours, theirs = (
        attend(*qkv).double() - exact for attend in (*attention.fitting(qkv[0]), scaled_dot_product_attention)
    )
    assert ours.square().mean() < 1.1 * theirs.square().mean()
    assert ours.abs().max() < 2 * theirs.abs().max()


@pytest.mark.parametrize(("queries", "positions"), [(6, 6), (64, 64), (131, 131), (20, 100), (6, 65), (7, 200)])
def test_a_prompt_sees_what_is_before_it(queries, positions):
    q, (keys, values) = heads(1, positions, 4)[0][:, :, -queries:], heads(1, positions, 2)[1:]
    seen = torch.ones(queries, positions, dtype=torch.bool).tril(positions - queries)
    exact, theirs = (
        scaled_dot_product_attention(*(x.to(dtype) for x in (q, keys, values)), seen, enable_gqa=True).double()
        for dtype in (torch.float64, torch.bfloat16)
    )
    ours = attention.functions().attend(q, keys, values, causal=True).double()
    assert (ours - exact).square().mean() < 1.1 * (theirs - exact).square().mean()


def test_large_scores_do_not_overflow_and_the_largest_wins():
    qkv = heads(1, 70, 1)
    qkv[:2] *= 60  # scores of some ten thousands
    found = attention.functions().attend(*qkv)
    largest = (qkv[0].double() @ qkv[1].double().mT).argmax(-1)[0, 0]
    assert torch.equal(found[0, 0], qkv[2, 0, 0, largest])


def test_threads_share_the_work_and_change_nothing():
    qkv, before = heads(1, 100, 2), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(attention.functions().attend(*qkv))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


@pytest.mark.parametrize("width", attention.STEP_WIDTHS)
@pytest.mark.parametrize("lengths", [(16,), (17, 40, 31), (40, 16)])
def test_a_step_looks_at_the_positions_that_each_row_has(width, lengths):
    generator, rows = torch.Generator().manual_seed(sum(lengths)), len(lengths)
    keys, values = torch.randn(2, rows, 2, 40, width, generator=generator).bfloat16()
    q, exact = 2 * torch.randn(rows, 6, width, generator=generator).bfloat16(), []
    for row, length in enumerate(lengths):
        keys[row, :, length:] = values[row, :, length:] = torch.nan  # what lies behind is never looked at
        own = (x[row, :, :length].double() for x in (keys, values))
        exact.append(scaled_dot_product_attention(q[row, :, None].double(), *own, enable_gqa=True)[:, 0])
    found = attention.of_a_step(keys)(q, keys, values, torch.tensor(lengths))
    assert (found.double() - torch.stack(exact)).abs().max() < 2**-7 * torch.stack(exact).abs().max()


def test_other_shapes_and_dtypes_are_left_to_pytorch():
    qkv = heads(1, 20, 2)
    assert attention.fitting(qkv[0])
    for other in (qkv[0].float(), qkv[0][..., :32], qkv[0][:, :, :5], qkv[0].to("meta")):
        assert not attention.fitting(other) and not attention.of_a_step(other[..., :32])

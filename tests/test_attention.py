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


def test_other_shapes_and_dtypes_are_left_to_pytorch():
    qkv = heads(1, 20, 2)
    assert attention.fitting(qkv[0])
    for other in (qkv[0].float(), qkv[0][..., :32], qkv[0][:, :, :5], qkv[0].to("meta")):
        assert not attention.fitting(other)

"""Native attention against plain torch: values, bits, edges."""

import pytest
import torch
from torch.nn import functional as F

from engine.kernels import native
from tests.support.native_builds import needs_native, random

HEADS, LENGTH = 3, 1500


@needs_native
@pytest.mark.parametrize("length", [1, 31, 33, 200, 1500])
@pytest.mark.parametrize("size", [1e-3, 1.0, 30.0])
def test_encoder_attention_of_float32_is_torchs(length: int, size: float, threads: int) -> None:
    qkv = random(2, length, 3 * HEADS * 64)
    qkv[..., : 2 * HEADS * 64] *= size
    q, k, v = (x.view(2, length, HEADS, 64).transpose(1, 2) for x in qkv.chunk(3, -1))
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double())
    torchs = F.scaled_dot_product_attention(q, k, v)
    ours = native.encoder_attention(qkv).view(2, length, HEADS, 64).transpose(1, 2)
    # Steep scores magnify the rounding of their products, whoever adds them up.
    assert (ours - exact).norm() <= 3 * (torchs - exact).norm() + 1e-6 * exact.norm()


@needs_native
def test_encoder_attention_has_one_result() -> None:
    """Whatever the batch, the threads, and what memory held before."""
    qkv = random(2, 301, 3 * HEADS * 64).to(torch.bfloat16)
    before = torch.get_num_threads()
    together = native.encoder_attention(qkv)
    native.encoder_attention(1000 * random(2, 700, 3 * HEADS * 64).to(torch.bfloat16))
    torch.set_num_threads(1)
    try:
        alone = torch.cat([native.encoder_attention(one) for one in qkv.split(1)])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(alone, together)


@needs_native
@pytest.mark.parametrize("size", [0.0, 1e-3, 30.0])
def test_encoder_attention_at_extremes(size: float) -> None:
    """From all frames alike to one frame that takes everything."""
    qkv = random(1, 200, 3 * HEADS * 64)
    qkv[..., : 2 * HEADS * 64] *= size
    qkv = qkv.to(torch.bfloat16)
    q, k, v = (x.float().view(1, 200, HEADS, 64).transpose(1, 2) for x in qkv.chunk(3, -1))
    exact = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    ours = native.encoder_attention(qkv).float()
    assert ours.isfinite().all()
    # Steep scores magnify the rounding of queries and keys.
    assert (ours - exact).norm() <= (0.01 if size < 1 else 0.2) * exact.norm()


def filled(n_slots: int, slots: list[int], scale: float = 1.0) -> native.Int8CrossCache:
    cache = native.Int8CrossCache(n_slots, HEADS, LENGTH)
    kv = random(len(slots), LENGTH, 2 * HEADS * 64, seed=9) * scale
    cache.fill(kv.to(torch.bfloat16), torch.tensor(slots))
    return cache


@needs_native
@pytest.mark.parametrize("scale", [1e-3, 1.0, 3.0])
def test_cross_attention_is_attention(scale: float, threads: int) -> None:
    queries = random(4, HEADS * 64, seed=4)
    slots = torch.tensor([5, 2, 5, 0])
    kv = (random(3, LENGTH, 2 * HEADS * 64, seed=9) * scale).to(torch.bfloat16).float()
    by_row = kv[[1, 2, 1, 0]].view(4, LENGTH, 2, HEADS, 64).permute(2, 0, 3, 1, 4)
    q = queries.view(4, HEADS, 1, 64)
    exact = F.scaled_dot_product_attention(q, by_row[0], by_row[1]).view(4, -1)
    ours = filled(7, [0, 5, 2], scale).attend(queries, slots)
    assert (ours - exact).norm() <= 0.02 * exact.norm()


@needs_native
def test_cross_attention_of_a_row_is_its_own(threads: int) -> None:
    cache = filled(7, [0, 5, 2])
    queries, slots = random(4, HEADS * 64, seed=4), torch.tensor([5, 2, 5, 0])
    together = cache.attend(queries, slots)
    for row in range(4):
        alone = cache.attend(queries[row : row + 1], slots[row : row + 1])
        assert torch.equal(alone, together[row : row + 1])


@needs_native
@pytest.mark.parametrize("length", [1, 63, 64, 65, 1536])
def test_cross_attention_of_any_length(length: int) -> None:
    kv = random(1, length, 2 * HEADS * 64)
    kv[0, length // 2] *= 8.0  # takes nearly everything
    kv = kv.to(torch.bfloat16)
    cache = native.Int8CrossCache(1, HEADS, length)
    cache.fill(kv, torch.tensor([0]))
    queries = random(1, HEADS * 64, seed=1)
    k, v = kv.float().view(length, 2, HEADS, 64).permute(1, 2, 0, 3)
    exact = F.scaled_dot_product_attention(queries.view(HEADS, 1, 64), k, v).view(1, -1)
    ours = cache.attend(queries, torch.tensor([0]))
    assert (ours - exact).norm() <= 0.1 * exact.norm()


@needs_native
def test_an_empty_slot_gives_zeros() -> None:
    """Idle slots compute along, on finite numbers."""
    assert filled(3, [1]).attend(random(1, HEADS * 64), torch.tensor([0])).eq(0).all()


@needs_native
def test_self_attention_reads_up_to_its_position(threads: int) -> None:
    keys, values = random(4, HEADS, 32, 64, seed=1), random(4, HEADS, 32, 64, seed=2)
    qkv, positions = random(3, 3 * HEADS * 64, seed=3), torch.tensor([0, 17, 31])
    before, values_before = keys.clone(), values.clone()
    ours = native.self_attention(qkv, positions, keys, values)
    q, k, v = (x.view(3, HEADS, 1, 64) for x in qkv.chunk(3, -1))
    for row, position in enumerate(positions.tolist()):
        assert torch.equal(keys[row, :, position], k[row, :, 0])
        assert torch.equal(values[row, :, position], v[row, :, 0])
        seen = slice(0, position + 1)
        exact = F.scaled_dot_product_attention(q[row], keys[row, :, seen], values[row, :, seen])
        torch.testing.assert_close(ours[row], exact.flatten(), rtol=1e-4, atol=1e-5)
        before[row, :, position] = k[row, :, 0]
        values_before[row, :, position] = v[row, :, 0]
    assert torch.equal(keys, before), "nothing else is written"
    assert torch.equal(values, values_before)

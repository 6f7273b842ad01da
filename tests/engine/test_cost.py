"""Times of pipeline stages: the arithmetic of the model's sizes."""

from dataclasses import replace

import pytest

from engine.memory import MemoryUse
from engine.model_sizes import LARGE_V3
from engine.parallel.cost import (
    DeviceModel,
    StageCost,
    Workload,
    idle_share,
    stage_cost,
    stage_costs,
)
from engine.parallel.stages import Stage, cut_stages
from engine.precision import Arithmetic, CrossAttentionMode, Precision
from tests.support.sizes import ENCODE_BATCH, GPU_BFLOAT16, H200, MAX_LENGTH


def decode_cost(stage: Stage, load: Workload) -> StageCost:
    return stage_cost(LARGE_V3, stage, 1, GPU_BFLOAT16, H200, load, MAX_LENGTH, ENCODE_BATCH)


@pytest.mark.parametrize("n_slots", [1, 8, 32, 64, 256])
def test_times_are_those_of_the_models_arithmetic(n_slots: int) -> None:
    """FLOP and bytes of large-v3, written out from its sizes."""
    d, frames, layers, vocab, tokens = 1280, 1500, 32, 51_866, 100
    encoder = 24 * frames * d**2 + 4 * frames**2 * d
    conv = 6 * frames * d * (2 * 128 + d)
    cross = 4 * frames * d**2
    weights = (14 * d**2 * layers + vocab * d) * 2
    kv = layers * 2 * (frames + tokens / 2) * d * 2
    flops = 2 * (weights / 2) + layers * 4 * (frames + tokens / 2) * d

    workload = Workload(n_slots, prompt_tokens=0)
    cost = stage_cost(LARGE_V3, Stage.whole(LARGE_V3), 1, GPU_BFLOAT16, H200, workload, 448, 8)
    assert cost.encode_s == pytest.approx((layers * (encoder + cross) + conv) / 790e12, rel=0.001)
    moved_s = (weights / n_slots + kv) / 4.8e12
    assert tokens * moved_s < cost.decode_s < tokens * (moved_s + flops / 790e12)
    assert cost.window_s == cost.encode_s + cost.decode_s


def test_a_device_is_bound_by_what_it_lacks() -> None:
    decoder = cut_stages(LARGE_V3, [32, 32])[1]

    def seconds(flops_per_s: float, bytes_per_s: float) -> float:
        device = DeviceModel(flops_per_s, bytes_per_s, 139e9)
        cost = stage_cost(LARGE_V3, decoder, 1, GPU_BFLOAT16, device, Workload(64), 448, 8)
        return cost.decode_s

    slow_memory, slow_arithmetic = seconds(1e18, 1e12), seconds(1e12, 1e18)
    assert seconds(2e18, 1e12) == slow_memory == pytest.approx(seconds(1e18, 2e12) * 2)
    assert seconds(1e12, 2e18) == slow_arithmetic == pytest.approx(seconds(2e12, 1e18) * 2)


def test_ranks_share_a_stages_time() -> None:
    """Layers are split, by the largest share: 3 heads of 20 for eight ranks. Convolutions and what
    enters a layer are not."""
    one, two, eight = (
        [stage_cost(LARGE_V3, s, size, GPU_BFLOAT16, H200, Workload(64), 448, 8).window_s
         for s in cut_stages(LARGE_V3, [32, 32])]
        for size in (1, 2, 8)
    )  # fmt: skip
    for alone, half, part in zip(one, two, eight, strict=True):
        assert 0.5 <= half / alone < 0.52
        assert 1 / 8 < part / alone < 3.05 / 20


def test_a_prompt_costs_less_than_as_many_steps() -> None:
    stage = cut_stages(LARGE_V3, [32, 32])[1]

    def decode_s(prompt_tokens: float, tokens: float) -> float:
        workload = Workload(8, tokens, prompt_tokens)
        return stage_cost(LARGE_V3, stage, 1, GPU_BFLOAT16, H200, workload, 448, 8).decode_s

    assert decode_s(0, 100) < decode_s(50, 100) < decode_s(0, 150)


def test_groups_of_slots_read_the_weights_more_often() -> None:
    stage = cut_stages(LARGE_V3, [32, 32])[1]
    loads = Workload(64), Workload(64, n_groups=2)
    one, two = (decode_cost(stage, load) for load in loads)
    assert one.decode_s < two.decode_s < 2 * one.decode_s
    assert one.memory.cache == two.memory.cache
    cut = cut_stages(LARGE_V3, [32, 16, 16])
    costs = stage_costs(LARGE_V3, cut, [H200] * 3, 1, GPU_BFLOAT16, Workload(64), 448, 8)
    halves = sum(cost.decode_s for cost in costs)
    assert halves == pytest.approx(two.decode_s, rel=0.05)


def test_idle_share_of_two_stages_is_half_of_the_lighter_ones() -> None:
    costs = [StageCost(seconds, 1.0, MemoryUse(0, 0, 0, 0, 0)) for seconds in (2.0, 5.0)]
    assert [cost.window_s for cost in costs] == [3.0, 6.0]
    assert idle_share(costs) == pytest.approx((1 - 3 / 6) / 2)
    assert idle_share(costs[:1]) == 0


@pytest.mark.parametrize("field", ["flops_per_s", "bytes_per_s", "memory_bytes"])
def test_a_device_can_do_something(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} must be positive, got 0"):
        replace(H200, **{field: 0})


def test_a_workload_has_a_slot_for_each_group() -> None:
    with pytest.raises(ValueError, match="got 2 and 3"):
        Workload(2, n_groups=3)
    with pytest.raises(ValueError, match="must not be negative"):
        Workload(2, tokens_per_window=-1)


def test_what_our_kernels_read_on_a_gpu_they_read_once() -> None:
    """In float16, as on a T4, torch multiplies: it converts weights, and reads windows twice."""
    decoder, load = cut_stages(LARGE_V3, [32, 32])[1], Workload(16, prompt_tokens=0)

    def decode_s(precision: Precision, cross: CrossAttentionMode, capability: int) -> float:
        arithmetic = Arithmetic.of_gpu("a GPU", (capability, 5))
        formats = precision.formats(arithmetic, cross)
        slow_memory = DeviceModel(1e18, 1e12, 139e9)
        return stage_cost(LARGE_V3, decoder, 1, formats, slow_memory, load, 448, 8).decode_s

    cached, absorbed = CrossAttentionMode.CACHED, CrossAttentionMode.ABSORBED
    by_8_bits = CrossAttentionMode.CACHED_8BIT
    int8 = Precision.INT8_WEIGHT_ONLY
    assert decode_s(int8, cached, 8) < decode_s(Precision.BFLOAT16, cached, 8)
    assert decode_s(int8, cached, 7) > decode_s(Precision.FLOAT16, cached, 7)
    for cross in (absorbed, by_8_bits):
        half = decode_s(Precision.BFLOAT16, cross, 8)
        assert half < 0.75 * decode_s(Precision.BFLOAT16, cached, 8)
        assert half < 0.75 * decode_s(Precision.FLOAT16, cross, 7)

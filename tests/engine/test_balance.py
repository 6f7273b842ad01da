"""Cuts of a model into stages: as good as any."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import ModelDimensions
from engine.errors import ShardingError
from engine.model_sizes import LARGE_V3
from engine.parallel.balance import balance
from engine.parallel.cost import (
    DeviceModel,
    StageCost,
    Workload,
    idle_share,
    stage_cost,
    stage_costs,
)
from engine.parallel.stages import Stage, cut_stages
from tests.support.sizes import (
    ENCODE_BATCH,
    GPU_BFLOAT16,
    H200,
    MAX_LENGTH,
    SMALL,
    cuts,
    sizes,
)


def costs_of(
    stages: tuple[Stage, ...], devices: list[DeviceModel], dims: ModelDimensions = LARGE_V3
) -> list[StageCost]:
    return stage_costs(dims, stages, devices, 1, GPU_BFLOAT16, Workload(256), 448, 8)


def test_two_equal_gpus_cut_large_v3_near_the_decoder() -> None:
    stages = balance(LARGE_V3, [H200] * 2, 1, GPU_BFLOAT16, Workload(256), 448, 8)
    assert [len(stage.encoder) for stage in stages] == [32, 0]
    assert len(stages[0].decoder) < 12
    between = idle_share(costs_of(cut_stages(LARGE_V3, [32, 32]), [H200] * 2))
    assert idle_share(costs_of(stages, [H200] * 2)) < 0.15 < between


def test_a_slow_device_gets_fewer_layers() -> None:
    slow = DeviceModel(H200.flops_per_s / 4, H200.bytes_per_s / 4, H200.memory_bytes)

    def counts(*pair: DeviceModel) -> list[int]:
        stages = balance(LARGE_V3, pair, 1, GPU_BFLOAT16, Workload(256), 448, 8)
        return [stage.n_layers for stage in stages]

    even, second_slow, first_slow = counts(H200, H200), counts(H200, slow), counts(slow, H200)
    assert second_slow[1] < even[1]
    assert first_slow[0] < even[0]


def test_a_small_device_gets_what_fits() -> None:
    small = replace(H200, memory_bytes=20e9)
    stages = balance(LARGE_V3, [H200, small], 1, GPU_BFLOAT16, Workload(256), 448, 8)
    costs = costs_of(stages, [H200, small])
    assert costs[1].memory_bytes <= 20e9
    more = cut_stages(LARGE_V3, [stages[0].n_layers - 1, stages[1].n_layers + 1])
    assert costs_of(more, [H200, small])[1].memory_bytes > 20e9


def test_equally_fast_cuts_mix_no_kinds() -> None:
    """The last device is so slow that any cut of the other layers is as fast as another."""
    slow = DeviceModel(1e12, 1e10, 1e12)
    stages = balance(SMALL, [H200, H200, slow], 1, GPU_BFLOAT16, Workload(8), 64, 1)
    assert not any(stage.encoder and stage.decoder for stage in stages)


devices = st.builds(
    DeviceModel,
    st.sampled_from([1e11, 3e11, 1e12, 1e13]),
    st.sampled_from([1e9, 3e9, 1e10, 1e11]),
    st.sampled_from([1e6, 2e6, 4e6, 8e6, 1e9]),
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(devices, min_size=1, max_size=5),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([1, 2, 3]),
    st.sampled_from([1, 2, 16]),
    st.sampled_from([0.0, 5.0, 40.0]),
)
def test_no_cut_is_better(
    hardware: list[DeviceModel], encoder: int, decoder: int, size: int, n_slots: int, tokens: float
) -> None:
    dims = sizes(heads=3, head_dim=32, encoder=encoder, decoder=decoder)
    if len(hardware) > encoder + decoder:
        return
    rest = (size, GPU_BFLOAT16, Workload(n_slots, tokens), MAX_LENGTH, ENCODE_BATCH)
    ranked = []
    for cut in cuts(dims, len(hardware)):
        costs = stage_costs(dims, cut, hardware, *rest)
        if all(c.memory_bytes <= d.memory_bytes for c, d in zip(costs, hardware, strict=True)):
            seconds = [cost.window_s for cost in costs]
            n_mixed = sum(bool(stage.encoder and stage.decoder) for stage in cut)
            ranked.append(((max(seconds), n_mixed, sum(seconds)), cut))
    if not ranked:
        with pytest.raises(ShardingError, match="no cut of the model"):
            balance(dims, hardware, *rest)
        return
    chosen = balance(dims, hardware, *rest)
    best = min(key for key, _ in ranked)
    assert next(key for key, cut in ranked if cut == chosen) == pytest.approx(best, rel=1e-12)


def test_too_many_stages_are_an_error() -> None:
    with pytest.raises(ShardingError, match="1 to 5, .*2 encoder, 3 decoder.*got 6"):
        balance(SMALL, [H200] * 6, 1, GPU_BFLOAT16, Workload(4), 64, 1)
    with pytest.raises(ShardingError, match="got 0"):
        balance(SMALL, [], 1, GPU_BFLOAT16, Workload(4), 64, 1)


def test_more_ranks_than_heads_are_an_error() -> None:
    with pytest.raises(ShardingError, match="tensor_parallel must be 1 to 3"):
        balance(SMALL, [H200], 4, GPU_BFLOAT16, Workload(4), 64, 1)
    with pytest.raises(ShardingError, match="tensor_parallel must be 1 to 3"):
        stage_cost(SMALL, Stage.whole(SMALL), 4, GPU_BFLOAT16, H200, Workload(4), 64, 1)


def test_a_model_that_fits_nowhere_says_what_is_lacking() -> None:
    small = replace(H200, memory_bytes=5e9)
    with pytest.raises(ShardingError) as caught:
        balance(LARGE_V3, [small] * 2, 1, GPU_BFLOAT16, Workload(64), 448, 8)
    assert str(caught.value) == (
        "no cut of the model into 2 stages fits in memory: the nearest one needs 25 GB a rank of "
        "each stage in all, of 10 GB; stage 0 (encoder 0-31 and decoder 0-14) needs 12.8 GB and "
        "lacks 7.81 GB"
    )

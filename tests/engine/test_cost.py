"""Costs of pipeline stages: bytes as the modules really hold them, times as the arithmetic of the
model's sizes, and cuts as good as any."""

from dataclasses import replace
from functools import cache
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.random_model import LARGE_V3
from engine import ModelDimensions
from engine.config import NumberFormats, Precision
from engine.errors import ShardingError
from engine.kernels import native
from engine.kernels.linear import (
    Int8Linear,
    has_fast_bfloat16,
    has_fast_int8,
)
from engine.model.kv_cache import KVCache
from engine.model.layers import MLP
from engine.model.whisper import Whisper
from engine.parallel.balance import balance
from engine.parallel.cost import (
    DeviceModel,
    StageCost,
    Workload,
    idle_share,
    stage_cost,
    stage_costs,
)
from engine.parallel.group import SingleRank
from engine.parallel.partition import partition
from engine.parallel.stages import Stage, cut_stages
from engine.weights.random import RandomSource
from engine.weights.shapes import tensor_shapes
from engine.weights.source import WeightSource

CPU, META = torch.device("cpu"), torch.device("meta")
GPU_BFLOAT16 = NumberFormats(torch.bfloat16, torch.bfloat16)
H200 = DeviceModel(flops_per_s=790e12, bytes_per_s=4.8e12, memory_bytes=139e9)
N_SLOTS, MAX_LENGTH, ENCODE_BATCH = 3, 64, 2
BUSY = Workload(N_SLOTS)
needs_native = pytest.mark.skipif(not native.serves(CPU), reason="no native kernels here")
needs_onednn = pytest.mark.skipif(
    not (has_fast_int8() and has_fast_bfloat16()), reason="no instructions for few bits here"
)


def sizes(heads: int, head_dim: int = 64, encoder: int = 2, decoder: int = 3) -> ModelDimensions:
    """A model whose vocabulary and frames divide by no number of ranks or columns."""
    return ModelDimensions(
        n_mels=80,
        n_vocab=1003,
        n_audio_ctx=150,
        n_audio_state=heads * head_dim,
        n_audio_head=heads,
        n_audio_layer=encoder,
        n_text_ctx=64,
        n_text_state=heads * head_dim,
        n_text_head=heads,
        n_text_layer=decoder,
    )


SMALL = sizes(heads=3, head_dim=32)


class EmptySource:
    """Tensors of the right shapes that take no memory, for a model of any size."""

    def __init__(self, dims: ModelDimensions) -> None:
        self._shapes = tensor_shapes(dims)

    def __contains__(self, name: str) -> bool:
        return name in self._shapes

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def read(
        self, name: str, rows: slice | None = None, columns: slice | None = None
    ) -> torch.Tensor:
        tensor = torch.empty(self.shape(name), device=META)[rows or slice(None)]
        return tensor if columns is None else tensor[:, columns]


class FirstRank(SingleRank):
    """Of a group that is never asked to exchange anything."""

    def __init__(self, size: int) -> None:
        self.size = size


def load(
    dims: ModelDimensions,
    stage: Stage,
    size: int,
    formats: NumberFormats,
    device: torch.device,
    source: WeightSource | None = None,
) -> Whisper:
    source = source or (EmptySource(dims) if device == META else RandomSource(dims))
    return Whisper.load(source, dims, stage, FirstRank(size), device, formats)


def cache_of(
    dims: ModelDimensions, stage: Stage, size: int, formats: NumberFormats, device: torch.device
) -> KVCache:
    return KVCache(
        n_layers=len(stage.decoder),
        n_slots=N_SLOTS,
        n_heads=len(partition(dims.n_text_head, size)[0]),
        head_dim=dims.head_dim,
        max_length=MAX_LENGTH,
        n_audio_ctx=dims.n_audio_ctx,
        device=device,
        formats=formats,
    )


def cost_of(
    dims: ModelDimensions, stage: Stage, size: int, formats: NumberFormats, load: Workload = BUSY
) -> StageCost:
    return stage_cost(dims, stage, size, formats, H200, load, MAX_LENGTH, ENCODE_BATCH)


def check_bytes(
    dims: ModelDimensions, stage: Stage, size: int, formats: NumberFormats, device: torch.device
) -> None:
    cost = cost_of(dims, stage, size, formats)
    assert cost.weight_bytes == load(dims, stage, size, formats, device).n_bytes
    assert cost.cache_bytes == cache_of(dims, stage, size, formats, device).n_bytes
    assert cost.memory_bytes == cost.weight_bytes + cost.cache_bytes + cost.activation_bytes


def cuts(dims: ModelDimensions, n_stages: int) -> list[tuple[Stage, ...]]:
    n_layers = dims.n_audio_layer + dims.n_text_layer
    bounds = ((0, *ends, n_layers) for ends in combinations(range(1, n_layers), n_stages - 1))
    return [
        cut_stages(dims, [b - a for a, b in zip(ends, ends[1:], strict=False)]) for ends in bounds
    ]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_float32_holds_the_modules_bytes(size: int) -> None:
    """In every stage that a model of five layers can have."""
    formats = Precision.FLOAT32.formats(CPU)
    stages = {stage for n in (1, 2, 3) for cut in cuts(SMALL, n) for stage in cut}
    assert len(stages) == 15
    for stage in stages:
        check_bytes(SMALL, stage, size, formats, CPU)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1, 2, 3, 8, 20])
def test_large_v3_on_a_gpu_holds_the_modules_bytes(size: int, dtype: torch.dtype) -> None:
    """Twenty heads over eight ranks are 3, 3, 3, 3, 2, 2, 2, 2."""
    for stage in cut_stages(LARGE_V3, [12, 22, 20, 10]):
        check_bytes(LARGE_V3, stage, size, NumberFormats(dtype, dtype), META)


@needs_native
@pytest.mark.parametrize("precision", [Precision.BFLOAT16, Precision.INT8])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_native_kernels_hold_the_modules_bytes(size: int, precision: Precision) -> None:
    """A third of 1280 hidden units is 427, which they do not take."""
    dims = sizes(heads=5)
    for stage in cut_stages(dims, [1, 2, 1, 1]):
        check_bytes(dims, stage, size, precision.formats(CPU), CPU)


@needs_onednn
@pytest.mark.parametrize("precision", [Precision.BFLOAT16, Precision.INT8])
@pytest.mark.parametrize("size", [1, 2])
def test_onednn_holds_the_modules_bytes(size: int, precision: Precision) -> None:
    """Half of a decoder's MLP of this width is too small to be quantised."""
    dims = sizes(heads=12, encoder=1, decoder=1)
    with native.disabled():
        for stage in (Stage.whole(dims), *cut_stages(dims, [1, 1])):
            check_bytes(dims, stage, size, precision.formats(CPU), CPU)


@cache
def quantised_bytes(shape: torch.Size) -> int:
    kernel = Int8Linear(torch.rand(shape), None, torch.bfloat16)
    return sum(buffer.nbytes for buffer in kernel.buffers())


@pytest.mark.parametrize(("size", "decoder_too"), [(1, True), (4, False)])
def test_int8_on_a_gpu_holds_the_modules_bytes(size: int, decoder_too: bool) -> None:
    """A quarter of a decoder's MLP is too small to be quantised."""
    for stage in cut_stages(LARGE_V3, [32, 32]):
        model = load(LARGE_V3, stage, size, GPU_BFLOAT16, META)
        expected = model.n_bytes
        for part in (model.encoder, model.decoder if decoder_too else None):
            for mlp in (m for m in part.modules() if isinstance(m, MLP)) if part else ():
                for kernel in (mlp.fc1.kernel, mlp.fc2.kernel):
                    expected -= sum(buffer.nbytes for buffer in kernel.buffers())
                    expected += quantised_bytes(kernel.weight.shape)
        cost = cost_of(LARGE_V3, stage, size, replace(GPU_BFLOAT16, int8=True))
        assert cost.weight_bytes == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("precision", Precision)
@pytest.mark.parametrize("size", [1, 2])
def test_a_gpu_holds_the_modules_bytes(size: int, precision: Precision) -> None:
    cuda, dims = torch.device("cuda"), sizes(heads=12)
    for stage in cut_stages(dims, [1, 2, 1, 1]):
        check_bytes(dims, stage, size, precision.formats(cuda), cuda)


def test_activations_shrink_with_what_makes_them() -> None:
    whole = Stage.whole(LARGE_V3)
    shapes = [(1, 16, 256), (1, 8, 256), (4, 8, 256), (4, 8, 64), (20, 1, 1)]
    estimates = [
        stage_cost(
            LARGE_V3, whole, size, GPU_BFLOAT16, H200, Workload(slots), 448, batch
        ).activation_bytes
        for size, batch, slots in shapes
    ]
    assert estimates == sorted(estimates, reverse=True)
    hidden = 8 * 1500 * 4 * 1280 * 2
    assert hidden < estimates[1] < 9 * hidden


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
    one, two = (cost_of(LARGE_V3, stage, 1, GPU_BFLOAT16, load) for load in loads)
    assert one.decode_s < two.decode_s < 2 * one.decode_s
    assert one.cache_bytes == two.cache_bytes
    cut = cut_stages(LARGE_V3, [32, 16, 16])
    costs = stage_costs(LARGE_V3, cut, [H200] * 3, 1, GPU_BFLOAT16, Workload(64), 448, 8)
    halves = sum(cost.decode_s for cost in costs)
    assert halves == pytest.approx(two.decode_s, rel=0.05)


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
        cost_of(SMALL, Stage.whole(SMALL), 4, GPU_BFLOAT16)


def test_a_model_that_fits_nowhere_says_what_is_lacking() -> None:
    small = replace(H200, memory_bytes=5e9)
    with pytest.raises(ShardingError) as caught:
        balance(LARGE_V3, [small] * 2, 1, GPU_BFLOAT16, Workload(64), 448, 8)
    assert str(caught.value) == (
        "no cut of the model into 2 stages fits in memory: the nearest one needs 24.8 GB a rank of "
        "each stage in all, of 10 GB; stage 0 (encoder 0-31 and decoder 0-14) needs 12.7 GB and "
        "lacks 7.7 GB"
    )


def test_idle_share_of_two_stages_is_half_of_the_lighter_ones() -> None:
    costs = [StageCost(seconds, 1.0, 0, 0, 0) for seconds in (2.0, 5.0)]
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

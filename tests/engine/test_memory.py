"""Bytes by kind: as the modules really hold them, in every number format and split."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from engine import CrossAttentionMode, ModelDimensions, Precision
from engine.kernels import native_builds
from engine.kernels.linear import Int8Linear, has_fast_bfloat16, has_fast_int8
from engine.memory import Load, MemoryUse, memory_use
from engine.model.kv_cache import CacheSizes, KVCache
from engine.model.layers import MLP
from engine.model.whisper import Whisper
from engine.model_sizes import LARGE_V3
from engine.parallel.group import SingleRank
from engine.parallel.partition import partition
from engine.parallel.shares import RankShare
from engine.parallel.stages import Stage, cut_stages
from engine.precision import Arithmetic, NumberFormats, WeightFormat
from engine.weights.random import RandomSource
from engine.weights.shapes import tensor_shapes
from engine.weights.source import WeightSource
from tests.support.sizes import (
    ENCODE_BATCH,
    GPU_BFLOAT16,
    MAX_LENGTH,
    N_SLOTS,
    SMALL,
    cuts,
    sizes,
)

CPU, META = torch.device("cpu"), torch.device("meta")
ON_CPU = Arithmetic.of(CPU)
LOAD = Load(N_SLOTS, MAX_LENGTH, ENCODE_BATCH)
needs_native = pytest.mark.skipif(not native_builds.serves(CPU), reason="no native kernels here")
needs_onednn = pytest.mark.skipif(
    not (has_fast_int8() and has_fast_bfloat16()), reason="no instructions for few bits here"
)


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
    shape = CacheSizes(
        n_layers=len(stage.decoder),
        n_slots=N_SLOTS,
        n_heads=len(partition(dims.n_text_head, size)[0]),
        head_dim=dims.head_dim,
        max_length=MAX_LENGTH,
        n_audio_ctx=dims.n_audio_ctx,
        n_state=dims.n_audio_state,
    )
    return KVCache(shape, device, formats)


def use_of(
    dims: ModelDimensions, stage: Stage, size: int, formats: NumberFormats, load: Load = LOAD
) -> MemoryUse:
    return memory_use(RankShare.of(dims, stage, size, formats), load)


def check_bytes(
    dims: ModelDimensions, stage: Stage, size: int, formats: NumberFormats, device: torch.device
) -> None:
    use = use_of(dims, stage, size, formats)
    assert use.weights == load(dims, stage, size, formats, device).n_bytes
    assert use.cache == cache_of(dims, stage, size, formats, device).n_bytes
    assert use.total == use.weights + use.cache + use.activations


@pytest.mark.parametrize("size", [1, 2, 3])
def test_float32_holds_the_modules_bytes(size: int) -> None:
    """In every stage that a model of five layers can have."""
    formats = Precision.FLOAT32.formats(ON_CPU)
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
        check_bytes(dims, stage, size, precision.formats(ON_CPU), CPU)


@needs_onednn
@pytest.mark.parametrize("precision", [Precision.BFLOAT16, Precision.INT8])
@pytest.mark.parametrize("size", [1, 2])
def test_onednn_holds_the_modules_bytes(size: int, precision: Precision) -> None:
    """Half of a decoder's MLP of this width is too small to be quantised."""
    dims = sizes(heads=12, encoder=1, decoder=1)
    with native_builds.disabled():
        for stage in (Stage.whole(dims), *cut_stages(dims, [1, 1])):
            check_bytes(dims, stage, size, precision.formats(ON_CPU), CPU)


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
        formats = replace(GPU_BFLOAT16, weights=WeightFormat.INT8_DYNAMIC)
        assert use_of(LARGE_V3, stage, size, formats).weights == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("precision", Precision)
@pytest.mark.parametrize("size", [1, 2])
def test_a_gpu_holds_the_modules_bytes(size: int, precision: Precision) -> None:
    cuda, dims = torch.device("cuda"), sizes(heads=12)
    if not precision.is_supported(Arithmetic.of(cuda)):
        pytest.skip(f"this device has no {precision}")
    for stage in cut_stages(dims, [1, 2, 1, 1]):
        check_bytes(dims, stage, size, precision.formats(Arithmetic.of(cuda)), cuda)


def kept_formats() -> list[object]:
    """Each way to keep weights, windows and tokens, on a CPU."""
    weights = (Precision.INT8_WEIGHT_ONLY, Precision.INT4_G32, Precision.INT4_G128)
    plain = (Precision.FLOAT32, Precision.BFLOAT16, Precision.FLOAT16, Precision.INT8)
    made = [(precision, CrossAttentionMode.CACHED, False) for precision in weights]
    made += [(precision, mode, True) for precision in plain for mode in CrossAttentionMode]
    return [
        pytest.param(p.formats(ON_CPU, mode, own), id=f"{p} {mode} {'8-bit tokens' * own}")
        for p, mode, own in made
    ]


@pytest.mark.parametrize("formats", kept_formats())
@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_way_of_keeping_holds_the_modules_bytes(size: int, formats: NumberFormats) -> None:
    """Slices of 320 columns and 427 hidden units divide by no group of 32 or 128."""
    dims = sizes(heads=5)
    for stage in (Stage.whole(dims), *cut_stages(dims, [1, 2, 1, 1])):
        check_bytes(dims, stage, size, formats, CPU)


def test_absorbed_needs_one_state_where_cached_needs_keys_and_values() -> None:
    """1 / (2 layers) of the bytes: 64 for large-v3; on each rank the whole state."""
    absorbed = replace(GPU_BFLOAT16, cross=CrossAttentionMode.ABSORBED)
    whole = Stage.whole(LARGE_V3)
    state = 1500 * 1280 * 2
    for size in (1, 2, 4):
        cached = use_of(LARGE_V3, whole, size, GPU_BFLOAT16).cross
        assert cached == N_SLOTS * 2 * 32 * state / size
        assert use_of(LARGE_V3, whole, size, absorbed).cross == N_SLOTS * state


def test_fewer_bits_are_fewer_bytes() -> None:
    gpu = Arithmetic.of_gpu("NVIDIA H100", (9, 0))
    names = ["float32", "bfloat16", "int8", "int8-weight-only", "int4-g32", "int4-g64", "int4-g128"]
    whole = Stage.whole(LARGE_V3)
    weights = [use_of(LARGE_V3, whole, 1, Precision(name).formats(gpu)).weights for name in names]
    assert weights == sorted(weights, reverse=True)
    # 1,543 M parameters, of which 66 M are token embeddings.
    assert weights[0] == pytest.approx(1_543e6 * 4, rel=0.001)
    assert weights[3] == pytest.approx(1_543e6 + 70e6, rel=0.01)


def test_activations_shrink_with_what_makes_them() -> None:
    whole = Stage.whole(LARGE_V3)
    shapes = [(1, 16, 256), (1, 8, 256), (4, 8, 256), (4, 8, 64), (20, 1, 1)]
    estimates = [
        use_of(LARGE_V3, whole, size, GPU_BFLOAT16, Load(slots, 448, batch)).activations
        for size, batch, slots in shapes
    ]
    assert estimates == sorted(estimates, reverse=True)
    hidden = 8 * 1500 * 4 * 1280 * 2
    assert hidden < estimates[1] < 9 * hidden

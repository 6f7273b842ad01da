"""Number formats: what quantising costs, and that a row's bits are its own."""

import pytest
import torch
from torch.nn import functional as F

from engine.errors import WeightsError
from engine.kernels import convolution, native_builds
from engine.kernels.attention import (
    _attend_in_blocks,
    attend_window,
    merge_heads,
    split_heads,
)
from engine.kernels.convolution import convolution_dtype, convolve
from engine.kernels.linear import (
    Int8Linear,
    LinearKernel,
    NativeBfloat16Linear,
    NativeInt8Linear,
    OneDnnInt8Linear,
    PackedLinear,
    PlainBfloat16Linear,
    has_fast_bfloat16,
    has_fast_int8,
)
from engine.kernels.quantize import quantize_gelu_rows, quantize_rows, quantize_weight
from engine.kernels.weight_only import Fp8Linear, int4_weight_linear, int8_weight_linear
from engine.model.cross_cache import Int8CrossCache
from engine.parallel.shares import LinearShare
from engine.precision import NumberFormats, WeightFormat

IN, OUT = 96, 160


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [1e-20, 1.0, 1e20])
def test_rows_come_back_within_half_a_step(size: float) -> None:
    x = random(50, IN) * size * torch.logspace(-3, 3, 50)[:, None]
    quantized, scale = quantize_rows(x)
    assert quantized.dtype == torch.int8 and quantized.abs().amax(1).eq(127).all()
    assert ((quantized * scale - x).abs() <= 0.5001 * scale).all()


def test_a_row_of_zeros_stays_zero() -> None:
    quantized, scale = quantize_rows(torch.zeros(2, IN))
    assert quantized.eq(0).all() and scale.isfinite().all()
    quantized, scale, zero_point = quantize_gelu_rows(torch.zeros(2, IN))
    assert ((quantized - zero_point) * scale).eq(0).all()


@pytest.mark.parametrize("greatest", [0.01, 1.0, 60.0])
def test_gelu_rows_come_back_within_half_a_step(greatest: float) -> None:
    x = F.gelu(random(50, IN))
    x = torch.where(x > 0, x / x.max() * greatest, x)
    x[:, ::7] = 0.0
    quantized, scale, zero_point = quantize_gelu_rows(x)
    back = (quantized - zero_point) * scale
    # The zero point is rounded, so the depth of -0.17 may miss the range by half a step.
    assert ((back - x).abs() <= 1.0001 * scale).all()
    assert back[:, ::7].eq(0).all(), "zeros stay zeros"
    assert (scale <= (greatest + 0.18) / 255).all(), "finer than a symmetric range"


def test_each_output_has_its_own_scale() -> None:
    weight = random(OUT, IN) * torch.logspace(-4, 4, OUT)[:, None]
    quantized, scale = quantize_weight(weight)
    assert scale.shape == (OUT,)
    assert ((quantized * scale[:, None] - weight).abs() <= 0.5001 * scale[:, None]).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(value: float) -> None:
    weight = random(OUT, IN)
    weight[3, 4] = value
    with pytest.raises(WeightsError, match="not finite"):
        quantize_weight(weight)


def kernels() -> list[object]:
    weight, bias = random(OUT, IN, seed=1) * IN**-0.5, random(OUT, seed=2)
    made = [
        pytest.param(Int8Linear(weight, bias, torch.float32), False, id="int8"),
        pytest.param(Int8Linear(weight, bias, torch.float32, True), True, id="int8 of gelu"),
        pytest.param(PlainBfloat16Linear(weight, bias, torch.float32), False, id="plain bfloat16"),
    ]
    if has_fast_int8():
        of_gelu = OneDnnInt8Linear(weight, bias, torch.float32, True)
        made += [
            pytest.param(OneDnnInt8Linear(weight, bias, torch.float32), False, id="onednn int8"),
            pytest.param(of_gelu, True, id="onednn int8 of gelu"),
        ]
    if native_builds.serves(torch.device("cpu")):
        of_gelu = NativeInt8Linear(weight, bias, torch.float32, True)
        made += [
            pytest.param(NativeInt8Linear(weight, bias, torch.float32), False, id="native int8"),
            pytest.param(of_gelu, True, id="native int8 of gelu"),
            pytest.param(
                NativeBfloat16Linear(weight, bias, torch.float32), False, id="native bfloat16"
            ),
        ]
    if has_fast_bfloat16():
        made.append(pytest.param(PackedLinear(weight, bias, torch.float32), False, id="bfloat16"))
    return made


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize(("kernel", "of_gelu"), kernels())
def test_products_are_near_float32s(kernel: LinearKernel, of_gelu: bool, gelu: bool) -> None:
    weight, bias = random(OUT, IN, seed=1) * IN**-0.5, random(OUT, seed=2)
    x = random(3, 40, IN, seed=3)
    x = F.gelu(x) if of_gelu else x
    exact = F.linear(x, weight, bias)
    exact = F.gelu(exact) if gelu else exact
    y = kernel(x, gelu)
    assert y.shape == exact.shape and y.dtype == torch.float32
    assert (y - exact).norm() < 0.015 * exact.norm()


@pytest.mark.parametrize(("kernel", "of_gelu"), kernels())
def test_a_row_has_the_same_bits_in_any_batch(kernel: LinearKernel, of_gelu: bool) -> None:
    x = random(1500, IN, seed=4)
    x = F.gelu(x) if of_gelu else x
    together = kernel(x)
    for n in (4, 8, 12, 16, 20, 24, 60):
        parts = [kernel(x[start : start + n]) for start in range(0, 1500 - n, n)]
        assert torch.equal(torch.cat(parts), together[: n * len(parts)]), f"{n} rows"
    other_neighbours = kernel(torch.cat([x[:1], 1000 * x[1:8]]))
    assert torch.equal(other_neighbours[:1], together[:1])


@pytest.mark.skipif(not has_fast_int8(), reason="no 8-bit instructions here")
@pytest.mark.parametrize("of_gelu", [False, True])
def test_both_int8_kernels_agree(of_gelu: bool) -> None:
    weight, bias = random(OUT, IN, seed=1), random(OUT, seed=2)
    x = F.gelu(random(20, IN, seed=5))
    plain = Int8Linear(weight, bias, torch.float32, of_gelu)(x)
    torch.testing.assert_close(
        OneDnnInt8Linear(weight, bias, torch.float32, of_gelu)(x), plain, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_convolutions_are_near_float64s(dtype: torch.dtype, stride: int) -> None:
    """In one format whatever the CPU multiplies in."""
    x, weight, bias = random(2, 20, 301), random(OUT, 20, 3, seed=1), random(OUT, seed=2)
    x, weight, bias = (part.to(dtype) for part in (x, weight, bias))
    exact = F.conv1d(x.double(), weight.double(), bias.double(), stride=stride, padding=1)
    ours = convolve(x, weight, bias, stride)
    assert ours.dtype == dtype and ours.shape == exact.shape
    wrong = (ours.double() - exact).norm() / exact.norm()
    assert wrong < (1e-6 if dtype == torch.float32 else 4e-3)


@pytest.mark.parametrize("has", [False, True])
def test_convolutions_are_multiplied_in_what_is_fast(
    has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convolution, "has_onednn_bfloat16", lambda: has)
    expected = torch.bfloat16 if has else torch.float32
    assert convolution_dtype(torch.bfloat16, is_cpu=True) == expected
    assert convolution_dtype(torch.bfloat16, is_cpu=False) == torch.bfloat16
    assert convolution_dtype(torch.float16, is_cpu=True) == torch.float16


@pytest.mark.parametrize("length", [1537, 1536, 1500, 1100, 37, 1])
def test_attention_of_windows_is_attention(length: int) -> None:
    qkv = random(2, length, 3 * 2 * 64).to(torch.bfloat16)
    q, k, v = (split_heads(x, 64) for x in qkv.chunk(3, dim=-1))
    exact = merge_heads(F.scaled_dot_product_attention(q.float(), k.float(), v.float()))
    for out in (attend_window(qkv, 64), merge_heads(_attend_in_blocks(q, k, v))):
        assert out.shape == exact.shape and out.dtype == torch.bfloat16
        assert (out.float() - exact).norm() < 0.01 * exact.norm()


def weight_only(product: torch.dtype, many_rows: bool, group_size: int = 0) -> list[LinearKernel]:
    weight, bias = random(OUT, IN, seed=1) * IN**-0.5, random(OUT, seed=2)
    rest = (weight, bias, torch.float32, product)
    if not group_size:
        return [int8_weight_linear(*rest, many_rows)]
    return [int4_weight_linear(*rest, group_size, many_rows)]


@pytest.mark.parametrize("many_rows", [False, True])
@pytest.mark.parametrize(("group_size", "error"), [(0, 0.01), (32, 0.1), (64, 0.12), (128, 0.15)])
@pytest.mark.parametrize("product", [torch.bfloat16, torch.float16])
def test_weights_in_few_bits_are_near_float32s(
    product: torch.dtype, group_size: int, error: float, many_rows: bool
) -> None:
    """Also where the last group is not full: 96 inputs are three quarters of 128."""
    if product == torch.float16 and not many_rows:
        pytest.skip("a CPU computes few rows in bfloat16")
    (kernel,) = weight_only(product, many_rows, group_size)
    x = random(2, 12, IN, seed=3)
    weight, bias = random(OUT, IN, seed=1) * IN**-0.5, random(OUT, seed=2)
    for gelu in (False, True):
        exact = F.linear(x, weight, bias)
        exact = F.gelu(exact) if gelu else exact
        y = kernel(x, gelu)
        assert y.shape == exact.shape and y.dtype == torch.float32
        assert (y - exact).norm() < error * exact.norm()


def test_float16_holds_products_of_8_bit_weights() -> None:
    """A hidden unit's thousand inputs of 1 times 127 are beyond what it holds."""
    weight = torch.ones(16, 1024) * 0.01
    kernel = int8_weight_linear(weight, None, torch.float32, torch.float16, many_rows=True)
    y = kernel(torch.ones(4, 1024))
    assert (y - 10.24).abs().max() < 0.05


def test_float16_holds_8_bit_values_that_are_small() -> None:
    """1500 frames of equal weight, whose values are thousandths."""
    values = 0.001 * (1 + random(1, 1500, 64).abs())
    kv = torch.cat([torch.zeros(1, 1500, 64), values], dim=-1)
    cache = Int8CrossCache((1, 1, 1500, 64), torch.device("cpu"), torch.float16)
    cache.fill(kv, slice(0, 1))
    attended = cache.attend(torch.zeros(1, 1, 64), slice(0, 1))
    assert (attended[0, 0] / values[0].mean(0) - 1).abs().max() < 0.01


def test_fp8_is_near_float32_and_takes_what_it_says() -> None:
    """torch multiplies e4m3 on a CPU as well; no size divides by 16."""
    weight, bias = random(50, 40, seed=1) * 40**-0.5, random(50, seed=2)
    kernel = Fp8Linear(weight, bias, torch.bfloat16)
    x = random(3, 7, 40, seed=3).bfloat16()
    exact = F.linear(x.float(), weight, bias)
    assert (kernel(x).float() - exact).norm() < 0.05 * exact.norm()
    formats = NumberFormats(torch.bfloat16, torch.bfloat16, WeightFormat.FP8)
    share = LinearShare(50, 40, kept=WeightFormat.FP8)
    assert sum(buffer.nbytes for buffer in kernel.buffers()) == share.n_bytes(formats)

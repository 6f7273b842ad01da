"""y = x W^T + b for the few rows of a decoder step, with what stands around it in one launch: the
norm before, the GELU or the sum with the residual after.

Weights are 16-bit, or 8-bit or 4-bit integers that are converted in registers, so that what a step
waits for, the bytes of the weights, is read once and as it is stored. Sums are float32.

Shapes: n rows, K inputs, N outputs.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from engine.kernels.triton.launch import PRESENT, Argument, Launch, capability, power_of_two
from engine.kernels.triton.tiling import NONE_CHOSEN, Tiling, Tilings
from engine.kernels.triton.weights import MAX_ROWS, Norm, Weight

_MIN_ROWS = 16
_MAX_GROUP = 128
_ROOT_HALF = tl.constexpr(0.7071067811865476)


@triton.jit
def _row_statistics(x, rows, n, depth, eps, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr):
    """The mean of each row, and the reciprocal of its standard deviation."""
    total = tl.zeros((BLOCK_M,), tl.float32)
    squares = tl.zeros((BLOCK_M,), tl.float32)
    for start in range(0, depth, BLOCK_K):
        at = start + tl.arange(0, BLOCK_K)
        inside = (rows[:, None] < n) & (at[None, :] < depth)
        part = tl.load(x + rows[:, None] * depth + at[None, :], mask=inside, other=0.0)
        part = part.to(tl.float32)
        total += tl.sum(part, 1)
        squares += tl.sum(part * part, 1)
    mean = total / depth
    variance = tl.maximum(squares / depth - mean * mean, 0.0)
    return mean, 1.0 / tl.sqrt(variance + eps)


@triton.jit
def _rows_at(x, norm_weight, norm_bias, rows, at, n, depth, mean, scale, HAS_NORM: tl.constexpr):
    """Values `at` of the rows, normalised as torch does: in float32, rounded once."""
    inside = (rows[:, None] < n) & (at[None, :] < depth)
    part = tl.load(x + rows[:, None] * depth + at[None, :], mask=inside, other=0.0)
    if HAS_NORM:
        gain = tl.load(norm_weight + at, mask=at < depth, other=0.0).to(tl.float32)
        shift = tl.load(norm_bias + at, mask=at < depth, other=0.0).to(tl.float32)
        normed = (part.to(tl.float32) - mean[:, None]) * scale[:, None]
        normed = normed * gain[None, :] + shift[None, :]
        part = normed.to(x.dtype.element_ty)
    return part


@triton.jit
def _finish(
    total, out, bias, residual, rows, columns, n, width,
    HAS_BIAS: tl.constexpr, GELU: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
):  # fmt: skip
    """Bias, GELU and residual, in float32, and the one rounding at the end."""
    if HAS_BIAS:
        added = tl.load(bias + columns, mask=columns < width, other=0.0)
        total += added.to(tl.float32)[None, :]
    if GELU:
        total = 0.5 * total * (1.0 + tl.math.erf(total * _ROOT_HALF))
    inside = (rows[:, None] < n) & (columns[None, :] < width)
    places = rows[:, None] * width + columns[None, :]
    if HAS_RESIDUAL:
        # The product is rounded first, as by a layer of its own.
        rounded = total.to(out.dtype.element_ty).to(tl.float32)
        total = tl.load(residual + places, mask=inside, other=0.0).to(tl.float32) + rounded
    tl.store(out + places, total.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["n"])
def linear_kernel(
    x, weight, scale, bias, norm_weight, norm_bias, residual, out, n, depth, width, eps,
    HAS_NORM: tl.constexpr, HAS_SCALE: tl.constexpr, HAS_BIAS: tl.constexpr,
    GELU: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """A program computes BLOCK_N outputs of BLOCK_M rows."""
    rows = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    mean = tl.zeros((BLOCK_M,), tl.float32)
    deviation = mean
    if HAS_NORM:
        mean, deviation = _row_statistics(x, rows, n, depth, eps, BLOCK_M, BLOCK_K)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, depth, BLOCK_K):
        at = start + tl.arange(0, BLOCK_K)
        part = _rows_at(x, norm_weight, norm_bias, rows, at, n, depth, mean, deviation, HAS_NORM)
        places = columns[None, :] * depth + at[:, None]
        inside = (columns[None, :] < width) & (at[:, None] < depth)
        values = tl.load(weight + places, mask=inside, other=0.0)
        total = tl.dot(part, values.to(part.dtype), total)
    if HAS_SCALE:
        total *= tl.load(scale + columns, mask=columns < width, other=0.0).to(tl.float32)[None, :]
    _finish(total, out, bias, residual, rows, columns, n, width, HAS_BIAS, GELU, HAS_RESIDUAL)


@triton.jit(do_not_specialize=["n"])
def grouped_kernel(
    x, weight, scale, bias, norm_weight, norm_bias, residual, out, n, depth, width, eps,
    HAS_NORM: tl.constexpr, HAS_BIAS: tl.constexpr, GELU: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """4-bit weights. A turn of the loop is a group: q - 8 of 4 bits is exact in 16, and its product
    is scaled once for all inputs of the group; the zero point meets the sum of the inputs."""
    rows = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    mean = tl.zeros((BLOCK_M,), tl.float32)
    deviation = mean
    if HAS_NORM:
        mean, deviation = _row_statistics(x, rows, n, depth, eps, BLOCK_M, BLOCK_K)
    half: tl.constexpr = GROUP // 2
    n_groups = (depth + GROUP - 1) // GROUP
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for group in range(n_groups):
        at = group * GROUP + 2 * tl.arange(0, half)
        even = _rows_at(x, norm_weight, norm_bias, rows, at, n, depth, mean, deviation, HAS_NORM)
        odd = _rows_at(x, norm_weight, norm_bias, rows, at + 1, n, depth, mean, deviation, HAS_NORM)
        places = columns[None, :] * (n_groups * half) + (group * half + tl.arange(0, half))[:, None]
        both = tl.load(weight + places, mask=(columns < width)[None, :], other=0).to(tl.int32)
        low, high = (both & 15) - 8, (both >> 4) - 8
        product = tl.dot(even, low.to(even.dtype))
        product = tl.dot(odd, high.to(odd.dtype), product)
        of_group = scale + 2 * (columns * n_groups + group)
        step = tl.load(of_group, mask=columns < width, other=0.0).to(tl.float32)
        zero = tl.load(of_group + 1, mask=columns < width, other=0.0).to(tl.float32)
        inputs = tl.sum(even.to(tl.float32), 1) + tl.sum(odd.to(tl.float32), 1)
        total += product * step[None, :] + inputs[:, None] * zero[None, :]
    _finish(total, out, bias, residual, rows, columns, n, width, HAS_BIAS, GELU, HAS_RESIDUAL)


class Product(NamedTuple):
    """The products that one tiling is chosen for.

    Attributes:
        rows: of a program.
        dtype, stored: of the inputs and of the weights.
        group_size: as in `Weight`.
    """

    rows: int
    depth: int
    width: int
    dtype: torch.dtype
    stored: torch.dtype
    group_size: int
    has_norm: bool


def tilings(product: Product, target: int) -> tuple[Tiling, ...]:
    """What may be chosen for a capability such as 90; the first unless something else is known.
    An output's sum is the same whatever other outputs the program has."""
    first = _usual(product, target)
    if target < 80:
        return (first,)
    blocks = [block for block in (16, 32, 64) if block != first.block and block <= product.width]
    others = [Tiling(block, first.stages) for block in blocks]
    others += [Tiling(first.block, stages) for stages in (2, 3, 5, 6)]
    return (first, *others)


def _usual(product: Product, target: int) -> Tiling:
    block = 32 if product.width >= 2048 or product.rows == MAX_ROWS else 16
    # Copies that run ahead of the product came with Ampere.
    return Tiling(block, 4 if target >= 80 else 2)


def linear_launch(
    x: torch.Tensor,
    weight: Weight,
    bias: torch.Tensor | None,
    norm: Norm | None,
    gelu: bool,
    residual: torch.Tensor | None,
    out: torch.Tensor,
    wanted: int = PRESENT,
    chosen: Tilings = NONE_CHOSEN,
) -> Launch:
    """(n, K) -> (n, N).

    Args:
        x: contiguous, 16-bit.
        residual: (n, N), what the product is added to; may be `out`.
        out: (n, N), contiguous.
        wanted: the capability to launch for.
        chosen: by `Product`; the first of `tilings` where there is none.
    """
    (n, depth), width = x.shape, len(weight.values)
    # A pointer that is not read stands for what there is not.
    arguments: dict[str, Argument] = {
        "x": x,
        "weight": weight.values,
        "scale": x if weight.scale is None else weight.scale,
        "bias": x if bias is None else bias,
        "norm_weight": x if norm is None else norm.weight,
        "norm_bias": x if norm is None else norm.bias,
        "residual": out if residual is None else residual,
        "out": out,
        "n": n,
        "depth": depth,
        "width": width,
        "eps": 0.0 if norm is None else norm.eps,
    }
    rows = min(max(power_of_two(n), _MIN_ROWS), MAX_ROWS)
    stored, size = weight.values.dtype, weight.group_size
    product = Product(rows, depth, width, x.dtype, stored, size, norm is not None)
    block_n, stages = chosen.get(product) or _usual(product, capability(x, wanted))
    # Of those that spill nothing on any target (benchmarks.gpu_kernels).
    block_k = 64 if product.rows == MAX_ROWS or weight.group_size == _MAX_GROUP else 128
    constants = {
        "HAS_NORM": norm is not None,
        "HAS_BIAS": bias is not None,
        "GELU": gelu,
        "HAS_RESIDUAL": residual is not None,
        "BLOCK_M": product.rows,
        "BLOCK_N": block_n,
        "BLOCK_K": block_k,
    }
    if weight.group_size:
        constants["GROUP"] = weight.group_size
    else:
        constants["HAS_SCALE"] = weight.scale is not None
    kernel = grouped_kernel if weight.group_size else linear_kernel
    grid = (triton.cdiv(width, block_n), triton.cdiv(n, product.rows))
    warps = 8 if weight.group_size and product.rows == MAX_ROWS else 4
    return Launch(kernel, grid, arguments, constants, warps, stages)

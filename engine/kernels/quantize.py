"""Symmetric 8-bit quantisation: one scale per row of activations, one scale per output of weights.

A row's scale depends only on that row, and products of integers are exact. So a sequence's numbers
never depend on its batch.
"""

import torch

from engine.errors import WeightsError

_LEVELS = 127
_GELU_DEPTH = 0.17
"""A GELU never goes below minus this."""
_BLOCK_ROWS = 4096
_SMALLEST = 1e-30
"""Replaces the greatest value of a row of zeros, whose scale would otherwise be zero."""


def quantize_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(..., k) float -> (..., k) int8 and (..., 1) float32 scales. Their product is the input,
    within half a step of each row."""
    x = x.float()
    greatest = x.abs().amax(-1, keepdim=True).clamp_(min=_SMALLEST)
    # Multiply, round and convert in separate passes: each is vectorised on a CPU.
    return (x * (_LEVELS / greatest)).round_().to(torch.int8), greatest / _LEVELS


def quantize_gelu_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(n, k) outputs of a GELU -> (n, k) int8, (n, 1) float32 scale and zero point, such that
    scale * (int8 - zero point) is the input within half a step of each row.

    The outputs lie between -0.17 and the row's greatest value, so an asymmetric range has steps
    half as wide as a symmetric one. The zero point is a whole number, because most outputs are
    almost zero and must stay so.
    """
    x = x.float()
    scale = (x.amax(1, keepdim=True).clamp_(min=0.0) + _GELU_DEPTH) / 255
    zero_point = (_GELU_DEPTH / scale).round_() - 128
    quantized = (x * (1 / scale) + zero_point).round_().clamp_(-128, 127)
    return quantized.to(torch.int8), scale, zero_point


def quantize_weight(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(out, in) float -> (out, in) int8 and (out,) float32 scales.

    Raises:
        WeightsError: a weight is infinite or NaN, which integers would hide.
    """
    quantized = torch.empty_like(weight, dtype=torch.int8)
    scale = weight.new_empty(len(weight), dtype=torch.float32)
    # In blocks: the intermediate steps make copies, and a vocabulary's layer has 265 MB.
    for block in range(0, len(weight), _BLOCK_ROWS):
        rows = slice(block, block + _BLOCK_ROWS)
        quantized[rows], part = quantize_rows(weight[rows])
        scale[rows] = part[:, 0]
    if not scale.isfinite().all():
        raise WeightsError("the weights hold values that are not finite")
    return quantized, scale


_SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)
"""Parts of a group's range that its 16 steps may span: values outside are clipped, and the others
get finer steps."""


def quantize_groups(
    weight: torch.Tensor, group_size: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(out, in) float -> (out, in) uint8 of 0 to 15, and scale and zero point of each group of
    inputs, (out, in / group_size) of `dtype`; `dequantize_groups` reverses it.

    Each group gets the one of several ranges with the least squared error.
    """
    groups = weight.float().view(len(weight), -1, group_size)
    least, greatest = groups.aminmax(dim=-1, keepdim=True)
    best: list[torch.Tensor] | None = None
    for shrink in _SHRINKS:
        tried = _quantize_range(groups, shrink * least, shrink * greatest, dtype)
        best = tried if best is None else _better(best, tried)
    assert best is not None
    quantized, scale, zero, _ = best
    return quantized.flatten(1), scale[..., 0], zero[..., 0]


def _quantize_range(
    groups: torch.Tensor, least: torch.Tensor, greatest: torch.Tensor, dtype: torch.dtype
) -> list[torch.Tensor]:
    """Integers, scale, zero point and squared error, all with the groups' dimensions."""
    scale = ((greatest - least) / 15).clamp_(min=_SMALLEST).to(dtype)
    zero = (least + 8 * scale.float()).to(dtype)
    quantized = ((groups - zero.float()) / scale.float()).round_().add_(8).clamp_(0, 15)
    back = (quantized - 8) * scale.float() + zero.float()
    error = (back - groups).square_().sum(-1, keepdim=True)
    return [quantized.to(torch.uint8), scale, zero, error]


def _better(first: list[torch.Tensor], second: list[torch.Tensor]) -> list[torch.Tensor]:
    """The better of two quantisations of each group."""
    is_second = second[-1] < first[-1]
    return [torch.where(is_second, b, a) for a, b in zip(first, second, strict=True)]


def dequantize_groups(
    quantized: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor
) -> torch.Tensor:
    """(out, in) of 0 to 15, (out, groups) scale and zero point -> (out, in) in their format."""
    groups = quantized.view(*scale.shape, -1).to(scale.dtype)
    return torch.addcmul(zero[..., None], groups - 8, scale[..., None]).flatten(1)

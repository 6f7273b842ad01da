"""Symmetric 8-bit quantisation: one scale a row of activations, one scale an output of weights.

A row's scale depends on nothing but that row, and products of integers are exact, so a sequence's
numbers never depend on its batch.
"""

import torch

from engine.errors import WeightsError

_LEVELS = 127
_GELU_DEPTH = 0.17
"""A GELU is nowhere less than minus this."""
_SMALLEST = 1e-30
"""Stands for the greatest value of a row of zeros, whose scale would be none."""


def quantize_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, k) float -> (n, k) int8 and (n, 1) float32, whose product is the input within half a
    step of each row."""
    x = x.float()
    greatest = x.abs().amax(1, keepdim=True).clamp_(min=_SMALLEST)
    # Multiplied, rounded and converted one by one: each of these passes is vectorised on a CPU.
    return (x * (_LEVELS / greatest)).round_().to(torch.int8), greatest / _LEVELS


def quantize_gelu_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(n, k) outputs of a GELU -> (n, k) int8, (n, 1) float32 scale and zero point, such that
    scale * (int8 - zero point) is the input within half a step of each row.

    They lie between -0.17 and the row's greatest value, so an asymmetric range has steps half as
    wide as a symmetric one. The zero point is whole: most of them are almost zero, and must stay
    so.
    """
    x = x.float()
    scale = (x.amax(1, keepdim=True).clamp_(min=0.0) + _GELU_DEPTH) / 255
    zero_point = (_GELU_DEPTH / scale).round_() - 128
    quantized = (x * (1 / scale) + zero_point).round_().clamp_(-128, 127)
    return quantized.to(torch.int8), scale, zero_point


def quantize_weight(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(out, in) float -> (out, in) int8 and (out,) float32 scales.

    Raises:
        WeightsError: a weight is infinite or no number, which integers would hide.
    """
    quantized, scale = quantize_rows(weight)
    if not scale.isfinite().all():
        raise WeightsError("the weights hold values that are not finite")
    return quantized, scale[:, 0].contiguous()

"""Symmetric 8-bit quantisation: one scale a row of activations, one scale an output of weights.

A row's scale depends on nothing but that row, and products of integers are exact, so a sequence's
numbers never depend on its batch.
"""

import torch

_LEVELS = 127
_SMALLEST = 1e-30
"""Stands for the greatest value of a row of zeros, whose scale would be none."""


def quantize_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, k) float -> (n, k) int8 and (n, 1) float32, whose product is the input within half a
    step of each row."""
    x = x.float()
    greatest = x.abs().amax(1, keepdim=True).clamp_(min=_SMALLEST)
    # Multiplied, rounded and converted one by one: each of these passes is vectorised on a CPU.
    return (x * (_LEVELS / greatest)).round_().to(torch.int8), greatest / _LEVELS


def quantize_weight(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(out, in) float -> (out, in) int8 and (out,) float32 scales."""
    quantized, scale = quantize_rows(weight)
    return quantized, scale[:, 0].contiguous()

"""Convolutions over a window's frames."""

import torch
from torch.nn import functional as F

from engine.kernels.onednn import has_onednn_bfloat16


def convolution_dtype(product: torch.dtype, is_cpu: bool) -> torch.dtype:
    """The number format that `convolve` multiplies in. On a CPU for which oneDNN has no bfloat16
    (before AVX-512) it is float32, because torch's own bfloat16 takes forty times as long."""
    is_plain = is_cpu and product == torch.bfloat16 and not has_onednn_bfloat16()
    return torch.float32 if is_plain else product


def convolve(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, stride: int = 1
) -> torch.Tensor:
    """(B, in, frames) -> (B, out, frames / stride), padded with a frame of zeros at each end.

    Args:
        weight: (out, in, 3), in the input's and the output's number format.
        bias: (out,).
    """
    dtype = convolution_dtype(weight.dtype, weight.device.type == "cpu")
    y = F.conv1d(x.to(dtype), weight.to(dtype), bias.to(dtype), stride=stride, padding=1)
    return y.to(weight.dtype)

"""A residual sum with the layer normalisation that follows it, in one launch.

Shapes: n rows, C width of the model.
"""

import torch
import triton
import triton.language as tl

from engine.kernels.triton.launch import Launch, power_of_two
from engine.kernels.triton.weights import Norm


@triton.jit
def add_norm_kernel(
    x, added, weight, bias, out, width, eps, HAS_ADDED: tl.constexpr, BLOCK: tl.constexpr
):
    """A program takes a row: x += added, and out is x normalised."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < width
    values = tl.load(x + row * width + at, mask=inside, other=0.0).to(tl.float32)
    if HAS_ADDED:
        values += tl.load(added + row * width + at, mask=inside, other=0.0).to(tl.float32)
        rounded = values.to(x.dtype.element_ty)
        tl.store(x + row * width + at, rounded, mask=inside)
        values = rounded.to(tl.float32)
    mean = tl.sum(values, 0) / width
    centred = tl.where(inside, values - mean, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(centred * centred, 0) / width + eps)
    gain = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(bias + at, mask=inside, other=0.0).to(tl.float32)
    normed = centred * scale * gain + shift
    tl.store(out + row * width + at, normed.to(out.dtype.element_ty), mask=inside)


def add_norm_launch(
    x: torch.Tensor, added: torch.Tensor | None, norm: Norm, out: torch.Tensor
) -> Launch:
    """(n, C) each, contiguous: x becomes x + added, and `out` its normalisation."""
    n, width = x.shape
    return Launch(
        add_norm_kernel,
        (n,),
        {
            "x": x,
            "added": x if added is None else added,
            "weight": norm.weight,
            "bias": norm.bias,
            "out": out,
            "width": width,
            "eps": norm.eps,
        },
        {"HAS_ADDED": added is not None, "BLOCK": power_of_two(width)},
        num_warps=4,
    )

"""What the kernels read of a layer."""

from dataclasses import dataclass

import torch

MAX_ROWS = 64
"""The most rows that `linear` multiplies. More are left to cuBLAS."""


ENOUGH_PROGRAMS = 128
"""About as many as a GPU has cores: with fewer queries, several programs share a window."""
MIN_PRODUCTS = 80
"""The compute capability from which Triton uses tensor cores (Ampere)."""
ALWAYS, AT_FIRST = 1, 2
"""Bits of a suppressed id, for `GpuKernels.choose`: in every step, or as the first token."""


@dataclass(frozen=True, slots=True)
class Norm:
    """A layer normalisation of the input: (K,) each."""

    weight: torch.Tensor
    bias: torch.Tensor
    eps: float


@dataclass(frozen=True, slots=True)
class Weight:
    """A weight as it is stored.

    Attributes:
        values: (N, K), 16-bit or int8; with groups (N, K / 2) uint8, even inputs in the low halves.
        scale: (N,) of int8; with groups scale and zero point, (N, groups, 2).
        group_size: inputs that share a scale; 0 if all inputs of an output do.
    """

    values: torch.Tensor
    scale: torch.Tensor | None = None
    group_size: int = 0

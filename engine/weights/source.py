"""Sources of weights. Names are those of transformers' Whisper, without the `model.` prefix.

A source reads slices: a rank asks for the rows or columns that it owns.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import nn

from engine.kernels import native_builds
from engine.kernels.linear import LinearKernel, float_linear, int8_linear
from engine.kernels.triton import gpu_kernels
from engine.kernels.triton.layers import few_rows_linear
from engine.kernels.weight_only import Fp8Linear, int4_weight_linear, int8_weight_linear
from engine.parallel.group import Group
from engine.precision import NumberFormats, WeightFormat
from engine.weights.adapters import Adapter

if TYPE_CHECKING:
    from engine.kernels.triton.calls import GpuKernels

Rows = slice | None
WORTH_QUANTISING = 2_000_000
"""Without native kernels, 8-bit products of a decoder's layer gain more than quantising costs from
this number of weights on."""


class WeightSource(Protocol):
    """Named tensors in files, read slice by slice."""

    def __contains__(self, name: str) -> bool: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def read(self, name: str, rows: Rows = None, columns: Rows = None) -> torch.Tensor:
        """A slice of the first or second dimension, on the CPU, in the files' number format.

        Raises:
            WeightsError: the files have no tensor of that name.
        """

    def release(self) -> None:
        """Free the memory of what was read; it can be read again."""


@dataclass(frozen=True)
class LoadContext:
    """What a layer needs to load itself: files, group, device and number formats.

    Attributes:
        streams: whether layers stay in the host's memory and come to the device one by one.
        adapters: what is added to linear layers, for the rows that ask for it.
    """

    source: WeightSource
    group: Group
    device: torch.device
    formats: NumberFormats
    streams: bool = False
    adapters: tuple[Adapter, ...] = ()

    @property
    def dtype(self) -> torch.dtype:
        """Format of the values that layers pass to each other."""
        return self.formats.dtype

    @property
    def gpu_kernels(self) -> "GpuKernels | None":
        """Our own kernels for the device, if it is a GPU that they run on."""
        return gpu_kernels(self.device)

    def linear(
        self, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype, many_rows: bool
    ) -> LinearKernel:
        """The kernel for a linear layer with outputs of that number format.

        Args:
            many_rows: rows of windows pass through it, not those of tokens.
        """
        product, kept = self.formats.product, self.formats.weights
        kernels = None if many_rows else self.gpu_kernels
        if kernels is not None:
            fused = few_rows_linear(weight, bias, self.formats, kernels)
            if fused is not None:
                return fused
        if kept is WeightFormat.INT8:
            return int8_weight_linear(weight, bias, dtype, product, many_rows)
        if kept is WeightFormat.INT4:
            group_size = self.formats.group_size
            return int4_weight_linear(weight, bias, dtype, product, group_size, many_rows)
        if kept is WeightFormat.FP8:
            return Fp8Linear(weight, bias, dtype)
        return float_linear(weight, bias, dtype, product, many_rows)

    def mlp_linear(
        self, weight: torch.Tensor, bias: torch.Tensor | None, of_gelu: bool, many_rows: bool
    ) -> LinearKernel:
        """The kernel for one of an MLP's two layers; `of_gelu` for the second.

        Without native kernels, a decoder's weights under 2 M values stay in bfloat16: for its few
        rows, quantising would take as long as it saves.
        """
        worth = many_rows or native_builds.serves(self.device) or weight.numel() >= WORTH_QUANTISING
        if self.formats.weights is WeightFormat.INT8_DYNAMIC and worth:
            return int8_linear(weight, bias, self.dtype, of_gelu)
        dtype = self.dtype if of_gelu else self.formats.product
        return self.linear(weight, bias, dtype, many_rows)

    def read(
        self,
        name: str,
        rows: Rows = None,
        columns: Rows = None,
        dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        tensor = self.source.read(name, rows, columns)
        # Always a copy, even if nothing is converted: the tensor outlives the mapped file.
        return tensor.to(self.device, dtype or self.dtype, copy=True).contiguous()

    def parameter(self, name: str, dtype: torch.dtype | None = None) -> nn.Parameter:
        """A whole tensor, as a parameter that needs no gradient."""
        return nn.Parameter(self.read(name, dtype=dtype), requires_grad=False)

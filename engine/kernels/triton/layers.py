"""Linear layers whose few rows run on the kernels, and many rows as torch multiplies them."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import nn

from engine.kernels.linear import DenseLinear, LinearKernel
from engine.kernels.triton.weights import MAX_ROWS, Weight
from engine.kernels.weight_only import Int4WeightLinear, Int8WeightLinear
from engine.precision import NumberFormats, WeightFormat

if TYPE_CHECKING:
    from engine.kernels.triton.calls import GpuKernels


class FewRowsLinear(LinearKernel, ABC):
    """The common part, to be put before the class that keeps the weights and multiplies many rows.
    Its outputs have the number format of its inputs."""

    bias: torch.Tensor | None
    kernels: "GpuKernels"

    @abstractmethod
    def stored(self) -> Weight:
        """The weights as they are kept."""

    def forward(self, x: torch.Tensor, gelu: bool = False) -> torch.Tensor:
        if not _has_few(x):
            many: torch.Tensor = super().forward(x, gelu)
            return many
        return self.kernels.linear(x, self.stored(), self.bias, gelu=gelu)

    def of_norm(self, norm: nn.LayerNorm, x: torch.Tensor, gelu: bool = False) -> torch.Tensor:
        if not _has_few(x):
            return super().of_norm(norm, x, gelu)
        return self.kernels.linear(x, self.stored(), self.bias, norm, gelu)

    def add_to(self, residual: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        if not _has_few(x):
            return super().add_to(residual, x)
        return self.kernels.linear(x, self.stored(), self.bias, residual=residual)


class FewRowsDenseLinear(FewRowsLinear, DenseLinear):
    """16-bit weights."""

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, kernels: "GpuKernels"
    ) -> None:
        super().__init__(weight, bias)
        self.kernels = kernels

    def stored(self) -> Weight:
        return Weight(self.weight)


class FewRowsInt8WeightLinear(FewRowsLinear, Int8WeightLinear):
    """8-bit weights with a scale per output."""

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        product: torch.dtype,
        kernels: "GpuKernels",
    ) -> None:
        super().__init__(weight, bias, product, product)
        self.kernels = kernels

    def stored(self) -> Weight:
        return Weight(self.weight, self.scale)


class FewRowsInt4WeightLinear(FewRowsLinear, Int4WeightLinear):
    """4-bit weights with a scale and a zero point per group of inputs."""

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        product: torch.dtype,
        group_size: int,
        kernels: "GpuKernels",
    ) -> None:
        super().__init__(weight, bias, product, product, group_size)
        self.kernels = kernels

    def stored(self) -> Weight:
        return Weight(self.packed, self.scale_and_zero, self.group_size)


def few_rows_linear(
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    formats: NumberFormats,
    kernels: "GpuKernels",
) -> LinearKernel | None:
    """The layer for the rows of tokens, if the kernels multiply its number formats."""
    product = formats.product
    if not kernels.takes(product) or formats.dtype != product:
        return None
    layer: FewRowsLinear | None = None
    if formats.weights is WeightFormat.INT8:
        layer = FewRowsInt8WeightLinear(weight, bias, product, kernels)
    elif formats.weights is WeightFormat.INT4:
        layer = FewRowsInt4WeightLinear(weight, bias, product, formats.group_size, kernels)
    elif formats.weights in (WeightFormat.PLAIN, WeightFormat.INT8_DYNAMIC):
        layer = FewRowsDenseLinear(weight, bias, kernels)
    if layer is not None:
        kernels.load_linear(layer.stored(), product)
    return layer


def _has_few(x: torch.Tensor) -> bool:
    return x.numel() <= MAX_ROWS * x.shape[-1]

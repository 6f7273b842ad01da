"""Linear layers with 8-bit or 4-bit weights and activations that are not quantised.

They save memory, and for a decoder's few rows the time to read it. For many rows, the weights are
first converted back to 16 bits: a temporary tensor of one layer.
"""

import torch
from torch.nn import functional as F

from engine.errors import WeightsError
from engine.kernels.linear import LinearKernel
from engine.kernels.quantize import dequantize_groups, quantize_groups, quantize_weight


class WeightOnlyLinear(LinearKernel):
    """The common part of weight-only layers.

    Args:
        dtype: format of the output.
        product: format of the activations, and of the weights while they are multiplied.
    """

    bias: torch.Tensor | None

    def __init__(self, bias: torch.Tensor | None, dtype: torch.dtype, product: torch.dtype) -> None:
        super().__init__()
        self.dtype, self.product = dtype, product
        self.register_buffer("bias", None if bias is None else bias.to(product))

    def forward(self, x: torch.Tensor, gelu: bool = False) -> torch.Tensor:
        y = self._multiply(x.reshape(-1, x.shape[-1]).to(self.product))
        y = y if self.bias is None else y + self.bias
        y = F.gelu(y) if gelu else y
        return y.to(self.dtype).view(*x.shape[:-1], -1)

    def _multiply(self, x: torch.Tensor) -> torch.Tensor:
        """(n, in) -> (n, out), without the bias."""
        raise NotImplementedError


class Int8WeightLinear(WeightOnlyLinear):
    """8-bit weights with a scale per output."""

    weight: torch.Tensor
    scale: torch.Tensor

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        dtype: torch.dtype,
        product: torch.dtype,
    ) -> None:
        super().__init__(bias, dtype, product)
        quantized, scale = quantize_weight(weight)
        self.register_buffer("weight", quantized)
        self.register_buffer("scale", scale.to(product))

    def _multiply(self, x: torch.Tensor) -> torch.Tensor:
        """Scales belong to outputs, so they can be applied after the product. In float16 they come
        before, because a product of whole numbers would overflow."""
        weight = self.weight.to(self.product)
        if self.product == torch.float16:
            return F.linear(x, weight.mul_(self.scale[:, None]))
        return F.linear(x, weight) * self.scale


class CpuInt8WeightLinear(Int8WeightLinear):
    """`Int8WeightLinear` for few rows on a CPU, where torch converts the weights in registers."""

    def _multiply(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = torch._weight_int8pack_mm(x.contiguous(), self.weight, self.scale)
        return y


class Int4Linear(WeightOnlyLinear):
    """4-bit weights with a scale and a zero point per group of inputs. The inputs are padded with
    zeros to whole groups, so that any slice of a layer can be stored."""

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        dtype: torch.dtype,
        product: torch.dtype,
        group_size: int,
    ) -> None:
        super().__init__(bias, dtype, product)
        if not weight.isfinite().all():
            raise WeightsError("the weights hold values that are not finite")
        self.depth, self.group_size = weight.shape[1], group_size
        padded = F.pad(weight, (0, -self.depth % group_size))
        self._keep(*quantize_groups(padded, group_size, product))

    def _keep(self, quantized: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> None:
        """Store weights (out, in) of 0 to 15, and scales and zero points, (out, groups) each."""
        raise NotImplementedError


class Int4WeightLinear(Int4Linear):
    """Two weights per byte, converted back to 16 bits for the product."""

    packed: torch.Tensor
    scale_and_zero: torch.Tensor

    def _keep(self, quantized: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> None:
        low, high = quantized.view(len(quantized), -1, 2).unbind(-1)
        self.register_buffer("packed", low | high << 4)
        self.register_buffer("scale_and_zero", torch.stack([scale, zero], -1))

    def _multiply(self, x: torch.Tensor) -> torch.Tensor:
        quantized = torch.stack([self.packed & 15, self.packed >> 4], -1).flatten(1)
        weight = dequantize_groups(quantized, *self.scale_and_zero.unbind(-1))
        return F.linear(x, weight[:, : self.depth])


class CpuInt4WeightLinear(Int4Linear):
    """`Int4WeightLinear` for few rows on a CPU, in the layout of torch's product."""

    packed: torch.Tensor
    scale_and_zero: torch.Tensor

    def _keep(self, quantized: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> None:
        convert = torch.ops.aten._convert_weight_to_int4pack_for_cpu
        self.register_buffer("packed", convert(quantized.int(), 1))
        # In that layout, groups come before outputs.
        by_group = torch.stack([scale, zero], -1).transpose(0, 1).contiguous()
        self.register_buffer("scale_and_zero", by_group)

    def _multiply(self, x: torch.Tensor) -> torch.Tensor:
        x = F.pad(x, (0, -self.depth % self.group_size))
        y: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            x.contiguous(), self.packed, self.group_size, self.scale_and_zero
        )
        return y


class Fp8Linear(LinearKernel):
    """8-bit floating point (e4m3) on GPUs that multiply it: weights have a scale per output,
    activations a scale per row.

    Args:
        dtype: format of the output.
    """

    weight: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        if not weight.isfinite().all():
            raise WeightsError("the weights hold values that are not finite")
        # The product needs both sides in multiples of 16; a slice of a layer may differ.
        self.shape = weight.shape
        padded = F.pad(weight, (0, -weight.shape[1] % 16, 0, -weight.shape[0] % 16))
        quantized, scale = to_fp8(padded)
        self.register_buffer("weight", quantized)
        self.register_buffer("scale", scale.t().contiguous())
        self.register_buffer("bias", None if bias is None else bias.to(dtype))

    def forward(self, x: torch.Tensor, gelu: bool = False) -> torch.Tensor:
        n_out, depth = self.shape
        rows, scale = to_fp8(F.pad(x.reshape(-1, depth), (0, -depth % 16)))
        y: torch.Tensor = torch._scaled_mm(
            rows, self.weight.t(), scale_a=scale, scale_b=self.scale, out_dtype=self.dtype
        )
        y = y[:, :n_out] if self.bias is None else y[:, :n_out] + self.bias
        y = F.gelu(y) if gelu else y
        return y.reshape(*x.shape[:-1], n_out)


def to_fp8(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, k) -> (n, k) e4m3 and (n, 1) float32 scales; their product is the input, rounded."""
    greatest = torch.finfo(torch.float8_e4m3fn).max
    scale = x.float().abs().amax(1, keepdim=True).clamp_(min=1e-12) / greatest
    return (x.float() / scale).to(torch.float8_e4m3fn), scale


def int8_weight_linear(
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    dtype: torch.dtype,
    product: torch.dtype,
    many_rows: bool,
) -> LinearKernel:
    """8-bit weights in the kernel that suits the device and the number of rows."""
    few_on_cpu = weight.device.type == "cpu" and not many_rows
    kind = CpuInt8WeightLinear if few_on_cpu else Int8WeightLinear
    return kind(weight, bias, dtype, product)


def int4_weight_linear(
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    dtype: torch.dtype,
    product: torch.dtype,
    group_size: int,
    many_rows: bool,
) -> LinearKernel:
    """4-bit weights in the kernel that suits; torch's own needs a multiple of 16 outputs."""
    few_on_cpu = weight.device.type == "cpu" and not many_rows and len(weight) % 16 == 0
    kind = CpuInt4WeightLinear if few_on_cpu else Int4WeightLinear
    return kind(weight, bias, dtype, product, group_size)

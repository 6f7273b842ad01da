"""y = x W^T + b in each number format, behind one call.

A layer's kernel is chosen once, when the layer is loaded. On a CPU every kernel gives a row the
same bits whatever the other rows are, if `engine.batching` chose the number of rows; our own do so
for any number.
"""

from collections.abc import Iterable, Sequence
from functools import cache

import torch
from torch import nn
from torch.nn import functional as F

from engine.kernels import native, native_builds
from engine.kernels.onednn import has_onednn, has_onednn_bfloat16
from engine.kernels.quantize import quantize_gelu_rows, quantize_rows, quantize_weight


class LinearKernel(nn.Module):
    """A linear layer's arithmetic. Weights are (out, in), biases (out,)."""

    takes_any_rows = False
    """Whether a row has the same bits whatever the number of rows, without `engine.batching`."""

    def forward(self, x: torch.Tensor, gelu: bool = False) -> torch.Tensor:
        """(..., in) -> (..., out), through a GELU if asked to."""
        raise NotImplementedError

    def of_norm(self, norm: nn.LayerNorm, x: torch.Tensor, gelu: bool = False) -> torch.Tensor:
        """The layer of a normalised input, (..., in) -> (..., out)."""
        y: torch.Tensor = self(norm(x), gelu)
        return y

    def add_to(self, residual: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Add the layer's output to (..., out), in place."""
        return residual.add_(self(x))

    def hidden_tensors(self) -> Iterable[torch.Tensor]:
        """Tensors that it keeps in addition to its parameters and buffers."""
        return ()


class DenseLinear(LinearKernel):
    """Weights as they are, in the number format of the activations."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: torch.Tensor, gelu: bool = False) -> torch.Tensor:
        y = F.linear(x, self.weight, self.bias)
        return F.gelu(y) if gelu else y


class PackedLinear(LinearKernel):
    """bfloat16 on a CPU, with weights in oneDNN's blocked layout and the GELU inside the product.

    Half the time of a plain product at the few rows of a decoder (docs/benchmarks.md).

    Args:
        dtype: format of the output; the product itself is rounded to bfloat16.
    """

    bias: torch.Tensor | None

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        # An opaque tensor: no buffer, because it has no storage to move or to save.
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.to(torch.bfloat16))
        self.register_buffer("bias", None if bias is None else bias.to(torch.bfloat16))

    def forward(self, x: torch.Tensor, gelu: bool = False) -> torch.Tensor:
        name, algorithm = ("gelu", "none") if gelu else ("none", "")
        y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            x.to(torch.bfloat16), self._packed, self.bias, name, [], algorithm
        )
        return y.to(self.dtype)

    def hidden_tensors(self) -> Iterable[torch.Tensor]:
        return (self._packed,)


class PlainBfloat16Linear(LinearKernel):
    """bfloat16 in torch's own product, on a CPU for which oneDNN has none (before AVX-512). For the
    rows of a window that takes eight times as long as float32. A window is therefore multiplied in
    float32, with a temporary float32 copy of the weights.

    Args:
        dtype: format of the output; it is rounded to bfloat16.
        many_rows: the rows of windows pass through it, not those of tokens.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        dtype: torch.dtype,
        many_rows: bool = False,
    ) -> None:
        super().__init__()
        self.dtype = dtype
        self.product = torch.float32 if many_rows else torch.bfloat16
        self.register_buffer("weight", weight.to(torch.bfloat16))
        self.register_buffer("bias", None if bias is None else bias.to(torch.bfloat16))

    def forward(self, x: torch.Tensor, gelu: bool = False) -> torch.Tensor:
        bias = None if self.bias is None else self.bias.to(self.product)
        rows = x.to(torch.bfloat16).to(self.product)
        y = F.linear(rows, self.weight.to(self.product), bias)
        return (F.gelu(y) if gelu else y).to(torch.bfloat16).to(self.dtype)


class NativeBfloat16Linear(LinearKernel):
    """bfloat16 in our own kernel. A row has the same bits whatever the number of rows, and the few
    rows of a decoder cost a tenth of oneDNN's overhead.

    Args:
        dtype: format of the output; sums and bias are float32.
    """

    takes_any_rows = True

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.packed = native.Bfloat16Weight(weight, bias)

    def forward(self, x: torch.Tensor, gelu: bool = False) -> torch.Tensor:
        return native.linear_bfloat16(x, self.packed, self.dtype, gelu)

    def hidden_tensors(self) -> Iterable[torch.Tensor]:
        return self.packed.tensors


class NativeFloat32Linear(LinearKernel):
    """float32 in our own kernel. A row has the same bits whatever the number of rows, and weights
    are packed once, where a library's product packs them for each call."""

    takes_any_rows = True

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.packed = native.Float32Weight(weight, bias)

    def forward(self, x: torch.Tensor, gelu: bool = False) -> torch.Tensor:
        return native.linear_float32(x, self.packed, gelu)

    def hidden_tensors(self) -> Iterable[torch.Tensor]:
        return self.packed.tensors


class Int8Linear(LinearKernel):
    """8-bit weights, and activations quantised row by row. A GPU multiplies them in torch's integer
    product, a CPU without instructions for integers in its float32 product.

    Args:
        dtype: format of the output.
        of_gelu: the activations come from a GELU, and are quantised as such.
    """

    bias: torch.Tensor
    scale: torch.Tensor
    sums: torch.Tensor
    weight: torch.Tensor

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        dtype: torch.dtype,
        of_gelu: bool = False,
    ) -> None:
        super().__init__()
        self.dtype = dtype
        self.of_gelu = of_gelu
        quantized, scale = quantize_weight(weight)
        self.register_buffer("bias", torch.zeros_like(scale) if bias is None else bias.float())
        self.register_buffer("scale", scale)
        self.register_buffer("sums", quantized.sum(1, dtype=torch.float32) * scale)
        self._keep(quantized)

    def _keep(self, quantized: torch.Tensor) -> None:
        self.register_buffer("weight", quantized)

    def forward(self, x: torch.Tensor, gelu: bool = False) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        if self.of_gelu:
            rows, scale, zero_point = quantize_gelu_rows(flat)
            y = self._product(rows).addcmul_(zero_point, self.sums, value=-1.0)
        else:
            rows, scale = quantize_rows(flat)
            y = self._product(rows)
        y = y.mul_(scale).add_(self.bias)
        y = F.gelu(y) if gelu else y
        return y.to(self.dtype).view(*x.shape[:-1], -1)

    def _product(self, rows: torch.Tensor) -> torch.Tensor:
        """(n, in) int8 -> (n, out) float32, the rows' own scales left out."""
        if not rows.is_cuda:
            # torch's integer product takes ten times as long without instructions for it. float32
            # rounds what sums to more than 24 bits, as little as the scales that follow do.
            return F.linear(rows.float(), self.weight.float()) * self.scale
        n = len(rows)
        # CUDA's product takes no fewer than 17 rows, and multiples of 8.
        padded = max(-(-n // 8) * 8, 24)
        product = torch._int_mm(F.pad(rows, (0, 0, 0, padded - n)), self.weight.t())
        return product[:n] * self.scale


class OneDnnInt8Linear(Int8Linear):
    """`Int8Linear` in oneDNN, which scales the integers while they are in registers."""

    _SHIFT = 128
    """Activations are shifted by this: oneDNN has fast kernels for unsigned ones only."""

    zeros: torch.Tensor

    def _keep(self, quantized: torch.Tensor) -> None:
        self._packed = torch.ops.onednn.qlinear_prepack(quantized, None)
        self.register_buffer("zeros", torch.zeros(len(quantized), dtype=torch.int32))

    def _product(self, rows: torch.Tensor) -> torch.Tensor:
        shifted = rows.view(torch.uint8).bitwise_xor_(self._SHIFT)
        packed, scale, zeros = self._packed, self.scale, self.zeros
        product: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            shifted, 1.0, self._SHIFT, packed, scale, zeros,
            None, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        return product

    def hidden_tensors(self) -> Iterable[torch.Tensor]:
        return (self._packed,)


class NativeInt8Linear(LinearKernel):
    """`Int8Linear` in our own kernels: they quantise, multiply and apply the GELU in one pass."""

    takes_any_rows = True

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        dtype: torch.dtype,
        of_gelu: bool = False,
    ) -> None:
        super().__init__()
        self.dtype = dtype
        self.of_gelu = of_gelu
        self.packed = native.Int8Weight(*quantize_weight(weight), bias)

    def forward(self, x: torch.Tensor, gelu: bool = False) -> torch.Tensor:
        return native.linear_int8(x.float(), self.packed, gelu, self.of_gelu).to(self.dtype)

    def hidden_tensors(self) -> Iterable[torch.Tensor]:
        return self.packed.tensors


class NativeOutputLinear(LinearKernel):
    """An output layer over token ids: 8-bit logits, and bfloat16 ones where they decide.

    It reads half the bytes of a bfloat16 layer and makes the same greedy choice: the special tokens
    and timestamps, whose sum counts, and the words that may be the likeliest are computed again in
    bfloat16.

    Args:
        weight: (ids, in) bfloat16, kept as it is.
        tail: ids from here on are always computed in bfloat16.
    """

    takes_any_rows = True
    weight: torch.Tensor

    def __init__(self, weight: torch.Tensor, tail: int) -> None:
        super().__init__()
        self.tail = tail
        self.register_buffer("weight", weight)
        quantized, self._scale = quantize_weight(weight)
        self.packed = native.Int8Weight(quantized, self._scale, None)
        self.never_choose(())

    def never_choose(self, ids: Sequence[int]) -> None:
        """Declare ids that are suppressed whatever their logits; none of them is the likeliest."""
        words = [token for token in ids if 0 <= token < self.tail]
        self._output = native.OutputWeight(self.weight, self._scale, self.tail, words)

    def forward(self, x: torch.Tensor, gelu: bool = False) -> torch.Tensor:
        assert not gelu, "logits pass through none"
        logits = native.linear_int8(x.float(), self.packed, gelu=False, of_gelu=False)
        native.refine_logits(logits, x, self._output)
        return logits

    def hidden_tensors(self) -> Iterable[torch.Tensor]:
        return (*self.packed.tensors, self._scale)


_MANY_ROWS = 48
"""The most rows that the fused MLP gives to one thread at once."""


def mlp(first: LinearKernel, second: LinearKernel, x: torch.Tensor) -> torch.Tensor:
    """(..., in) -> (..., out): two layers around a GELU."""
    many = x.numel() > _MANY_ROWS * x.shape[-1]
    if many and isinstance(first, NativeInt8Linear) and isinstance(second, NativeInt8Linear):
        return native.mlp_int8(x.float(), first.packed, second.packed).to(second.dtype)
    y: torch.Tensor = second(first(x, gelu=True))
    return y


@cache
def has_fast_int8() -> bool:
    """Whether this CPU multiplies 8-bit integers into 32-bit sums in one instruction. On others,
    oneDNN's sums may overflow."""
    return has_onednn() and torch.cpu._is_vnni_supported()


@cache
def has_fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 natively."""
    return has_onednn() and torch.cpu._is_avx512_bf16_supported()


def float_linear(
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    dtype: torch.dtype,
    product: torch.dtype,
    many_rows: bool = False,
) -> LinearKernel:
    """The fastest kernel that multiplies in the number format `product`; outputs are `dtype`."""
    is_bfloat16 = weight.device.type == "cpu" and product == torch.bfloat16
    if is_bfloat16 and native_builds.serves(weight.device) and weight.shape[1] % 32 == 0:
        return NativeBfloat16Linear(weight, bias, dtype)
    if is_bfloat16 and has_onednn_bfloat16():
        return PackedLinear(weight, bias, dtype)
    if is_bfloat16:
        return PlainBfloat16Linear(weight, bias, dtype, many_rows)
    if product == torch.float32 and native_builds.serves(weight.device):
        return NativeFloat32Linear(weight, bias)
    return DenseLinear(weight, bias)


_EXACT_TAIL = 2048
"""More than the special tokens and timestamps, which end a Whisper vocabulary."""


def output_linear(
    weight: torch.Tensor, ids: range, n_vocab: int, dtype: torch.dtype, int8: bool
) -> LinearKernel:
    """The fastest kernel for an output layer over `ids` of the vocabulary; outputs are `dtype`."""
    fits = weight.shape[1] % 32 == 0 and weight.dtype == torch.bfloat16
    if int8 and fits and dtype == torch.float32 and native_builds.serves(weight.device):
        tail = min(max(n_vocab - _EXACT_TAIL - ids.start, 0), len(ids))
        return NativeOutputLinear(weight, tail)
    return float_linear(weight, None, dtype, weight.dtype)


def int8_linear(
    weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype, of_gelu: bool = False
) -> LinearKernel:
    """The fastest kernel that multiplies 8-bit integers; outputs are `dtype`."""
    if native_builds.serves(weight.device) and weight.shape[1] % 4 == 0:
        return NativeInt8Linear(weight, bias, dtype, of_gelu)
    on_cpu = weight.device.type == "cpu"
    kernel = OneDnnInt8Linear if on_cpu and has_fast_int8() else Int8Linear
    return kernel(weight, bias, dtype, of_gelu)

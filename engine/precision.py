"""Number formats: what a name such as `int8` means on each device, and which ones a device has."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from engine.errors import PrecisionError

if TYPE_CHECKING:
    import torch


class WeightFormat(StrEnum):
    """How linear layers of attention and MLPs store their weights.

    `INT8_DYNAMIC` applies to the MLPs only; their activations are 8-bit too, with one scale per
    row. The others apply to all of these layers. `INT8` has a scale per output, `INT4` a scale and
    a zero point per group of inputs; activations are not quantised. `FP8` (e4m3) has a scale per
    output, and activations in the same format with a scale per row.
    """

    PLAIN = "plain"
    INT8_DYNAMIC = "int8-dynamic"
    INT8 = "int8"
    INT4 = "int4"
    FP8 = "fp8"


class CrossAttentionMode(StrEnum):
    """What is stored of a window for the decoder's cross-attention.

    `CACHED`: keys and values of each layer. `CACHED_8BIT`: the same in 8 bits, with a scale for
    each head of each frame. `ABSORBED`: only the encoder's output, once for all layers; the
    projections of keys and values move into the query and the result: scores = (q W_k) e, and
    output = W_v (p e) + b_v. This is exact, because keys have no bias and the weights p sum to one.
    It takes 1 / (2 layers) of the memory and more arithmetic per token.
    """

    CACHED = "cached"
    CACHED_8BIT = "cached-8bit"
    ABSORBED = "absorbed"


class Offload(StrEnum):
    """Which layers stay in the host's memory and come to the device when it is their turn, two at a
    time: none, the encoder's, or all. They cross the link to the host again and again."""

    NONE = "none"
    ENCODER = "encoder"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class NumberFormats:
    """Which number format each part of the model computes in.

    Attributes:
        dtype: format of the values that layers pass to each other, and of norms.
        product: format of linear layers, attention, and stored keys and values.
        weights: how linear layers store their weights. With `INT8_DYNAMIC`, native kernels also
            compute in 8 bits those logits that do not decide.
        group_size: inputs of an output that share a scale, with `INT4`.
        cross: what is stored for cross-attention.
        int8_self: keys and values of tokens are stored in 8 bits, with a scale for each head of
            each position.
    """

    dtype: torch.dtype
    product: torch.dtype
    weights: WeightFormat = WeightFormat.PLAIN
    group_size: int = 0
    cross: CrossAttentionMode = CrossAttentionMode.CACHED
    int8_self: bool = False


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """Which number formats a device can multiply.

    Attributes:
        native: the CPU kernels of this package run on it.
    """

    name: str
    is_cpu: bool
    bfloat16: bool
    fp8: bool
    int8: bool = True
    native: bool = False

    @classmethod
    def of(cls, device: torch.device) -> Arithmetic:
        """For a device that is present; a CUDA device is asked for its compute capability."""
        import torch

        from engine.kernels import native_builds

        if device.type != "cuda":
            return cls.of_cpu(native_builds.serves(device))
        capability = torch.cuda.get_device_capability(device)
        return cls.of_gpu(torch.cuda.get_device_name(device), capability)

    @classmethod
    def of_cpu(cls, native: bool) -> Arithmetic:
        """For a CPU that need not be this one; what it has does not depend on `native`."""
        return cls("a CPU", True, bfloat16=True, fp8=False, native=native)

    @classmethod
    def of_gpu(cls, name: str, capability: tuple[int, int]) -> Arithmetic:
        """8-bit products came with compute capability 7.5 (Turing), bfloat16 with 8.0 (Ampere), fp8
        with 8.9 (Ada)."""
        return cls(
            name,
            is_cpu=False,
            bfloat16=capability >= (8, 0),
            fp8=capability >= (8, 9),
            int8=capability >= (7, 5),
        )

    @property
    def half(self) -> torch.dtype:
        """The 16-bit format to compute in."""
        import torch

        return torch.bfloat16 if self.bfloat16 else torch.float16

    @property
    def default(self) -> Precision:
        """The fastest one whose word error rate is known to be float32's (docs/benchmarks.md)."""
        if self.is_cpu:
            return Precision.INT8 if self.native else Precision.FLOAT32
        return Precision.BFLOAT16 if self.bfloat16 else Precision.FLOAT16


class Precision(StrEnum):
    """Number format of weights and activations.

    `INT8` applies to the MLPs, which hold two thirds of an encoder layer's weights: weights have a
    scale per output, activations a scale per row. Native kernels also use 8 bits for
    cross-attention's keys and values, and for logits that do not decide. The rest of such a model
    is in 16 bits.

    `INT8_WEIGHT_ONLY` and the `INT4` formats store the weights of all linear layers in 8 or 4 bits
    and compute in 16; 4-bit weights have a scale and a zero point per group of 32, 64 or 128
    inputs. `FP8` computes all linear layers in 8-bit floating point, on GPUs that support it.
    Embeddings, logits and norms stay in 16 bits.
    """

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    INT8 = "int8"
    INT8_WEIGHT_ONLY = "int8-weight-only"
    INT4_G32 = "int4-g32"
    INT4_G64 = "int4-g64"
    INT4_G128 = "int4-g128"
    FP8 = "fp8"

    def is_supported(self, arithmetic: Arithmetic) -> bool:
        needed = {
            Precision.BFLOAT16: arithmetic.bfloat16,
            Precision.INT8: arithmetic.int8,
            Precision.FP8: arithmetic.fp8,
        }
        return needed.get(self, True)

    def check(self, arithmetic: Arithmetic) -> None:
        """
        Raises:
            PrecisionError: the device does not have it; the message names what it has.
        """
        if not self.is_supported(arithmetic):
            able = ", ".join(p for p in Precision if p.is_supported(arithmetic))
            raise PrecisionError(f"{arithmetic.name} has no {self.value}; it has {able}")

    def formats(
        self,
        arithmetic: Arithmetic,
        cross: CrossAttentionMode | None = None,
        int8_self: bool = False,
        half: torch.dtype | None = None,
    ) -> NumberFormats:
        """The number formats of this precision on a device.

        Args:
            cross: None: `CACHED_8BIT` if native kernels run an `INT8` model, else `CACHED`.
            half: the 16-bit format of quantised models; None: the device's own.

        Raises:
            PrecisionError: as in `check`, or the device does not have `half`.
        """
        import torch

        self.check(arithmetic)
        if half == torch.bfloat16 and not arithmetic.bfloat16:
            raise PrecisionError(f"{arithmetic.name} has no bfloat16")
        plain = {p: getattr(torch, p.value) for p in _PLAIN}
        product = plain.get(self, half or arithmetic.half)
        # On a CPU norms are faster in float32 than in bfloat16, and sums are better.
        is_bfloat16_on_cpu = arithmetic.is_cpu and product == torch.bfloat16
        dtype = torch.float32 if is_bfloat16_on_cpu else product
        weights, group_size = _WEIGHTS.get(self, (WeightFormat.PLAIN, 0))
        if cross is None:
            in_8_bits = self is Precision.INT8 and arithmetic.native
            cross = CrossAttentionMode.CACHED_8BIT if in_8_bits else CrossAttentionMode.CACHED
        return NumberFormats(dtype, product, weights, group_size, cross, int8_self)


_PLAIN = (Precision.FLOAT32, Precision.BFLOAT16, Precision.FLOAT16)
_WEIGHTS = {
    Precision.INT8: (WeightFormat.INT8_DYNAMIC, 0),
    Precision.INT8_WEIGHT_ONLY: (WeightFormat.INT8, 0),
    Precision.INT4_G32: (WeightFormat.INT4, 32),
    Precision.INT4_G64: (WeightFormat.INT4, 64),
    Precision.INT4_G128: (WeightFormat.INT4, 128),
    Precision.FP8: (WeightFormat.FP8, 0),
}


def default_precision(device: torch.device) -> Precision:
    """The fastest one whose word error rate is known to be float32's (docs/benchmarks.md)."""
    return Arithmetic.of(device).default

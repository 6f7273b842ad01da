"""Keys and values of each sequence's own tokens, kept as they are or in 8 bits.

Shapes: n sequences, T tokens, H local heads, D width of a head, L positions read.
"""

from typing import Protocol

import torch

from engine.kernels import native, native_builds
from engine.kernels.attention import attend, merge_heads
from engine.kernels.quantize import quantize_rows
from engine.kernels.triton import HEAD_DIMS, gpu_kernels
from engine.model.slots import Slots


class SelfCache(Protocol):
    """One decoder layer's keys and values of tokens, in slots."""

    @property
    def n_bytes(self) -> int: ...

    def write_prompt(self, keys: torch.Tensor, values: torch.Tensor, slots: Slots) -> None:
        """Store keys and values of the slots' first T positions, (n, H, T, D) each."""

    def copy(self, sources: torch.Tensor, targets: torch.Tensor, length: int) -> None:
        """Copy the first positions of slots to others, (n,) each; a slot may be both."""

    def attend(
        self, qkv: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """One token in each of the first n slots: store its key and value, and let its query attend
        to all positions up to it: (n, 3*H*D) -> (n, H*D).

        Args:
            positions: (n,) int64, where each token is written.
            mask: (n, 1, 1, L), True up to each slot's own token; L bounds what is read.
        """


class DenseSelfCache:
    """Keys and values in the number format in which they are computed.

    Args:
        shape: (slots, H, positions, D).
        by_native: native kernels may read them; their results differ from torch's in the last bits.
    """

    def __init__(
        self,
        shape: tuple[int, int, int, int],
        device: torch.device,
        dtype: torch.dtype,
        by_native: bool,
    ) -> None:
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self._rows = torch.arange(shape[0], device=device)
        self._gpu = gpu_kernels(device) if shape[-1] in HEAD_DIMS else None
        if self._gpu is not None:
            self._gpu.load_self_attention(self.keys, dtype)
        known = shape[-1] == native.HEAD_DIM and shape[2] <= native.MAX_LENGTH
        fits = known and dtype == torch.float32 and native_builds.serves(device)
        self._is_native = by_native and fits

    @property
    def n_bytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    def write_prompt(self, keys: torch.Tensor, values: torch.Tensor, slots: Slots) -> None:
        self.keys[slots, :, : keys.shape[2]] = keys
        self.values[slots, :, : values.shape[2]] = values

    def copy(self, sources: torch.Tensor, targets: torch.Tensor, length: int) -> None:
        for kept in (self.keys, self.values):
            kept[targets, :, :length] = kept[sources, :, :length]

    def attend(
        self, qkv: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        if self._gpu is not None:
            return self._gpu.self_attention(qkv, positions, self.keys, self.values)
        if self._is_native:
            return native.self_attention(qkv, positions, self.keys, self.values)
        n, length = len(qkv), mask.shape[-1]
        q, k, v = _split(qkv, self.keys.shape[-1])
        rows = self._rows[:n]
        self.keys[rows, :, positions] = k
        self.values[rows, :, positions] = v
        keys, values = self.keys[:n, :, :length], self.values[:n, :, :length]
        return merge_heads(attend(q[:, :, None], keys, values, mask))[:, 0]


class Int8SelfCache:
    """Keys and values in 8 bits, with a scale for each head of each position; products are in
    `dtype`.

    Args:
        shape: (slots, H, positions, D).
    """

    def __init__(
        self, shape: tuple[int, int, int, int], device: torch.device, dtype: torch.dtype
    ) -> None:
        self.dtype = dtype
        keys, values = (torch.zeros(shape, device=device, dtype=torch.int8) for _ in range(2))
        self._kept = keys, values
        of_keys, of_values = (torch.zeros(*shape[:-1], 1, device=device) for _ in range(2))
        self._scales = of_keys, of_values
        self._rows = torch.arange(shape[0], device=device)
        self._gpu = gpu_kernels(device) if shape[-1] in HEAD_DIMS else None
        if self._gpu is not None:
            self._gpu.load_self_attention(keys, dtype)

    @property
    def n_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in (*self._kept, *self._scales))

    def write_prompt(self, keys: torch.Tensor, values: torch.Tensor, slots: Slots) -> None:
        length = keys.shape[2]
        for kept, scales, x in zip(self._kept, self._scales, (keys, values), strict=True):
            kept[slots, :, :length], scales[slots, :, :length] = quantize_rows(x)

    def copy(self, sources: torch.Tensor, targets: torch.Tensor, length: int) -> None:
        for kept in (*self._kept, *self._scales):
            kept[targets, :, :length] = kept[sources, :, :length]

    def attend(
        self, qkv: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        if self._gpu is not None:
            return self._gpu.self_attention(qkv, positions, *self._kept, self._scales)
        n, length = len(qkv), mask.shape[-1]
        q, *written = _split(qkv, self._kept[0].shape[-1])
        rows = self._rows[:n]
        read = []
        for kept, scales, x in zip(self._kept, self._scales, written, strict=True):
            kept[rows, :, positions], scales[rows, :, positions] = quantize_rows(x)
            part = slice(0, n), slice(None), slice(0, length)
            read.append(kept[part] * scales[part].to(self.dtype))
        keys, values = read
        return merge_heads(attend(q[:, :, None], keys, values, mask))[:, 0]


def _split(qkv: torch.Tensor, head_dim: int) -> list[torch.Tensor]:
    """(n, 3*H*D) -> queries, keys and values, (n, H, D) each."""
    return [part.view(len(part), -1, head_dim) for part in qkv.chunk(3, dim=-1)]

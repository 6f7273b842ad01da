"""Cross-attention keys and values of every running sequence, kept as they are or in 8 bits.

Shapes: B batch, T tokens, H local heads, D width of a head.
"""

from typing import Protocol

import torch

from engine.kernels import native
from engine.kernels.attention import attend, merge_heads, split_heads
from engine.model.slots import Slots, slot_indices


class CrossCache(Protocol):
    """One decoder layer's keys and values of windows, in slots."""

    @property
    def n_bytes(self) -> int: ...

    def fill(self, kv: torch.Tensor, slots: Slots) -> None:
        """Keep keys and values, (B, n_audio_ctx, 2*H*D), in the slots."""

    def attend(self, queries: torch.Tensor, slots: Slots) -> torch.Tensor:
        """Queries (B, T, H*D), each row looking at its slot -> the same shape."""


class DenseCrossCache:
    """In the number format that they are computed in.

    Args:
        shape: (slots, H, n_audio_ctx, D).
    """

    def __init__(
        self, shape: tuple[int, int, int, int], device: torch.device, dtype: torch.dtype
    ) -> None:
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)

    @property
    def n_bytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    def fill(self, kv: torch.Tensor, slots: Slots) -> None:
        keys, values = kv.chunk(2, dim=-1)
        self.keys[slots] = split_heads(keys, self.keys.shape[-1])
        self.values[slots] = split_heads(values, self.keys.shape[-1])

    def attend(self, queries: torch.Tensor, slots: Slots) -> torch.Tensor:
        keys, values = self.keys[slots], self.values[slots]
        return merge_heads(attend(split_heads(queries, keys.shape[-1]), keys, values, None))


class Int8CrossCache:
    """In 8 bits, with a scale for each head of each frame; half the bytes of a 16-bit one, which
    is most of what a decoder step reads. Native kernels only."""

    def __init__(self, n_slots: int, n_heads: int, n_audio_ctx: int) -> None:
        self._cache = native.Int8CrossCache(n_slots, n_heads, n_audio_ctx)

    @property
    def n_bytes(self) -> int:
        return self._cache.n_bytes

    def fill(self, kv: torch.Tensor, slots: Slots) -> None:
        self._cache.fill(kv, slot_indices(slots))

    def attend(self, queries: torch.Tensor, slots: Slots) -> torch.Tensor:
        length = queries.shape[1]
        rows = slot_indices(slots).repeat_interleave(length)
        return self._cache.attend(queries.flatten(0, 1).float(), rows).view(queries.shape)

"""Keys and values of every running sequence, in slots of fixed size.

A Whisper decoder sequence is at most 448 tokens long and its cross-attention always 1500 frames,
so a slot has a fixed size and nothing is ever paged, moved or reallocated.
"""

from dataclasses import dataclass

import torch

from engine.errors import EngineError

Slots = slice | torch.Tensor
"""Slots that a batch touches: a leading range, or indices of shape (n,) int64."""


@dataclass
class LayerCache:
    """One decoder layer's slots: self (n_slots, n_head, max_length, head_dim), cross
    (n_slots, n_head, n_audio_ctx, head_dim); heads are this rank's."""

    self_k: torch.Tensor
    self_v: torch.Tensor
    cross_k: torch.Tensor
    cross_v: torch.Tensor


class KVCache:
    """The slots of the decoder layers that this rank holds.

    Zeroed at the start: idle slots compute along with the others, on finite numbers.
    """

    def __init__(
        self,
        n_layers: int,
        n_slots: int,
        n_heads: int,
        head_dim: int,
        max_length: int,
        n_audio_ctx: int,
        device: torch.device,
        self_dtype: torch.dtype,
        cross_dtype: torch.dtype,
    ) -> None:
        self.n_slots = n_slots
        self.max_length = max_length

        def zeros(length: int, dtype: torch.dtype) -> torch.Tensor:
            return torch.zeros(n_slots, n_heads, length, head_dim, device=device, dtype=dtype)

        try:
            self.layers = [
                LayerCache(
                    zeros(max_length, self_dtype),
                    zeros(max_length, self_dtype),
                    zeros(n_audio_ctx, cross_dtype),
                    zeros(n_audio_ctx, cross_dtype),
                )
                for _ in range(n_layers)
            ]
        except RuntimeError as error:
            position_bytes = max_length * self_dtype.itemsize + n_audio_ctx * cross_dtype.itemsize
            gigabytes = n_slots * 2 * n_layers * n_heads * head_dim * position_bytes / 1e9
            raise EngineError(
                f"no room for {n_slots} slots ({gigabytes:.1f} GB): choose a smaller batch"
            ) from error

    @property
    def n_bytes(self) -> int:
        return sum(
            tensor.nbytes
            for layer in self.layers
            for tensor in (layer.self_k, layer.self_v, layer.cross_k, layer.cross_v)
        )

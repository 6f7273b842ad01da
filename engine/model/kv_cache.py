"""Keys and values of every running sequence, in slots of fixed size.

A Whisper decoder sequence is at most 448 tokens long and its cross-attention always 1500 frames,
so a slot has a fixed size and nothing is ever paged, moved or reallocated.
"""

from dataclasses import dataclass

import torch

from engine.config import NumberFormats
from engine.errors import EngineError
from engine.kernels import native
from engine.model.cross_cache import CrossCache, DenseCrossCache, Int8CrossCache


@dataclass
class LayerCache:
    """One decoder layer's slots: keys and values of tokens, (n_slots, n_head, max_length,
    head_dim), and of windows; heads are this rank's."""

    self_k: torch.Tensor
    self_v: torch.Tensor
    cross: CrossCache


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
        formats: NumberFormats,
    ) -> None:
        self.n_slots = n_slots
        self.max_length = max_length
        # A CPU multiplies the short keys of self-attention twice as fast in float32.
        dtype = formats.dtype
        in_8_bits = formats.int8 and head_dim == native.HEAD_DIM and native.serves(device)

        def tokens() -> torch.Tensor:
            return torch.zeros(n_slots, n_heads, max_length, head_dim, device=device, dtype=dtype)

        def cross() -> CrossCache:
            if in_8_bits and n_audio_ctx <= native.MAX_LENGTH:
                return Int8CrossCache(n_slots, n_heads, n_audio_ctx)
            return DenseCrossCache(
                (n_slots, n_heads, n_audio_ctx, head_dim), device, formats.product
            )

        try:
            self.layers = [LayerCache(tokens(), tokens(), cross()) for _ in range(n_layers)]
        except RuntimeError as error:
            frame_bytes = 1 if in_8_bits else formats.product.itemsize
            position_bytes = max_length * dtype.itemsize + n_audio_ctx * frame_bytes
            gigabytes = n_slots * 2 * n_layers * n_heads * head_dim * position_bytes / 1e9
            raise EngineError(
                f"no room for {n_slots} slots ({gigabytes:.1f} GB): choose a smaller batch"
            ) from error

    @property
    def n_bytes(self) -> int:
        return sum(
            layer.self_k.nbytes + layer.self_v.nbytes + layer.cross.n_bytes for layer in self.layers
        )

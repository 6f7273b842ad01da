"""What is stored of every running sequence, in slots of fixed size.

A Whisper decoder sequence is at most 448 tokens long and its cross-attention at most 1500 frames,
so a slot has a fixed size and nothing is ever paged, moved or reallocated.
"""

from dataclasses import dataclass

import torch

from engine.errors import EngineError
from engine.kernels import native, native_builds
from engine.model.cross_cache import (
    CrossCache,
    DenseCrossCache,
    Int8CrossCache,
    NativeInt8CrossCache,
    WindowStates,
)
from engine.model.self_cache import DenseSelfCache, Int8SelfCache, SelfCache
from engine.model.window_lengths import WindowLengths
from engine.precision import CrossAttentionMode, NumberFormats


@dataclass(frozen=True, slots=True)
class CacheSizes:
    """Sizes of a rank's slots.

    Attributes:
        n_layers, n_heads: this rank's layers and heads of the decoder.
        n_state: width of the encoder's output.
        may_be_short: whether windows may have fewer frames than `n_audio_ctx`.
    """

    n_layers: int
    n_slots: int
    n_heads: int
    head_dim: int
    max_length: int
    n_audio_ctx: int
    n_state: int
    may_be_short: bool = False

    @property
    def own(self) -> tuple[int, int, int, int]:
        """Shape of a layer's keys, or values, of tokens."""
        return self.n_slots, self.n_heads, self.max_length, self.head_dim

    @property
    def cross(self) -> tuple[int, int, int, int]:
        """Shape of a layer's keys, or values, of windows."""
        return self.n_slots, self.n_heads, self.n_audio_ctx, self.head_dim


@dataclass
class LayerCache:
    """One decoder layer's slots, for tokens and for windows."""

    own: SelfCache
    cross: CrossCache


class KVCache:
    """The slots of the decoder layers that this rank holds.

    All are zero at the start: idle slots are computed with the others, on finite numbers.

    Attributes:
        states: the encoder's output of windows, if all layers attend to it.
        lengths: of the windows in the slots.
    """

    def __init__(self, sizes: CacheSizes, device: torch.device, formats: NumberFormats) -> None:
        self.n_slots = sizes.n_slots
        self.max_length = sizes.max_length
        self.states: WindowStates | None = None
        self.lengths = WindowLengths(sizes.n_slots, sizes.n_audio_ctx, device, sizes.may_be_short)
        try:
            if formats.cross is CrossAttentionMode.ABSORBED and sizes.n_layers:
                shape = (sizes.n_slots, sizes.n_audio_ctx, sizes.n_state)
                self.states = WindowStates(shape, device, formats.product, self.lengths)
                self.states.expect(sizes.n_heads)
            self.layers = [
                LayerCache(
                    _self_cache(sizes, device, formats),
                    self.states or _cross_cache(sizes, device, formats, self.lengths),
                )
                for _ in range(sizes.n_layers)
            ]
        except RuntimeError as error:
            raise EngineError(
                f"no room for {sizes.n_slots} slots: choose a smaller batch"
            ) from error

    def copy(self, sources: torch.Tensor, targets: torch.Tensor, length: int) -> None:
        """Copy what is stored of the first tokens of slots to others, (n,) each."""
        for layer in self.layers:
            layer.own.copy(sources, targets, length)

    @property
    def n_bytes(self) -> int:
        own = sum(layer.own.n_bytes for layer in self.layers)
        if self.states is not None:
            return own + self.states.n_bytes
        return own + sum(layer.cross.n_bytes for layer in self.layers)


def _self_cache(sizes: CacheSizes, device: torch.device, formats: NumberFormats) -> SelfCache:
    # A CPU multiplies the short keys of self-attention twice as fast in float32.
    if formats.int8_self:
        return Int8SelfCache(sizes.own, device, formats.dtype)
    by_native = formats.product == torch.bfloat16  # float32 stays as torch computes it
    return DenseSelfCache(sizes.own, device, formats.dtype, by_native)


def _cross_cache(
    sizes: CacheSizes, device: torch.device, formats: NumberFormats, lengths: WindowLengths
) -> CrossCache:
    if formats.cross is CrossAttentionMode.CACHED:
        return DenseCrossCache(sizes.cross, device, formats.product, lengths)
    if has_native_cross_cache(sizes.head_dim, sizes.n_audio_ctx, device, formats):
        return NativeInt8CrossCache(sizes.n_slots, sizes.n_heads, sizes.n_audio_ctx, lengths)
    return Int8CrossCache(sizes.cross, device, formats.product, lengths)


def has_native_cross_cache(
    head_dim: int, n_audio_ctx: int, device: torch.device, formats: NumberFormats
) -> bool:
    """Whether the native kernels store 8-bit keys and values, for models whose products are in
    bfloat16."""
    known = head_dim == native.HEAD_DIM and n_audio_ctx <= native.MAX_LENGTH
    return known and formats.product == torch.bfloat16 and native_builds.serves(device)

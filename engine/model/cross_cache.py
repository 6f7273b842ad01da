"""What is stored of each window for cross-attention: keys and values, or the encoder's output.

Shapes: B batch, T tokens, H local heads, D width of a head, C width of the model, L frames of a
window: n_audio_ctx, or fewer if it is a short one.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch.nn import functional as F

from engine.kernels import native
from engine.kernels.attention import attend, merge_heads, split_heads
from engine.kernels.quantize import quantize_rows
from engine.kernels.triton import HEAD_DIMS, WIDTH_STEP, gpu_kernels
from engine.model.slots import Slots, slot_indices
from engine.model.window_lengths import WindowLengths

_MAX_QUERIES = 32
"""Of a window: those of one token. Those of a prompt are matrices to torch."""


class CrossCache(Protocol):
    """What a decoder layer attends to of windows, in slots."""

    @property
    def n_bytes(self) -> int: ...

    def fill(self, x: torch.Tensor, slots: Slots) -> None:
        """Store keys and values, (B, L, 2*H*D), or their replacement, in the slots. Their lengths
        are known already (`WindowLengths.put`)."""

    def attend(self, queries: torch.Tensor, slots: Slots) -> torch.Tensor:
        """Queries (B, T, H*D), each row attending to its slot -> the same shape."""

    def scores(self, queries: torch.Tensor, slots: Slots, heads: Sequence[int]) -> torch.Tensor:
        """What `attend` takes the softmax of, for some heads: (B, len(heads), T, n_audio_ctx),
        float32. Behind a short window they mean nothing."""


class DenseCrossCache:
    """Keys and values in the number format in which they are computed.

    Args:
        shape: (slots, H, n_audio_ctx, D).
        lengths: of the windows in the slots; None: all are whole.
    """

    def __init__(
        self,
        shape: tuple[int, int, int, int],
        device: torch.device,
        dtype: torch.dtype,
        lengths: WindowLengths | None = None,
    ) -> None:
        self._lengths = lengths or WindowLengths(shape[0], shape[2], device)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self._gpu = gpu_kernels(device) if shape[-1] in HEAD_DIMS else None
        if self._gpu is not None:
            self._gpu.load_cross_attention(self.keys, dtype)

    @property
    def n_bytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    def fill(self, x: torch.Tensor, slots: Slots) -> None:
        keys, values = x.chunk(2, dim=-1)
        n_frames = x.shape[1]
        self.keys[slots, :, :n_frames] = split_heads(keys, self.keys.shape[-1])
        self.values[slots, :, :n_frames] = split_heads(values, self.keys.shape[-1])

    def attend(self, queries: torch.Tensor, slots: Slots) -> torch.Tensor:
        if self._gpu is not None and queries.shape[1] == 1:
            where = _as_kernels_take(slots)
            found = self._gpu.cross_attention(
                queries[:, 0], where, self.keys, self.values, lengths=self._lengths.varying
            )
            return found[:, None]
        return self._lengths.attend(self._attend, queries, slots)

    def _attend(
        self, queries: torch.Tensor, slots: Slots, n_frames: int, mask: torch.Tensor | None
    ) -> torch.Tensor:
        keys, values = self.keys[slots, :, :n_frames], self.values[slots, :, :n_frames]
        by_head = None if mask is None else mask[:, None, None]
        return merge_heads(attend(split_heads(queries, keys.shape[-1]), keys, values, by_head))

    def scores(self, queries: torch.Tensor, slots: Slots, heads: Sequence[int]) -> torch.Tensor:
        return _scores(queries, self.keys[slots][:, list(heads)], heads)


class Int8CrossCache:
    """Keys and values in 8 bits, with a scale for each head of each frame: half the bytes of 16.

    Keys and values are converted but never scaled: scores are scaled after their product, softmax
    weights before theirs. Weights are scaled relative to the head's greatest scale, because in
    float16 a thousandth of a small scale would be lost.

    Args:
        shape: (slots, H, n_audio_ctx, D).
        dtype: number format of the products.
        lengths: as in `DenseCrossCache`.
    """

    def __init__(
        self,
        shape: tuple[int, int, int, int],
        device: torch.device,
        dtype: torch.dtype,
        lengths: WindowLengths | None = None,
    ) -> None:
        self.dtype = dtype
        self._lengths = lengths or WindowLengths(shape[0], shape[2], device)
        self._keys, self._values = (
            torch.zeros(shape, device=device, dtype=torch.int8) for _ in range(2)
        )
        self._key_scales, self._value_scales = (
            torch.zeros(shape[:-1], device=device) for _ in range(2)
        )
        self._gpu = gpu_kernels(device) if shape[-1] in HEAD_DIMS else None
        if self._gpu is not None:
            self._gpu.load_cross_attention(self._keys, dtype)

    @property
    def n_bytes(self) -> int:
        kept = (self._keys, self._values, self._key_scales, self._value_scales)
        return sum(tensor.nbytes for tensor in kept)

    def fill(self, x: torch.Tensor, slots: Slots) -> None:
        keys, values = (
            quantize_rows(split_heads(part, self._keys.shape[-1])) for part in x.chunk(2, dim=-1)
        )
        n_frames = x.shape[1]
        self._keys[slots, :, :n_frames], self._values[slots, :, :n_frames] = keys[0], values[0]
        self._key_scales[slots, :, :n_frames] = keys[1][..., 0]
        self._value_scales[slots, :, :n_frames] = values[1][..., 0]

    def attend(self, queries: torch.Tensor, slots: Slots) -> torch.Tensor:
        if self._gpu is not None and queries.shape[1] == 1:
            of_both = self._key_scales, self._value_scales
            kept = self._keys, self._values, of_both
            where, lengths = _as_kernels_take(slots), self._lengths.varying
            return self._gpu.cross_attention(queries[:, 0], where, *kept, lengths=lengths)[:, None]
        return self._lengths.attend(self._attend, queries, slots)

    def _attend(
        self, queries: torch.Tensor, slots: Slots, n_frames: int, mask: torch.Tensor | None
    ) -> torch.Tensor:
        q = split_heads(queries, self._keys.shape[-1]).to(self.dtype)
        flat = (q * q.shape[-1] ** -0.5).flatten(0, 1)
        keys, values = (
            x[slots, :, :n_frames].flatten(0, 1).to(self.dtype) for x in (self._keys, self._values)
        )
        scores = torch.bmm(flat, keys.transpose(1, 2)).float()
        scores *= self._key_scales[slots, :, :n_frames].flatten(0, 1)[:, None]
        scales = self._value_scales[slots, :, :n_frames].flatten(0, 1)[:, None]
        if mask is not None:
            behind = ~mask.repeat_interleave(q.shape[1], 0)[:, None]
            scores = scores.masked_fill_(behind, float("-inf"))
            scales = scales.masked_fill(behind, 0.0)
        greatest = scales.amax(-1, keepdim=True).clamp_(min=torch.finfo(torch.float32).tiny)
        weights = torch.softmax(scores, dim=-1) * (scales / greatest)
        out = torch.bmm(weights.to(self.dtype), values).float() * greatest
        return merge_heads(out.view(q.shape)).to(queries.dtype)

    def scores(self, queries: torch.Tensor, slots: Slots, heads: Sequence[int]) -> torch.Tensor:
        keys = self._keys[slots][:, list(heads)].to(self.dtype)
        return _scores(queries, keys, heads) * self._key_scales[slots][:, list(heads), None]


class NativeInt8CrossCache:
    """Keys and values in 8 bits in the native kernels' layout, read once for each token. On a CPU
    this is most of what a decoder step reads."""

    def __init__(
        self,
        n_slots: int,
        n_heads: int,
        n_audio_ctx: int,
        lengths: WindowLengths | None = None,
    ) -> None:
        known = lengths or WindowLengths(n_slots, n_audio_ctx, torch.device("cpu"))
        self._cache = native.Int8CrossCache(n_slots, n_heads, n_audio_ctx, known.frames)

    @property
    def n_bytes(self) -> int:
        return self._cache.n_bytes

    def fill(self, x: torch.Tensor, slots: Slots) -> None:
        self._cache.fill(x, slot_indices(slots, x.device))

    def attend(self, queries: torch.Tensor, slots: Slots) -> torch.Tensor:
        length = queries.shape[1]
        rows = slot_indices(slots, queries.device).repeat_interleave(length)
        return self._cache.attend(queries.flatten(0, 1).float(), rows).view(queries.shape)

    def scores(self, queries: torch.Tensor, slots: Slots, heads: Sequence[int]) -> torch.Tensor:
        return _scores(queries, self._cache.keys(slots, heads), heads)


class WindowStates:
    """The encoder's output of windows, in slots; one for all layers.

    Args:
        shape: (slots, n_audio_ctx, C).
        lengths: as in `DenseCrossCache`.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        device: torch.device,
        dtype: torch.dtype,
        lengths: WindowLengths | None = None,
    ) -> None:
        self._lengths = lengths or WindowLengths(shape[0], shape[1], device)
        self.states = torch.zeros(shape, device=device, dtype=dtype)
        kernels = gpu_kernels(device)
        takes = kernels is not None and kernels.takes(dtype) and shape[2] % WIDTH_STEP == 0
        self._gpu = kernels if takes else None

    @property
    def n_bytes(self) -> int:
        return self.states.nbytes

    def expect(self, n_heads: int) -> None:
        """The queries of so many heads will come: `attend` prepares for them, if it must."""
        if self._gpu is not None:
            self._gpu.load_absorbed_attention(self.states, n_heads)

    def fill(self, x: torch.Tensor, slots: Slots) -> None:
        """Store (B, L, C) in the slots."""
        self.states[slots, : x.shape[1]] = x.to(self.states.dtype)

    def attend(self, queries: torch.Tensor, slots: Slots) -> torch.Tensor:
        """(B, queries, C), already scaled, each row attending to its slot -> the same shape: the
        sum of the states, weighted by the softmax of their products with the query."""
        if self._gpu is not None and queries.shape[1] <= _MAX_QUERIES:
            where, lengths = _as_kernels_take(slots), self._lengths.varying
            return self._gpu.absorbed_attention(queries, where, self.states, lengths=lengths)
        return self._lengths.attend(self._attend, queries, slots)

    def _attend(
        self, queries: torch.Tensor, slots: Slots, n_frames: int, mask: torch.Tensor | None
    ) -> torch.Tensor:
        states, n_queries = self.states[slots, :n_frames], queries.shape[1]
        # On a CPU, the bits of six queries of a window depend on whether another window is beside
        # it; those of eight do not (measured in float32, MKL).
        queries = queries if queries.is_cuda else F.pad(queries, (0, 0, 0, -n_queries % 4))
        scores = torch.bmm(queries, states.transpose(1, 2))
        if mask is not None:
            scores = scores.masked_fill_(~mask[:, None], float("-inf"))
        return torch.bmm(torch.softmax(scores, dim=-1), states)[:, :n_queries]

    def scores(self, queries: torch.Tensor, slots: Slots, heads: Sequence[int]) -> torch.Tensor:
        """(B, len(heads)*T, C), the queries of these heads alone -> as `CrossCache.scores`."""
        scores = torch.bmm(queries, self.states[slots].transpose(1, 2)).float()
        return scores.view(len(queries), len(heads), -1, scores.shape[-1])


def _as_kernels_take(slots: Slots) -> torch.Tensor | int:
    return slots.start if isinstance(slots, slice) else slots


def _scores(queries: torch.Tensor, keys: torch.Tensor, heads: Sequence[int]) -> torch.Tensor:
    """(B, T, H*D) x keys of some heads (B, len(heads), L, D) -> (B, len(heads), T, L), float32."""
    q = split_heads(queries, keys.shape[-1])[:, list(heads)].to(keys.dtype)
    return torch.matmul(q * keys.shape[-1] ** -0.5, keys.transpose(2, 3)).float()

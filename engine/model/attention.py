"""Attention of encoder and decoder.

Heads are this rank's: columns of q, k and v, rows of the output.

Shapes: B batch, T new tokens, H local heads, D width of a head, L cached length.
"""

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from engine.kernels import native
from engine.kernels.attention import attend, attend_window, merge_heads, split_heads
from engine.model.kv_cache import LayerCache
from engine.model.slots import Slots, n_slots
from engine.parallel.linear import ColumnParallelLinear, RowParallelLinear
from engine.parallel.partition import partition, scaled
from engine.weights.source import LoadContext


def local_columns(context: LoadContext, n_head: int, head_dim: int) -> slice:
    """The columns of q, k and v that belong to this rank's heads."""
    return scaled(partition(n_head, context.group.size)[context.group.rank], head_dim)


def pad_rows(x: torch.Tensor, batch: int) -> torch.Tensor:
    """(n, T, C) -> (batch, T, C) with zeros."""
    return x if len(x) == batch else F.pad(x, (0, 0, 0, 0, 0, batch - len(x)))


class SelfAttention(nn.Module):
    """The layers of self-attention, with q, k and v in one product.

    Args:
        dtype: of q, k and v.
    """

    def __init__(
        self, context: LoadContext, prefix: str, n_head: int, head_dim: int, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.head_dim = head_dim
        # float32 stays as torch computes it.
        quick = context.formats.product == torch.bfloat16 and head_dim == native.HEAD_DIM
        self.is_native = quick and native.serves(context.device)
        columns = local_columns(context, n_head, head_dim)
        names = [f"{prefix}.{name}" for name in ("q_proj", "k_proj", "v_proj")]
        make = partial(context.linear, dtype=dtype)
        self.qkv = ColumnParallelLinear.load(context, names, columns, make)
        self.out = RowParallelLinear.load(
            context, f"{prefix}.out_proj", columns, partial(context.linear, dtype=context.dtype)
        )

    def project(self, x: torch.Tensor) -> list[torch.Tensor]:
        """(B, T, n_state) -> q, k and v, each (B, H, T, D)."""
        return [split_heads(part, self.head_dim) for part in self.qkv(x).chunk(3, dim=-1)]


class EncoderSelfAttention(SelfAttention):
    """All 1500 frames of a window look at each other."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, n_audio_ctx, n_state) -> the same."""
        out: torch.Tensor = self.out(attend_window(self.qkv(x), self.head_dim))
        return out


class DecoderSelfAttention(SelfAttention):
    """Tokens look at the earlier tokens of their own slot."""

    def prefill(
        self, x: torch.Tensor, cache: LayerCache, slots: Slots, mask: torch.Tensor
    ) -> torch.Tensor:
        """(B, T, n_state) from position 0 -> the same; writes positions 0 to T-1 of the slots."""
        q, k, v = self.project(x)
        cache.self_k[slots, :, : x.shape[1]] = k
        cache.self_v[slots, :, : x.shape[1]] = v
        out: torch.Tensor = self.out(merge_heads(attend(q, k, v, mask)))
        return out

    def decode(
        self, x: torch.Tensor, cache: LayerCache, positions: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """One token in each of the first slots: (B, 1, n_state) -> the same.

        Args:
            positions: (n,) where each token is written; n <= B, rows beyond n are padding.
            mask: (n, 1, 1, L), True beyond each slot's own length; L bounds what is read.
        """
        if self.is_native and cache.self_k.shape[2] <= native.MAX_LENGTH:
            qkv = self.qkv(x)[: len(positions), 0]
            attended = native.self_attention(qkv, positions, cache.self_k, cache.self_v)[:, None]
        else:
            attended = self._attend_tokens(x, cache, positions, mask)
        out: torch.Tensor = self.out(pad_rows(attended, len(x)))
        return out

    def _attend_tokens(
        self, x: torch.Tensor, cache: LayerCache, positions: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        n, length = len(positions), mask.shape[-1]
        q, k, v = (part[:n] for part in self.project(x))
        rows = torch.arange(n, device=x.device)
        cache.self_k[rows, :, positions] = k[:, :, 0]
        cache.self_v[rows, :, positions] = v[:, :, 0]
        keys, values = cache.self_k[:n, :, :length], cache.self_v[:n, :, :length]
        return merge_heads(attend(q, keys, values, mask))


class CrossAttention(nn.Module):
    """Tokens look at the encoder's output, whose keys and values are computed once per window."""

    def __init__(self, context: LoadContext, prefix: str, n_head: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        columns = local_columns(context, n_head, head_dim)
        make = partial(context.linear, dtype=context.formats.product)
        self.q = ColumnParallelLinear.load(context, [f"{prefix}.q_proj"], columns, make)
        names = [f"{prefix}.{name}" for name in ("k_proj", "v_proj")]
        self.kv = ColumnParallelLinear.load(context, names, columns, make)
        self.out = RowParallelLinear.load(
            context, f"{prefix}.out_proj", columns, partial(context.linear, dtype=context.dtype)
        )

    def fill(self, audio_features: torch.Tensor, cache: LayerCache, slots: Slots) -> None:
        """Compute the keys and values of (B, n_audio_ctx, n_state) into the slots."""
        cache.cross.fill(self.kv(audio_features), slots)

    def forward(self, x: torch.Tensor, cache: LayerCache, slots: Slots) -> torch.Tensor:
        """(B, T, n_state) -> the same, each row looking at its slot; rows beyond are padding."""
        attended = cache.cross.attend(self.q(x)[: n_slots(slots)], slots)
        out: torch.Tensor = self.out(pad_rows(attended, len(x)))
        return out

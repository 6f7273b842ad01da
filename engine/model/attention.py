"""Self-attention of encoder and decoder.

Each rank has its own heads: columns of q, k and v, rows of the output.

Shapes: B batch, T new tokens, H local heads, D width of a head, L cached length.
"""

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from engine.kernels.attention import attend, attend_window, merge_heads, split_heads
from engine.model.self_cache import SelfCache
from engine.model.slots import Slots
from engine.parallel.linear import ColumnParallelLinear, RowParallelLinear
from engine.parallel.low_rank import Chosen
from engine.parallel.partition import partition, scaled
from engine.weights.source import LoadContext


def local_columns(context: LoadContext, n_head: int, head_dim: int) -> slice:
    """The columns of q, k and v that belong to this rank's heads."""
    return scaled(partition(n_head, context.group.size)[context.group.rank], head_dim)


def pad_rows(x: torch.Tensor, batch: int) -> torch.Tensor:
    """(n, T, C) -> (batch, T, C) with zeros."""
    n = x.shape[0]
    return x if n == batch else F.pad(x, (0, 0, 0, 0, 0, batch - n))


class SelfAttention(nn.Module):
    """The linear layers of self-attention, with q, k and v in one product.

    Args:
        dtype: format of q, k and v.
        many_rows: rows of windows pass through it, not those of tokens.
    """

    def __init__(
        self,
        context: LoadContext,
        prefix: str,
        n_head: int,
        head_dim: int,
        dtype: torch.dtype,
        many_rows: bool,
    ) -> None:
        super().__init__()
        self.head_dim = head_dim
        columns = local_columns(context, n_head, head_dim)
        names = [f"{prefix}.{name}" for name in ("q_proj", "k_proj", "v_proj")]
        make = partial(context.linear, dtype=dtype, many_rows=many_rows)
        self.qkv = ColumnParallelLinear.load(context, names, columns, make, many_rows)
        make = partial(context.linear, dtype=context.dtype, many_rows=many_rows)
        out = f"{prefix}.out_proj"
        self.out = RowParallelLinear.load(context, out, columns, make, many_rows)

    def project(self, x: torch.Tensor, adapters: Chosen = None) -> list[torch.Tensor]:
        """(B, T, n_state) -> q, k and v, each (B, H, T, D)."""
        qkv = self.qkv(x, adapters=adapters)
        return [split_heads(part, self.head_dim) for part in qkv.chunk(3, dim=-1)]


class EncoderSelfAttention(SelfAttention):
    """All frames of a window attend to each other."""

    def forward(self, x: torch.Tensor, adapters: Chosen = None) -> torch.Tensor:
        """(B, frames, n_state) -> the same."""
        attended = attend_window(self.qkv(x, adapters=adapters), self.head_dim)
        out: torch.Tensor = self.out(attended, adapters)
        return out


class DecoderSelfAttention(SelfAttention):
    """Tokens attend to the earlier tokens of their own slot."""

    def prefill(
        self,
        x: torch.Tensor,
        cache: SelfCache,
        slots: Slots,
        mask: torch.Tensor,
        adapters: Chosen = None,
    ) -> torch.Tensor:
        """(B, T, n_state) from position 0 -> the same; writes positions 0 to T-1 of the slots."""
        q, k, v = self.project(x, adapters)
        cache.write_prompt(k, v, slots)
        out: torch.Tensor = self.out(merge_heads(attend(q, k, v, mask)), adapters)
        return out

    def decode(
        self,
        norm: nn.LayerNorm,
        x: torch.Tensor,
        cache: SelfCache,
        positions: torch.Tensor,
        mask: torch.Tensor,
        adapters: Chosen = None,
    ) -> torch.Tensor:
        """One token in each of the first slots: (B, 1, n_state) and the attention of its
        normalisation; x is overwritten.

        Args:
            positions: (n,) where each token is written; n <= B, rows beyond n are padding.
            mask: (n, 1, 1, L), True up to each slot's own token; L bounds what is read.
        """
        qkv = self.qkv.of_norm(norm, x, adapters=adapters)[: len(positions), 0]
        attended = cache.attend(qkv, positions, mask)[:, None]
        return self.out.add_to(x, pad_rows(attended, len(x)), adapters)

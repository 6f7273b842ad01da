"""Cross-attention: tokens attend to the encoder's output.

Each rank has its own heads: columns of q, k and v, rows of the output.

Shapes: B batch, T tokens, H local heads, D width of a head, C width of the model.
"""

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import torch
from torch import nn

from engine.model.attention import local_columns, pad_rows
from engine.model.cross_cache import CrossCache
from engine.model.slots import Slots, n_slots
from engine.parallel.linear import ColumnParallelLinear, RowParallelLinear
from engine.parallel.low_rank import Chosen
from engine.precision import CrossAttentionMode
from engine.weights.source import LoadContext


class CrossAttention(Protocol):
    """A cross-attention layer, in one of the modes of `engine.precision.CrossAttentionMode`."""

    def fill(
        self, states: torch.Tensor, cache: CrossCache, slots: Slots, adapters: Chosen = None
    ) -> None:
        """Store what it needs of the encoder's output (B, n_audio_ctx, C) in the slots."""

    def add_to(
        self,
        norm: nn.LayerNorm,
        x: torch.Tensor,
        cache: CrossCache,
        slots: Slots,
        adapters: Chosen = None,
    ) -> torch.Tensor:
        """(B, T, C) and the attention of its normalisation; x is overwritten. Each row attends to
        its slot; further rows are padding."""

    def scores(
        self,
        x: torch.Tensor,
        cache: CrossCache,
        slots: Slots,
        heads: Sequence[int],
        adapters: Chosen = None,
    ) -> torch.Tensor:
        """How much tokens (B, T, C) attend to frames, before the softmax, by some of this rank's
        heads: (B, len(heads), T, n_audio_ctx), float32."""


class CachedCrossAttention(nn.Module):
    """Keys and values are computed once per window."""

    def __init__(self, context: LoadContext, prefix: str, n_head: int, head_dim: int) -> None:
        super().__init__()
        columns = local_columns(context, n_head, head_dim)
        product = context.formats.product
        self.q = _load_query(context, prefix, columns)
        names = [f"{prefix}.{name}" for name in ("k_proj", "v_proj")]
        make = partial(context.linear, dtype=product, many_rows=True)
        self.kv = ColumnParallelLinear.load(context, names, columns, make, many_rows=True)
        self.out = _load_output(context, prefix, columns)

    def fill(
        self, states: torch.Tensor, cache: CrossCache, slots: Slots, adapters: Chosen = None
    ) -> None:
        cache.fill(self.kv(states, adapters=adapters), slots)

    def add_to(
        self,
        norm: nn.LayerNorm,
        x: torch.Tensor,
        cache: CrossCache,
        slots: Slots,
        adapters: Chosen = None,
    ) -> torch.Tensor:
        queries = self.q.of_norm(norm, x, adapters=adapters)
        attended = cache.attend(queries[: n_slots(slots)], slots)
        return self.out.add_to(x, pad_rows(attended, len(x)), adapters)

    def scores(
        self,
        x: torch.Tensor,
        cache: CrossCache,
        slots: Slots,
        heads: Sequence[int],
        adapters: Chosen = None,
    ) -> torch.Tensor:
        return cache.scores(self.q(x, adapters=adapters), slots, heads)


class AbsorbedCrossAttention(nn.Module):
    """Queries are projected to the encoder's output, and the results back to the heads.

    A score is q . (W_k e) = (q W_k) . e, because keys have no bias. A head's result is
    W_v (sum of p e) + b_v, because the weights p sum to one. Quantised layers have scales on the
    other side than the one over which these projections are contracted, so both projections stay in
    the number format of products.
    """

    takes_any_rows = False  # torch multiplies the heads

    key: torch.Tensor
    value: torch.Tensor
    value_bias: torch.Tensor

    def __init__(self, context: LoadContext, prefix: str, n_head: int, head_dim: int) -> None:
        super().__init__()
        columns = local_columns(context, n_head, head_dim)
        self.q = _load_query(context, prefix, columns)
        by_head = partial(self._by_head, context, columns, head_dim)
        self.register_buffer("key", by_head(f"{prefix}.k_proj.weight") * head_dim**-0.5)
        value = by_head(f"{prefix}.v_proj.weight").transpose(1, 2).contiguous()
        self.register_buffer("value", value)
        bias = context.read(f"{prefix}.v_proj.bias", rows=columns, dtype=context.formats.product)
        self.register_buffer("value_bias", bias.view(-1, 1, head_dim))
        self.out = _load_output(context, prefix, columns)

    @staticmethod
    def _by_head(context: LoadContext, columns: slice, head_dim: int, name: str) -> torch.Tensor:
        """(H, D, C)."""
        weight = context.read(name, rows=columns, dtype=context.formats.product)
        return weight.view(-1, head_dim, weight.shape[1])

    def fill(
        self, states: torch.Tensor, cache: CrossCache, slots: Slots, adapters: Chosen = None
    ) -> None:
        cache.fill(states, slots)

    def add_to(
        self,
        norm: nn.LayerNorm,
        x: torch.Tensor,
        cache: CrossCache,
        slots: Slots,
        adapters: Chosen = None,
    ) -> torch.Tensor:
        """All rows pass through both projections, because their number may change a row's bits."""
        n, (rows, length, width) = n_slots(slots), x.shape
        heads, head_dim, _ = self.key.shape
        projected = self.q.of_norm(norm, x, adapters=adapters)
        q = projected.view(rows * length, heads, head_dim).transpose(0, 1)
        queries = torch.bmm(q, self.key).view(heads, rows, length, width).transpose(0, 1)
        found = pad_rows(cache.attend(queries[:n].flatten(1, 2), slots), rows)
        by_head = found.reshape(rows, heads, length, width).transpose(0, 1).flatten(1, 2)
        attended = torch.bmm(by_head, self.value) + self.value_bias  # (H, B * T, D)
        attended = attended.transpose(0, 1).reshape(rows, length, heads * head_dim)
        return self.out.add_to(x, attended, adapters)

    def scores(
        self,
        x: torch.Tensor,
        cache: CrossCache,
        slots: Slots,
        heads: Sequence[int],
        adapters: Chosen = None,
    ) -> torch.Tensor:
        rows, length, width = x.shape
        projected = self.q(x, adapters=adapters)
        q = projected.view(rows * length, -1, self.key.shape[1]).transpose(0, 1)[list(heads)]
        queries = torch.bmm(q, self.key[list(heads)]).view(len(heads), rows, length, width)
        return cache.scores(queries.transpose(0, 1).flatten(1, 2), slots, heads)


def load_cross_attention(
    context: LoadContext, prefix: str, n_head: int, head_dim: int
) -> CrossAttention:
    """The layer for the context's mode."""
    is_absorbed = context.formats.cross is CrossAttentionMode.ABSORBED
    kind = AbsorbedCrossAttention if is_absorbed else CachedCrossAttention
    return kind(context, prefix, n_head, head_dim)


def _load_output(context: LoadContext, prefix: str, columns: slice) -> RowParallelLinear:
    make = partial(context.linear, dtype=context.dtype, many_rows=False)
    out = f"{prefix}.out_proj"
    return RowParallelLinear.load(context, out, columns, make, many_rows=False)


def _load_query(context: LoadContext, prefix: str, columns: slice) -> ColumnParallelLinear:
    make = partial(context.linear, dtype=context.formats.product, many_rows=False)
    name = f"{prefix}.q_proj"
    return ColumnParallelLinear.load(context, [name], columns, make, many_rows=False)

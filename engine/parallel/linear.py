"""Linear layers and the embedding, split over the ranks of a tensor-parallel group.

Each layer reads only the slice that its rank owns from the weight files (Megatron-LM,
arXiv:1909.08053, section 3). Kernels do the arithmetic (`engine.kernels`).
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from engine.kernels.linear import (
    LinearKernel,
    NativeFloat32Linear,
    NativeOutputLinear,
    output_linear,
)
from engine.parallel.group import Group
from engine.parallel.low_rank import Chosen, Deltas, Plain, load_deltas
from engine.parallel.partition import partition
from engine.precision import WeightFormat
from engine.weights.source import LoadContext

MakeKernel = Callable[[torch.Tensor, torch.Tensor | None], LinearKernel]


class ColumnParallelLinear(nn.Module):
    """Splits the output features. (..., in) -> (..., local out); ranks exchange nothing."""

    def __init__(self, kernel: LinearKernel, deltas: Deltas | None = None) -> None:
        super().__init__()
        self.kernel = kernel
        self.deltas = deltas

    @classmethod
    def load(
        cls,
        context: LoadContext,
        names: Sequence[str],
        rows: slice,
        make: MakeKernel,
        many_rows: bool,
    ) -> "ColumnParallelLinear":
        """Fuse the `rows` of several layers that share their input, such as q, k and v.

        If another one has a bias, a layer without a bias in the files (Whisper's k) gets zeros.

        Args:
            make: makes a kernel from weight and bias.
            many_rows: rows of windows pass through it, not those of tokens.
        """
        deltas = load_deltas(context, names, many_rows, rows=rows)
        weight = torch.cat([context.read(f"{name}.weight", rows=rows) for name in names])
        return cls(make(weight, cls._bias(context, names, rows, weight)), deltas)

    @staticmethod
    def _bias(
        context: LoadContext, names: Sequence[str], rows: slice, weight: torch.Tensor
    ) -> torch.Tensor | None:
        if not any(f"{name}.bias" in context.source for name in names):
            return None
        n_rows = rows.stop - rows.start
        biases = [
            context.read(f"{name}.bias", rows=rows)
            if f"{name}.bias" in context.source
            else weight.new_zeros(n_rows)
            for name in names
        ]
        return torch.cat(biases)

    def forward(self, x: torch.Tensor, gelu: bool = False, adapters: Chosen = None) -> torch.Tensor:
        deltas = deltas_for(self, adapters)
        plain = partial(self.kernel, x, gelu)
        return plain() if deltas is None else self._adapted(deltas, x, gelu, adapters, plain)

    def of_norm(
        self, norm: nn.LayerNorm, x: torch.Tensor, gelu: bool = False, adapters: Chosen = None
    ) -> torch.Tensor:
        """The layer of a normalised input."""
        deltas = deltas_for(self, adapters)
        plain = partial(self.kernel.of_norm, norm, x, gelu)
        return plain() if deltas is None else self._adapted(deltas, norm(x), gelu, adapters, plain)

    def _adapted(
        self, deltas: Deltas, x: torch.Tensor, gelu: bool, adapters: Chosen, plain: Plain
    ) -> torch.Tensor:
        """The layer's output, which `plain` computes, with what adapters add for its input."""
        if gelu:
            return deltas.through_gelu(self.kernel, x, adapters, plain)
        return deltas.add_to(plain(), x, adapters)


class RowParallelLinear(nn.Module):
    """Splits the input features. (..., local in) -> (..., out), summed over the ranks.

    The bias is added once, after the sum.
    """

    bias: torch.Tensor

    def __init__(
        self,
        kernel: LinearKernel,
        bias: torch.Tensor | None,
        group: Group,
        deltas: Deltas | None = None,
    ) -> None:
        super().__init__()
        self.kernel = kernel
        self.deltas = deltas
        self.register_buffer("bias", bias)
        self.group = group

    @classmethod
    def load(
        cls, context: LoadContext, name: str, columns: slice, make: MakeKernel, many_rows: bool
    ) -> "RowParallelLinear":
        """
        Args:
            make, many_rows: as of `ColumnParallelLinear.load`.
        """
        deltas = load_deltas(context, [name], many_rows, columns=columns)
        weight = context.read(f"{name}.weight", columns=columns)
        bias = context.read(f"{name}.bias")
        if context.group.size == 1:
            return cls(make(weight, bias), None, context.group, deltas)
        return cls(make(weight, None), bias, context.group, deltas)

    def forward(self, x: torch.Tensor, adapters: Chosen = None) -> torch.Tensor:
        return self.reduce(self._adapted(self.kernel(x), x, adapters))

    def add_to(
        self, residual: torch.Tensor, x: torch.Tensor, adapters: Chosen = None
    ) -> torch.Tensor:
        """The layer's output added to (..., out), which is overwritten."""
        if self.group.size == 1:
            return self._adapted(self.kernel.add_to(residual, x), x, adapters)
        return residual.add_(self(x, adapters))

    def _adapted(self, y: torch.Tensor, x: torch.Tensor, adapters: Chosen) -> torch.Tensor:
        """With what adapters add to this rank's part of the layer's output."""
        deltas = deltas_for(self, adapters)
        return y if deltas is None else deltas.add_to(y, x, adapters)

    def reduce(self, y: torch.Tensor) -> torch.Tensor:
        """The output of this rank's kernel -> the layer's output."""
        if self.group.size == 1:
            return y
        return self.group.all_reduce_sum(y) + self.bias


def deltas_for(layer: ColumnParallelLinear | RowParallelLinear, adapters: Chosen) -> Deltas | None:
    """What may be added to the layer's output; None: nothing."""
    deltas = layer.deltas
    return deltas if deltas is not None and deltas.serves(adapters) else None


class VocabParallelEmbedding(nn.Module):
    """Token embedding and, tied to it, the output layer; each rank owns a range of token ids."""

    table: torch.Tensor | None

    def __init__(
        self, weight: torch.Tensor, vocab: range, n_vocab: int, context: LoadContext
    ) -> None:
        super().__init__()
        self.vocab = vocab
        self.group = context.group
        self.dtype = context.dtype
        in_8_bits = context.formats.weights is WeightFormat.INT8_DYNAMIC
        self.kernel = output_linear(weight, vocab, n_vocab, context.dtype, in_8_bits)
        # The kernel's own tensor, if it keeps the weights as they are; none, if it can give rows.
        has_rows = isinstance(self.kernel, NativeFloat32Linear)
        self.register_buffer("table", None if has_rows else weight)

    @classmethod
    def load(cls, context: LoadContext, name: str) -> "VocabParallelEmbedding":
        n_vocab = context.source.shape(f"{name}.weight")[0]
        vocab = partition(n_vocab, context.group.size)[context.group.rank]
        rows = slice(vocab.start, vocab.stop)
        weight = context.read(f"{name}.weight", rows=rows, dtype=context.formats.product)
        return cls(weight, vocab, n_vocab, context)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(...) int64 -> (..., n_state)."""
        if self.group.size == 1:
            return self._lookup(tokens)
        local = tokens - self.vocab.start
        mine = (local >= 0) & (local < len(self.vocab))
        embedded = self._lookup(torch.where(mine, local, 0))
        return self.group.all_reduce_sum(embedded * mine.unsqueeze(-1))

    def local_logits(self, x: torch.Tensor) -> torch.Tensor:
        """(..., n_state) -> (..., this rank's token ids). Full logits are never gathered."""
        out: torch.Tensor = self.kernel(x)
        return out

    def never_choose(self, ids: Sequence[int]) -> None:
        """Declare token ids that are suppressed whatever their logits."""
        if isinstance(self.kernel, NativeOutputLinear):
            self.kernel.never_choose([token - self.vocab.start for token in ids])

    def _lookup(self, ids: torch.Tensor) -> torch.Tensor:
        if self.table is None:
            assert isinstance(self.kernel, NativeFloat32Linear)
            return self.kernel.packed.rows(ids)
        return F.embedding(ids, self.table).to(self.dtype)

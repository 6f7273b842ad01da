"""Linear layers and the embedding, split over the ranks of a tensor-parallel group.

Each layer reads from the weight files the slice that its rank owns, and nothing else
(Megatron-LM, arXiv:1909.08053, section 3). They are `nn.Linear`s, so that torch's quantisation
finds them.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from engine.parallel.group import Group
from engine.parallel.partition import partition
from engine.weights.source import LoadContext


class _LoadedLinear(nn.Linear):
    """An `nn.Linear` around given tensors: nothing is allocated twice, nothing initialised."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = weight.shape
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.register_parameter(
            "bias", None if bias is None else nn.Parameter(bias, requires_grad=False)
        )


class ColumnParallelLinear(_LoadedLinear):
    """Splits the output features. (..., in) -> (..., local out); ranks exchange nothing."""

    @classmethod
    def load(
        cls, context: LoadContext, names: Sequence[str], rows: slice
    ) -> "ColumnParallelLinear":
        """Fuse the `rows` of several layers that share their input, such as q, k and v.

        A layer without a bias in the files (Whisper's k) gets zeros where another has one.
        """
        weight = torch.cat([context.read(f"{name}.weight", rows=rows) for name in names])
        if not any(f"{name}.bias" in context.source for name in names):
            return cls(weight, None)
        n_rows = rows.stop - rows.start
        biases = [
            context.read(f"{name}.bias", rows=rows)
            if f"{name}.bias" in context.source
            else weight.new_zeros(n_rows)
            for name in names
        ]
        return cls(weight, torch.cat(biases))


class RowParallelLinear(_LoadedLinear):
    """Splits the input features. (..., local in) -> (..., out), summed over the ranks.

    The bias is added once, after the sum.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, group: Group) -> None:
        super().__init__(weight, bias)
        self.group = group

    @classmethod
    def load(cls, context: LoadContext, name: str, columns: slice) -> "RowParallelLinear":
        weight = context.read(f"{name}.weight", columns=columns)
        return cls(weight, context.read(f"{name}.bias"), context.group)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.group.size == 1:
            return super().forward(x)
        y = self.group.all_reduce_sum(F.linear(x, self.weight))
        return y if self.bias is None else y + self.bias


class VocabParallelEmbedding(nn.Module):
    """Token embedding and, tied to it, the output layer; each rank owns a range of token ids."""

    def __init__(self, weight: torch.Tensor, vocab: range, group: Group) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.vocab = vocab
        self.group = group

    @classmethod
    def load(cls, context: LoadContext, name: str) -> "VocabParallelEmbedding":
        n_vocab = context.source.shape(f"{name}.weight")[0]
        vocab = partition(n_vocab, context.group.size)[context.group.rank]
        weight = context.read(f"{name}.weight", rows=slice(vocab.start, vocab.stop))
        return cls(weight, vocab, context.group)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(...) int64 -> (..., n_state)."""
        if self.group.size == 1:
            return F.embedding(tokens, self.weight)
        local = tokens - self.vocab.start
        mine = (local >= 0) & (local < len(self.vocab))
        embedded = F.embedding(torch.where(mine, local, 0), self.weight)
        return self.group.all_reduce_sum(embedded * mine.unsqueeze(-1))

    def local_logits(self, x: torch.Tensor) -> torch.Tensor:
        """(..., n_state) -> (..., this rank's token ids). Full logits are never gathered."""
        return F.linear(x, self.weight)

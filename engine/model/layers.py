"""Layers that encoder and decoder share."""

from functools import partial

import torch
from torch import nn

from engine.kernels.linear import mlp
from engine.parallel.linear import ColumnParallelLinear, RowParallelLinear, deltas_for
from engine.parallel.low_rank import Chosen
from engine.parallel.partition import partition, scaled
from engine.weights.source import LoadContext


class LayerNorm(nn.LayerNorm):
    """Layer normalisation around loaded tensors; every rank holds the whole of it."""

    def __init__(self, context: LoadContext, name: str) -> None:
        weight = context.parameter(f"{name}.weight")
        super().__init__(len(weight), device="meta")
        self.weight = weight
        self.bias = context.parameter(f"{name}.bias")
        self._kernels = context.gpu_kernels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., n_state) -> the same. Torch's own method goes through three Python calls, which
        count where a step takes milliseconds."""
        return torch.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def of_sum(self, x: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
        """Add to x, in place, and normalise the sum: (..., n_state) each."""
        if self._kernels is not None:
            return self._kernels.add_norm(x, added, self)
        return self.forward(x.add_(added))


class MLP(nn.Module):
    """Two linear layers around a GELU; the hidden units are split over the ranks."""

    def __init__(self, context: LoadContext, prefix: str) -> None:
        super().__init__()
        hidden = context.source.shape(f"{prefix}.fc1.weight")[0]
        units = scaled(partition(hidden, context.group.size)[context.group.rank], 1)
        many_rows = prefix.startswith("encoder")
        first = partial(context.mlp_linear, of_gelu=False, many_rows=many_rows)
        second = partial(context.mlp_linear, of_gelu=True, many_rows=many_rows)
        self.fc1 = ColumnParallelLinear.load(context, [f"{prefix}.fc1"], units, first, many_rows)
        self.fc2 = RowParallelLinear.load(context, f"{prefix}.fc2", units, second, many_rows)
        self._is_fused = context.gpu_kernels is not None

    def forward(self, x: torch.Tensor, adapters: Chosen = None) -> torch.Tensor:
        """(..., n_state) -> the same."""
        if self._is_adapted(adapters):
            hidden = self.fc1(x, gelu=True, adapters=adapters)
            out: torch.Tensor = self.fc2(hidden, adapters)
            return out
        return self.fc2.reduce(mlp(self.fc1.kernel, self.fc2.kernel, x))

    def add_to(self, norm: nn.LayerNorm, x: torch.Tensor, adapters: Chosen = None) -> torch.Tensor:
        """(..., n_state) and what the layers make of its normalisation; x is overwritten."""
        if self._is_fused or self._is_adapted(adapters):
            hidden = self.fc1.of_norm(norm, x, gelu=True, adapters=adapters)
            return self.fc2.add_to(x, hidden, adapters)
        return x.add_(self(norm(x)))

    def _is_adapted(self, adapters: Chosen) -> bool:
        """Whether adapters may add something to either layer."""
        return any(deltas_for(layer, adapters) is not None for layer in (self.fc1, self.fc2))

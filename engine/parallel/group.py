"""The ranks that share one layer, and the collectives between them.

Layers, rules and sampler are written against `Group`. With one rank every collective is the
identity and costs nothing, so that there is one code path for any number of ranks.
"""

from typing import Protocol

import torch


class Group(Protocol):
    """A set of ranks that hold slices of the same tensors."""

    rank: int
    size: int

    def all_reduce_sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over ranks, on every rank; may be done in place."""

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """Every rank's tensor, stacked: (size, *tensor.shape)."""


class SingleRank:
    """A group of one."""

    rank = 0
    size = 1

    def all_reduce_sum(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.unsqueeze(0)

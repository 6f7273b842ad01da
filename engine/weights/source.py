"""Where weights come from. Names are those of transformers' Whisper, without the `model.` prefix.

A source gives slices: a rank asks for the rows or columns that it owns.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from engine.parallel.group import Group

Rows = slice | None


class WeightSource(Protocol):
    """Named tensors in files, read slice by slice."""

    def __contains__(self, name: str) -> bool: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def read(self, name: str, rows: Rows = None, columns: Rows = None) -> torch.Tensor:
        """A slice of the first or second dimension, on the CPU, in the files' number format.

        Raises:
            WeightsError: the files have no tensor of that name.
        """


@dataclass(frozen=True)
class LoadContext:
    """What a layer needs to load itself: files, group, device and number format."""

    source: WeightSource
    group: Group
    device: torch.device
    dtype: torch.dtype

    def read(self, name: str, rows: Rows = None, columns: Rows = None) -> torch.Tensor:
        tensor = self.source.read(name, rows, columns)
        # A copy, also where nothing has to be converted: the tensor outlives the mapped file.
        return tensor.to(self.device, self.dtype, copy=True).contiguous()

    def parameter(self, name: str) -> nn.Parameter:
        """A whole tensor, as a parameter that needs no gradient."""
        return nn.Parameter(self.read(name), requires_grad=False)

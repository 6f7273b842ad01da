"""Random weights in any model's shape, to measure memory and speed without its real weights.

A model made of them writes no meaningful text.
"""

import zlib

import torch

from engine.config import ModelDimensions
from engine.errors import WeightsError
from engine.weights.shapes import tensor_shapes
from engine.weights.source import Rows


class RandomSource:
    """Draws tensors by name from a seeded generator: they are the same at every sharding."""

    def __init__(self, dims: ModelDimensions, seed: int = 0) -> None:
        self.seed = seed
        self._shapes = tensor_shapes(dims)

    def __contains__(self, name: str) -> bool:
        return name in self._shapes

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self._shapes:
            raise WeightsError(f"this model has no tensor {name!r}")
        return self._shapes[name]

    def read(self, name: str, rows: Rows = None, columns: Rows = None) -> torch.Tensor:
        shape = self.shape(name)
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) ^ self.seed)
        if name.endswith("layer_norm.weight"):
            tensor = torch.ones(shape)
        else:
            fan_in = max(1, torch.Size(shape[1:]).numel())
            tensor = torch.randn(shape, generator=generator).mul_(fan_in**-0.5)
        tensor = tensor[rows or slice(None)]
        return tensor if columns is None else tensor[:, columns]

    def release(self) -> None:
        return

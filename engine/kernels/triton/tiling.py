"""How a kernel's work is laid out on a device, as far as no bit of its result depends on it.

What may be chosen by the clock is what changes no order of sums: how many outputs a program
computes, and how many blocks of inputs are on their way while one is multiplied. What a sum is cut
into (blocks of inputs, parts of a window) and the warps that add up its pieces are not.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import torch

from engine.kernels.triton.launch import Launch


class Tiling(NamedTuple):
    """One way to launch a kernel.

    Attributes:
        block: outputs of a program, where they can be chosen; else the kernel's own block.
        stages: blocks of inputs that are on their way or in work.
    """

    block: int
    stages: int


Tilings = Mapping[tuple[object, ...], Tiling]
"""What was chosen, by `Choice.of`."""
NONE_CHOSEN: Tilings = MappingProxyType({})


class Trial(NamedTuple):
    """The kernel on tensors of some shape.

    Attributes:
        out: what a launch writes, however it is tiled.
    """

    launch: Callable[[Tiling], Launch]
    out: torch.Tensor


@dataclass(frozen=True)
class Choice:
    """What there is to choose for a kernel and a class of shapes.

    Attributes:
        of: a named tuple: the class of shapes.
        tilings: the ways; the first is what is taken unless another was faster.
        trial: makes the tensors, which are only wanted to measure.
    """

    of: tuple[object, ...]
    tilings: Sequence[Tiling]
    trial: Callable[[], Trial]

    @property
    def name(self) -> str:
        """The class of shapes in words, as it stands in files and logs."""
        words = (str(value).removeprefix("torch.") for value in self.of)
        return " ".join((type(self.of).__name__, *words))

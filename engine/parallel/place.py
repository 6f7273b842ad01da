"""A rank's place in its gang: its stage, the ranks that share its layers, and its wires."""

from dataclasses import dataclass
from typing import Protocol

import torch

from engine.config import ModelDimensions
from engine.parallel.group import Group, SingleRank
from engine.parallel.stages import Stage


class Inbound(Protocol):
    """A tensor on its way from another stage."""

    def get(self) -> torch.Tensor:
        """The tensor; waits for it."""


class Wire(Protocol):
    """Carries tensors to and from the ranks of other stages with the same tensor rank, in order."""

    def send(self, tensor: torch.Tensor, stage: int) -> None:
        """Start to send; does not wait. The tensor must not be changed any more."""

    def expect(self, shape: tuple[int, ...], dtype: torch.dtype, stage: int) -> Inbound:
        """Prepare to receive a tensor from a stage; does not wait."""


@dataclass(frozen=True)
class Wires:
    """One wire per kind of tensor, so that none waits behind another kind.

    Attributes:
        windows: encoder states, (batch, frames, n_audio_state): from each encoder stage to the
            next, and from the last one to every decoder stage.
        hidden: states of tokens, from each decoder stage to the next.
        tokens: sampled token ids, from the last stage to the first that decodes.
    """

    windows: Wire
    hidden: Wire
    tokens: Wire


@dataclass(frozen=True)
class Place:
    """A rank's place in the mesh of stages and tensor ranks.

    Args:
        stages: all stages of the gang.
        index: the index of this rank's stage.
        group: the ranks that share its layers.
        wires: wires to the other stages; None if there are none.
    """

    stages: tuple[Stage, ...]
    index: int
    group: Group
    wires: Wires | None = None

    @classmethod
    def alone(cls, dims: ModelDimensions) -> "Place":
        """The place of a rank that holds the whole model."""
        return cls((Stage.whole(dims),), 0, SingleRank())

    @property
    def stage(self) -> Stage:
        return self.stages[self.index]

    @property
    def encoders(self) -> list[int]:
        """The stages that hold encoder layers, in order."""
        return [index for index, stage in enumerate(self.stages) if stage.encoder]

    @property
    def decoders(self) -> list[int]:
        """The stages that hold decoder layers, in order."""
        return [index for index, stage in enumerate(self.stages) if stage.decoder]

    @property
    def begins_decoding(self) -> bool:
        return self.index == self.decoders[0]

    @property
    def ends_decoding(self) -> bool:
        return self.index == self.decoders[-1]

"""The leader's word on each step, as a tensor of fixed size.

Every rank of a gang runs the same steps on the same requests. Arrivals, aborts and all that reads
a clock are the leader's alone, so each step begins with its header; a payload follows only where
the header announces one. A tensor, because broadcasting pickled objects costs four times as much.
"""

from dataclasses import astuple, dataclass

import torch

from engine.parallel.group import Group


@dataclass(frozen=True, slots=True)
class StepHeader:
    """What a step does.

    Attributes:
        step: number of the step, from 0; ranks that disagree have lost each other.
        n_admitted: requests that join, described by the payload.
        n_aborted: slots whose sequences end without a result, listed by the payload.
        payload_bytes: size of what follows; 0 when nothing does.
    """

    step: int
    n_admitted: int
    n_aborted: int
    payload_bytes: int

    def broadcast(self, group: Group) -> "StepHeader":
        """The leader's header, on every rank. Sends nothing in a group of one."""
        if group.size == 1:
            return self
        tensor = torch.tensor(astuple(self), dtype=torch.int64)
        return StepHeader(*(int(value) for value in group.broadcast(tensor).tolist()))

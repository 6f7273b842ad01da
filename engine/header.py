"""The leader's word on each step, as a tensor of fixed size.

Every rank of a gang runs the same steps on the same requests. Arrivals, aborts and all that reads
a clock are the leader's alone, so each step begins with its header. A tensor, because broadcasting
pickled objects costs four times as much.
"""

from dataclasses import astuple, dataclass, replace

import torch

from engine.errors import EngineError
from engine.parallel.group import Group


@dataclass(frozen=True, slots=True)
class StepHeader:
    """What a step does.

    Attributes:
        step: number of the step, from 0.
        now_us: the leader's clock, microseconds: the only clock that decides anything.
        n_arrived: requests that join the queue before this step.
        n_aborted: sequences that end in it without a result.
    """

    step: int
    now_us: int
    n_arrived: int
    n_aborted: int

    def broadcast(self, group: Group) -> "StepHeader":
        """The leader's header, on every rank. Sends nothing in a group of one.

        Raises:
            EngineError: this rank is at another step, or knows of other requests than the leader.
        """
        if group.size == 1:
            return self
        tensor = torch.tensor(astuple(self), dtype=torch.int64)
        leader = StepHeader(*(int(value) for value in group.broadcast(tensor).tolist()))
        if replace(self, now_us=leader.now_us) != leader:
            raise EngineError(
                f"the ranks have lost each other: {self} here, {leader} at the leader"
            )
        return leader

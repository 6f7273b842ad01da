"""The workers of a run, as one of them sees the others."""

from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True, slots=True)
class World:
    """This worker's rank, how many there are, and the device on which it computes. With several,
    torch's default process group joins them."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this worker writes files and speaks."""
        return self.rank == 0

    def sums(self, values: list[float]) -> list[float]:
        """The values added up over all workers."""
        if self.size == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return [float(value) for value in total]

    def wait_for_all(self) -> None:
        self.sums([0.0])


def device_of(name: str) -> torch.device:
    """`auto`: a GPU if there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)

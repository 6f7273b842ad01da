"""Ranks as threads of one process: the collectives of `Group` over a barrier."""

import threading
from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")


class _Shared:
    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=120)
        self.slots: list[torch.Tensor | None] = [None] * size


class ThreadedGroup:
    """One rank's end of a group whose ranks are threads."""

    def __init__(self, rank: int, size: int, shared: _Shared) -> None:
        self.rank, self.size, self._shared = rank, size, shared

    def _exchange(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        self._shared.slots[self.rank] = tensor.clone()
        self._shared.barrier.wait()
        tensors = [slot.clone() for slot in self._shared.slots if slot is not None]
        self._shared.barrier.wait()
        return tensors

    def all_reduce_sum(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.stack(self._exchange(tensor)).sum(0)

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.stack(self._exchange(tensor))


def run_ranks(size: int, work: Callable[[ThreadedGroup], T]) -> list[T]:
    """Run `work` once per rank at the same time; returns each rank's result."""
    shared = _Shared(size)
    results: dict[int, T] = {}
    errors: list[BaseException] = []

    def run(rank: int) -> None:
        try:
            results[rank] = work(ThreadedGroup(rank, size, shared))
        except BaseException as error:
            errors.append(error)
            shared.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [results[rank] for rank in range(size)]

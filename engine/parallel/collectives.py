"""Collectives of a tensor-parallel group: gloo between CPUs, NCCL between GPUs."""

from collections.abc import Sequence

import torch
import torch.distributed as dist

from engine.parallel.partition import partition
from engine.parallel.traffic import Traffic

DIRECT_BYTES = 1 << 17
"""Sums up to this size take one exchange, in which every rank sends everything. Larger ones take
two exchanges with fewer bytes. Between two ranks, one exchange is never worse."""
_TAG = 3


class GlooGroup:
    """Ranks that exchange host memory; tensors of a GPU go through it.

    Every rank sums in the order of ranks, at any place in a tensor, so that a row's bits depend
    neither on the batch nor on the path of the parts. (A ring's order depends on the place.) It is
    built from sends and receives, because gloo's own gather copies its parts twice: for 7.7 MB over
    four ranks it took 4 ms instead of 2.6, and hundreds of MB of every rank's memory.
    """

    def __init__(self, group: dist.ProcessGroup, traffic: Traffic) -> None:
        self.rank, self.size = group.rank(), group.size()
        self._group = group
        self._traffic = traffic
        self._buffer = torch.empty(0, dtype=torch.uint8)

    def all_reduce_sum(self, tensor: torch.Tensor) -> torch.Tensor:
        host = tensor.cpu().contiguous()
        flat = host.view(-1)
        with self._traffic.waiting("reduce"):
            if self.size == 2 or flat.nbytes <= DIRECT_BYTES:
                n_sent = self._sum_all(flat)
            else:
                n_sent = self._sum_slices(flat)
        self._traffic.count("reduce", n_sent)
        return host.to(tensor.device)

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        host = tensor.cpu().contiguous()
        with self._traffic.waiting("gather"):
            parts, n_sent = self._from_all(host.view(-1))
        self._traffic.count("gather", n_sent)
        return torch.stack([part.view(host.shape) for part in parts]).to(tensor.device)

    def _sum_all(self, flat: torch.Tensor) -> int:
        """Every rank sums everything, in place; returns the bytes sent."""
        parts, n_sent = self._from_all(flat)
        _add_in_order(parts, self.rank)
        return n_sent

    def _sum_slices(self, flat: torch.Tensor) -> int:
        """Every rank sums a slice, in place, and sends it to all; returns the bytes sent."""
        slices = [flat[part.start : part.stop] for part in partition(len(flat), self.size)]
        own = slices[self.rank]
        parts = self._buffers(own)
        n_sent = self._exchange(slices, parts)
        parts[self.rank] = own
        _add_in_order(parts, self.rank)
        return n_sent + self._exchange([own] * self.size, slices)

    def _from_all(self, flat: torch.Tensor) -> tuple[list[torch.Tensor], int]:
        """Each rank's tensor, in buffers that the next call overwrites; and the bytes sent."""
        parts = self._buffers(flat)
        n_sent = self._exchange([flat] * self.size, parts)
        parts[self.rank] = flat
        return parts, n_sent

    def _exchange(self, to_send: Sequence[torch.Tensor], to_receive: Sequence[torch.Tensor]) -> int:
        """Send each other rank its tensor and receive one from it; returns the bytes sent."""
        others = [(self.rank + step) % self.size for step in range(1, self.size)]
        work = [self._receive(to_receive[other], other) for other in others]
        work += [self._send(to_send[other], other) for other in others]
        for operation in work:
            operation.wait()
        return sum(to_send[other].nbytes for other in others)

    def _receive(self, tensor: torch.Tensor, rank: int) -> dist.Work:
        work = dist.irecv(_as_bytes(tensor), group=self._group, group_src=rank, tag=_TAG)
        assert work is not None
        return work

    def _send(self, tensor: torch.Tensor, rank: int) -> dist.Work:
        work = dist.isend(_as_bytes(tensor), group=self._group, group_dst=rank, tag=_TAG)
        assert work is not None
        return work

    def _buffers(self, like: torch.Tensor) -> list[torch.Tensor]:
        """A tensor like this one for each rank, in buffers that are reused."""
        n_bytes = like.nbytes * self.size
        if len(self._buffer) < n_bytes:
            self._buffer = torch.empty(n_bytes, dtype=torch.uint8)
        return list(self._buffer[:n_bytes].view(like.dtype).view(self.size, -1))


class NcclGroup:
    """Ranks that each have a GPU of their own. The order of a sum is NCCL's."""

    def __init__(self, group: dist.ProcessGroup, traffic: Traffic) -> None:
        self.rank, self.size = group.rank(), group.size()
        self._group = group
        self._traffic = traffic

    def all_reduce_sum(self, tensor: torch.Tensor) -> torch.Tensor:
        # A ring sends each of `size` parts twice, except its own.
        self._traffic.count("reduce", 2 * tensor.nbytes * (self.size - 1) // self.size)
        with self._traffic.waiting("reduce"):
            dist.all_reduce(tensor, group=self._group)
        return tensor

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        out = tensor.new_empty((self.size, *tensor.shape))
        self._traffic.count("gather", tensor.nbytes * (self.size - 1))
        with self._traffic.waiting("gather"):
            dist.all_gather_into_tensor(out, tensor.contiguous(), group=self._group)
        return out


def _add_in_order(parts: Sequence[torch.Tensor], rank: int) -> None:
    """Sum in the order of ranks, in place in this rank's part; the others are overwritten."""
    own = parts[rank]
    if rank > 0:
        before = parts[0]
        for part in parts[1:rank]:
            before.add_(part)
        own.add_(before)
    for part in parts[rank + 1 :]:
        own.add_(part)


def _as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as bytes, because gloo does not know every number format."""
    return tensor.view(torch.uint8)

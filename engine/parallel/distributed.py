"""The mesh of a gang over torch.distributed: gloo between CPUs, NCCL between GPUs.

gloo moves host memory, so tensors of a GPU go through it; NCCL moves them from GPU to GPU.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import Store  # type: ignore[attr-defined]

from engine.parallel.collectives import GlooGroup, NcclGroup
from engine.parallel.group import Group, SingleRank
from engine.parallel.place import Inbound, Place, Wires
from engine.parallel.stages import Stage
from engine.parallel.traffic import Kind, Traffic

_AHEAD = 4
"""Sends that may be under way in addition to those of the slot groups."""


@dataclass(frozen=True, slots=True)
class _Received:
    """A tensor that is being received."""

    work: dist.Work
    tensor: torch.Tensor
    device: torch.device
    kind: Kind
    traffic: Traffic

    def get(self) -> torch.Tensor:
        with self.traffic.waiting(self.kind):
            self.work.wait()
        return self.tensor.to(self.device)


@dataclass(frozen=True, slots=True)
class _Deferred:
    """A tensor that is received only when it is needed. NCCL receives in a kernel that occupies the
    GPU until the tensor has arrived."""

    wire: "DistributedWire"
    shape: tuple[int, ...]
    dtype: torch.dtype
    stage: int

    def get(self) -> torch.Tensor:
        return self.wire.receive(self.shape, self.dtype, self.stage).get()


class DistributedWire:
    """Sends and receives tensors of one kind.

    Args:
        group: the group of all ranks of the gang.
        peers: for each stage, the rank with this rank's tensor rank.
        tag: tells the wires of one gloo group apart. NCCL has no tags: each wire has its own group.
    """

    def __init__(
        self,
        group: dist.ProcessGroup,
        peers: Sequence[int],
        tag: int,
        kind: Kind,
        device: torch.device,
        by_nccl: bool,
        traffic: Traffic,
    ) -> None:
        self._group = group
        self._peers = peers
        self._tag = tag
        self._kind = kind
        self._device = device
        self._by_nccl = by_nccl
        self._buffer_device = device if by_nccl else torch.device("cpu")
        self._traffic = traffic
        # A tensor has to live until it is sent.
        self._sending: deque[tuple[dist.Work, torch.Tensor]] = deque()

    def send(self, tensor: torch.Tensor, stage: int) -> None:
        # gloo reports a finished send only to whoever waits. The oldest was received long ago:
        # no stage is ever further ahead of another than by a step a slot group, or a few windows.
        if len(self._sending) > 2 * len(self._peers) + _AHEAD:
            self._sending.popleft()[0].wait()
        sent = tensor.to(self._buffer_device).contiguous().view(torch.uint8)
        self._traffic.count(self._kind, sent.nbytes)
        work = dist.isend(sent, group=self._group, group_dst=self._peers[stage], tag=self._tag)
        assert work is not None
        self._sending.append((work, sent))

    def expect(self, shape: tuple[int, ...], dtype: torch.dtype, stage: int) -> Inbound:
        if self._by_nccl:
            return _Deferred(self, shape, dtype, stage)
        return self.receive(shape, dtype, stage)

    def receive(self, shape: tuple[int, ...], dtype: torch.dtype, stage: int) -> "_Received":
        """Start to receive."""
        tensor = torch.empty(shape, dtype=dtype, device=self._buffer_device)
        flat = tensor.view(torch.uint8)
        work = dist.irecv(flat, group=self._group, group_src=self._peers[stage], tag=self._tag)
        assert work is not None
        return _Received(work, tensor, self._device, self._kind, self._traffic)


@dataclass(frozen=True, slots=True)
class Mesh:
    """The shape of a gang.

    Rank `r` is tensor rank `r % tensor_parallel` of stage `r // tensor_parallel`: ranks of a stage
    are neighbours, because they talk most.
    """

    stages: tuple[Stage, ...]
    tensor_parallel: int

    @property
    def size(self) -> int:
        return len(self.stages) * self.tensor_parallel

    def stage_of(self, rank: int) -> int:
        return rank // self.tensor_parallel

    def tensor_rank_of(self, rank: int) -> int:
        return rank % self.tensor_parallel

    def ranks_of(self, stage: int) -> list[int]:
        first = stage * self.tensor_parallel
        return list(range(first, first + self.tensor_parallel))


def join_mesh(
    mesh: Mesh,
    rank: int,
    store: Store,
    backend: str,
    device: torch.device,
    timeout_s: float,
    traffic: Traffic,
) -> Place:
    """Meet the other ranks of a gang; returns when all have come.

    Args:
        store: where ranks find each other.
        backend: `gloo` or `nccl`.
        timeout_s: how long an operation may wait for another rank.
    """
    timeout = timedelta(seconds=timeout_s)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=mesh.size, timeout=timeout)
    world = dist.group.WORLD
    assert world is not None
    by_nccl = backend == "nccl"
    group: Group = SingleRank()
    if mesh.tensor_parallel > 1:
        for index in range(len(mesh.stages)):  # every rank must take part in creating every group
            made = dist.new_group(mesh.ranks_of(index), timeout=timeout, backend=backend)
            if index == mesh.stage_of(rank):
                group = NcclGroup(made, traffic) if by_nccl else GlooGroup(made, traffic)
    wires = None
    if len(mesh.stages) > 1:
        tensor_rank = mesh.tensor_rank_of(rank)
        peers = [mesh.ranks_of(index)[tensor_rank] for index in range(len(mesh.stages))]
        kinds: tuple[Kind, Kind, Kind] = ("windows", "hidden", "tokens")
        made_wires = []
        for tag, kind in enumerate(kinds):
            made = world
            if by_nccl:
                made = dist.new_group(timeout=timeout, backend=backend)
            made_wires.append(DistributedWire(made, peers, tag, kind, device, by_nccl, traffic))
        wires = Wires(*made_wires)
    return Place(mesh.stages, mesh.stage_of(rank), group, wires)

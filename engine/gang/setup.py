"""Starts a gang: ranks call the leader, get their part, connect to each other, and load."""

import fcntl
import os
import socket
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import timedelta

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from engine.config import EngineConfig
from engine.devices import resident_bytes
from engine.errors import EngineError, GangError
from engine.fit import check_adapters, check_rank
from engine.gang.connection import Connection, HandshakeError, Listener, call, pack
from engine.gang.gang import Gang
from engine.gang.lines import GangLimits, Lines
from engine.gang.orders import Loaded
from engine.gang.shard import OrderReader, Shard, end_process, say_why
from engine.parallel.distributed import Mesh, join_mesh
from engine.parallel.stages import check_stages, check_tensor_parallel
from engine.parallel.traffic import Traffic
from engine.runner import ModelRunner
from engine.weights.checkpoint import Checkpoint

OpenCheckpoint = Callable[[], Checkpoint]
_CALL_S = 60.0
"""Time for a rank to reach its leader, and after that the other ranks."""


@dataclass(frozen=True, slots=True)
class Part:
    """A rank's part in the gang.

    Attributes:
        open_checkpoint: opens the model, in the rank's process.
        backend: `gloo` or `nccl`.
        store: host and port of the store where ranks find each other.
        threads: CPU threads to compute with.
    """

    mesh: Mesh
    config: EngineConfig
    open_checkpoint: OpenCheckpoint
    backend: str
    store: tuple[str, int]
    limits: GangLimits
    threads: int


def assemble_gang(
    listener: Listener,
    checkpoint: Checkpoint,
    open_checkpoint: OpenCheckpoint,
    mesh: Mesh,
    config: EngineConfig,
    limits: GangLimits | None = None,
    backend: str | None = None,
    threads: int = 1,
    check: Callable[[], None] = lambda: None,
    members: object = None,
) -> Gang:
    """Wait for all ranks of a mesh to call, tell each its part, and wait until they have loaded.

    Args:
        listener: the listener that ranks call; closed afterwards.
        checkpoint: the leader's checkpoint, with which those of the ranks are compared.
        open_checkpoint: opens it in a rank's process; pickled.
        config: its device is every rank's, by number in its own process.
        backend: `gloo` or `nccl`; by default the one that suits the device.
        threads: CPU threads of each rank.
        check: called while waiting for ranks; raises if one of them cannot come.
        members: whatever has to live as long as the gang.

    Raises:
        ShardingError: the model cannot be split this way.
        EngineError: a rank cannot load the model, or has a different one.
        GangError: a rank did not come, or died.
    """
    limits = limits or GangLimits()
    check_mesh(checkpoint, mesh)
    check_adapters(config, checkpoint.adapters)
    deadline = time.monotonic() + limits.load_s
    with closing(listener):
        connections = _await_calls(listener, mesh.size, deadline, check)
    host = listener.address[0]
    # It serves until the last rank is gone, from a thread of its own.
    store = TCPStore(host, 0, is_master=True, wait_for_workers=False)
    backend = backend or ("gloo" if config.on_cpu else "nccl")
    address = (host, store.port)
    part = Part(mesh, config, open_checkpoint, backend, address, limits, threads)
    _tell(connections, part)  # before the first ping
    lines = Lines(connections, limits)
    try:
        _await_loaded(lines, checkpoint, mesh.size, deadline)
    except BaseException:
        lines.close()
        raise
    lines.begin_to_judge()
    return Gang(lines, mesh, config, store, members)


def check_mesh(checkpoint: Checkpoint, mesh: Mesh) -> None:
    """Raises ShardingError if the model cannot be split this way."""
    check_tensor_parallel(checkpoint.dims, mesh.tensor_parallel)
    check_stages(checkpoint.dims, mesh.stages)


def run_rank(
    address: tuple[str, int],
    key: bytes,
    rank: int,
    device: str | None = None,
) -> None:
    """Run as a rank of the gang whose leader listens at an address, until the gang ends.

    The process ends at once, with exit code 1, if the leader is lost or another rank fails.

    Args:
        key: the listener's.
        device: replaces the one that the leader names.

    Raises:
        OSError, HandshakeError: the leader cannot be reached, or is another gang's.
        EngineError: the model cannot be loaded. The leader has been told.
    """
    connection = call(address, key, rank, _CALL_S)
    try:
        part: Part = connection.receive()
        reader = OrderReader(connection, part.limits, on_lost=end_process)
        shard = _become(part, rank, device, connection, reader)
        shard.run()
    except BaseException as error:  # the border of the process: the leader is told
        say_why(connection, error)
        raise
    connection.close()


def _become(
    part: Part, rank: int, device: str | None, connection: Connection, reader: OrderReader
) -> Shard:
    torch.set_num_threads(part.threads)
    config = part.config if device is None else replace(part.config, device=device)
    if not config.on_cpu:
        torch.cuda.set_device(torch.device(config.device).index or 0)
    host = connection.own_host
    _prefer_interface(host)
    traffic = Traffic()
    store = TCPStore(*part.store, is_master=False, timeout=timedelta(seconds=_CALL_S))
    place = join_mesh(
        part.mesh,
        rank,
        store,
        part.backend,
        torch.device(config.device),
        part.limits.work_s,
        traffic,
    )
    checkpoint = part.open_checkpoint()
    bare_rss_bytes = resident_bytes()
    size, adapters = place.group.size, checkpoint.adapters
    check_rank(checkpoint.dims, config, place.stages, place.index, size, adapters)
    runner = ModelRunner(checkpoint, config, place)
    connection.send(Loaded(checkpoint.fingerprint, host))
    return Shard(runner, rank, connection, reader, traffic, bare_rss_bytes)


def _await_calls(
    listener: Listener, n_ranks: int, deadline: float, check: Callable[[], None]
) -> list[Connection]:
    """The lines of all ranks, in the order of ranks."""
    called: dict[int, Connection] = {}
    try:
        _accept(listener, n_ranks, deadline, check, called)
    except BaseException:
        for connection in called.values():
            connection.close()
        raise
    return [called[rank] for rank in range(n_ranks)]


def _accept(
    listener: Listener,
    n_ranks: int,
    deadline: float,
    check: Callable[[], None],
    called: dict[int, Connection],
) -> None:
    while len(called) < n_ranks:
        check()
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            missing = [rank for rank in range(n_ranks) if rank not in called]
            raise GangError(f"ranks {missing} of {n_ranks} did not come in time")
        try:
            rank, connection = listener.accept(min(left_s, 1.0))
        except (TimeoutError, HandshakeError):
            continue
        if rank >= n_ranks or rank in called:
            connection.close()
            raise GangError(f"rank {rank} of {n_ranks} came twice, or is none of this gang")
        called[rank] = connection


def _tell(connections: Sequence[Connection], part: Part) -> None:
    frame = pack(part)
    for rank, connection in enumerate(connections):
        try:
            connection.send_frame(frame)
        except OSError as error:
            for each in connections:
                each.close()
            raise GangError(f"rank {rank} died before it began: {error}") from error


def _await_loaded(lines: Lines, checkpoint: Checkpoint, n_ranks: int, deadline: float) -> None:
    for _ in range(n_ranks):
        item = lines.answer(wait=True, limit_s=deadline - time.monotonic())
        assert item is not None, "it was waited for"
        rank, loaded = item
        assert isinstance(loaded, Loaded), "nothing else was asked for"
        if loaded.fingerprint != checkpoint.fingerprint:
            raise EngineError(
                f"rank {rank} on {loaded.host} has another checkpoint of {checkpoint.name} "
                "than its leader"
            )


def _prefer_interface(host: str) -> None:
    """Make torch's backends use the interface that reaches the leader. By default they look up the
    machine's name, which may resolve to the loopback."""
    for _, name in socket.if_nameindex():
        if _address_of(name) == host:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", name)


def _address_of(interface: str) -> str | None:
    """An interface's IPv4 address (netdevice(7), SIOCGIFADDR)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("256s", interface.encode()[:15])
        try:
            answer = fcntl.ioctl(any_socket.fileno(), 0x8915, request)
        except OSError:
            return None  # it has none
    return socket.inet_ntoa(answer[20:24])

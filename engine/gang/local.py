"""A gang on this machine: a process for each rank."""

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.process import BaseProcess

from engine.config import EngineConfig
from engine.engine import Engine
from engine.errors import EngineError, GangError
from engine.gang.connection import Listener
from engine.gang.lines import GangLimits
from engine.gang.setup import OpenCheckpoint, assemble_gang, check_mesh, run_rank
from engine.parallel.distributed import Mesh
from engine.weights.checkpoint import open_checkpoint

_END_S = 10.0


@contextmanager
def local_gang(
    model: str | OpenCheckpoint,
    mesh: Mesh,
    config: EngineConfig,
    limits: GangLimits | None = None,
    threads: int = 1,
    devices: Sequence[str] | None = None,
    backend: str | None = None,
) -> Iterator[Engine]:
    """An engine whose model is split over processes of this machine, which end with the block.

    Args:
        model: name of a model, or a function that opens it in each process.
        threads: CPU threads of each rank.
        devices: the device of each rank; by default the configuration's for all.
        backend: `gloo` or `nccl`; by default the one that suits the device.

    Raises:
        ShardingError: the model cannot be split this way.
        EngineError: the model cannot be loaded.
        GangError: a rank died.
    """
    opener = partial(open_checkpoint, model) if isinstance(model, str) else model
    checkpoint = opener()
    check_mesh(checkpoint, mesh)
    listener = Listener("127.0.0.1")
    processes = _start(listener, mesh.size, devices)
    try:
        gang = assemble_gang(
            listener,
            checkpoint,
            opener,
            mesh,
            config,
            limits,
            backend,
            threads,
            check=partial(_check, processes),
        )
        try:
            yield Engine(checkpoint, config, gang)
        finally:
            gang.close()
    finally:
        listener.close()
        _end(processes)


def _start(listener: Listener, size: int, devices: Sequence[str] | None) -> list[BaseProcess]:
    # Spawned, not forked: a forked child inherits the locks of other threads, but not the threads.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["engine.gang.setup"])
    processes: list[BaseProcess] = []
    for rank in range(size):
        device = None if devices is None else devices[rank]
        arguments = (listener.address, listener.key, rank, device)
        process = context.Process(target=_rank, args=arguments, name=f"murmur-rank-{rank}")
        process.daemon = True
        process.start()
        processes.append(process)
    return processes


def _rank(address: tuple[str, int], key: bytes, rank: int, device: str | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the leader ends this process
    try:
        run_rank(address, key, rank, device)
    except EngineError:
        os._exit(1)  # the leader has been told


def _check(processes: Sequence[BaseProcess]) -> None:
    for rank, process in enumerate(processes):
        if process.exitcode is not None:
            raise GangError(f"rank {rank} has died with exit code {process.exitcode}")


def _end(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        process.join(_END_S)
        if process.is_alive():
            process.kill()
            process.join()

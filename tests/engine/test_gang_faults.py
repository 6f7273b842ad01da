"""A gang ends as a whole when one of its members does, and says what is wrong before it starts."""

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from multiprocessing import parent_process
from pathlib import Path
from threading import Thread

import numpy as np
import psutil
import pytest

from engine import Checkpoint, Engine, EngineConfig, EngineError, Request, open_checkpoint
from engine.errors import GangError, ShardingError
from engine.gang.connection import HandshakeError, Listener, call
from engine.gang.lines import GangLimits
from engine.gang.local import local_gang
from engine.gang.setup import assemble_gang
from engine.parallel.distributed import Mesh
from engine.parallel.stages import Stage
from tests.support.gangs import QUICK, gang_of, mesh_of, mixed, ranks
from tests.support.running import drain

TINY = "demo:tiny.en"


@pytest.fixture(scope="module")
def requests(clips: dict[str, np.ndarray]) -> list[Request]:
    return mixed(clips, 3, multilingual=False)


def busy(engine: Engine, requests: list[Request]) -> None:
    """Bring the engine into the middle of its work."""
    for request in requests:
        engine.add_request(request)
    for _ in range(8):
        engine.step()


def wait_until_failed(engine: Engine, timeout_s: float) -> tuple[float, GangError]:
    """Seconds until the gang knew that it has failed, without any work, and why."""
    began = time.monotonic()
    while time.monotonic() - began < timeout_s:
        try:
            engine.check()
        except GangError as error:
            return time.monotonic() - began, error
        time.sleep(0.02)
    raise AssertionError(f"nothing was noticed in {timeout_s} s")


@pytest.mark.parametrize(
    ("rank", "is_busy"),
    [
        (0, False),
        (3, True),
        pytest.param(0, True, marks=pytest.mark.sharded),
        pytest.param(3, False, marks=pytest.mark.sharded),
    ],
)
def test_a_rank_that_dies_ends_the_gang(
    rank: int, is_busy: bool, checkpoints: dict[str, Checkpoint], requests: list[Request]
) -> None:
    with gang_of(checkpoints[TINY], 2, [5, 3], limits=QUICK) as engine:
        processes = ranks()
        assert len(processes) == 4
        if is_busy:
            busy(engine, requests)
        os.kill(int(processes[rank].pid or 0), signal.SIGKILL)
        if is_busy:
            with pytest.raises(GangError, match="rank"):
                drain(engine)
        else:
            noticed_s, _ = wait_until_failed(engine, 10)
            assert noticed_s < QUICK.silent_s, "at once, not by its silence"
        for process in processes:
            process.join(5)
            assert process.exitcode is not None, "the others end as well"
        with pytest.raises(EngineError):
            engine.step()


@pytest.mark.parametrize("is_busy", [True, pytest.param(False, marks=pytest.mark.more)])
def test_a_rank_that_hangs_is_noticed_within_its_limit(
    is_busy: bool, checkpoints: dict[str, Checkpoint], requests: list[Request]
) -> None:
    with gang_of(checkpoints[TINY], 2, [5, 3], limits=QUICK) as engine:
        processes = ranks()
        if is_busy:
            busy(engine, requests)
        os.kill(int(processes[1].pid or 0), signal.SIGSTOP)
        began = time.monotonic()
        try:
            with pytest.raises(GangError, match="rank 1 hangs"):
                if is_busy:
                    drain(engine)
                else:
                    raise wait_until_failed(engine, 20)[1]
            took_s = time.monotonic() - began
        finally:
            os.kill(int(processes[1].pid or 0), signal.SIGKILL)
    assert QUICK.silent_s * 0.5 < took_s < QUICK.silent_s + 10 * QUICK.ping_s
    assert not ranks()


LEADER = """
import sys, time
from engine import EngineConfig, open_checkpoint
from engine.gang.lines import GangLimits
from engine.gang.local import local_gang
from engine.parallel.distributed import Mesh
from engine.parallel.stages import cut_stages

if __name__ == "__main__":
    dims = open_checkpoint("demo:tiny.en").dims
    limits = GangLimits(ping_s=0.2, silent_s=2.0)
    mesh = Mesh(cut_stages(dims, [4, 4]), 1)
    with local_gang("demo:tiny.en", mesh, EngineConfig(max_slots=4), limits):
        print("ready", flush=True)
        time.sleep(60)
"""


@pytest.mark.parametrize(
    "how", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.sharded)]
)
def test_ranks_do_not_outlive_their_leader(how: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "leader.py").write_text(LEADER)
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "leader.py")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    ) as leader:
        try:
            assert leader.stdout is not None and leader.stdout.readline() == "ready\n"
            # The ranks are children of the process that forks them.
            family = psutil.Process(leader.pid).children(recursive=True)
            members = [child for child in family if child.ppid() != leader.pid]
            assert len(members) == 2
            leader.send_signal(how)
            _, alive = psutil.wait_procs(members, timeout=15)
            assert not alive
        finally:
            leader.kill()


def test_more_ranks_than_heads(checkpoints: dict[str, Checkpoint]) -> None:
    with pytest.raises(ShardingError, match="1 to 6, the model's number of heads; got 7"):
        with gang_of(checkpoints[TINY], 7, [8]):
            pass
    assert not ranks()


def test_stages_that_overlap(checkpoints: dict[str, Checkpoint]) -> None:
    stages = (Stage(range(3), range(0)), Stage(range(2, 4), range(4)))
    with pytest.raises(ShardingError, match="stage 1 .* overlaps"):
        with local_gang(TINY, Mesh(stages, 1), EngineConfig()):
            pass
    assert not ranks()


def alternately(*models: str) -> Checkpoint:
    """One checkpoint in the leader, another one in its ranks."""
    checkpoint = open_checkpoint(models[0])
    if parent_process() is None:
        return checkpoint
    return replace(checkpoint, suppress_tokens=checkpoint.suppress_tokens[1:])


def test_ranks_with_another_checkpoint() -> None:
    opener = partial(alternately, TINY)
    mesh = mesh_of(opener(), 1, [4, 4])
    with pytest.raises(EngineError, match="rank [01] on 127.0.0.1 has another checkpoint"):
        with local_gang(opener, mesh, EngineConfig()):
            pass
    assert not ranks()


def missing() -> Checkpoint:
    return open_checkpoint(TINY if parent_process() is None else "demo:no-such-model")


def test_a_rank_that_cannot_load_says_why() -> None:
    with pytest.raises(EngineError, match="rank [01]: .*no-such-model"):
        with local_gang(missing, mesh_of(missing(), 1, [4, 4]), EngineConfig()):
            pass
    assert not ranks()


def test_a_rank_that_does_not_come(checkpoints: dict[str, Checkpoint]) -> None:
    limits = GangLimits(load_s=0.5)
    mesh, checkpoint = mesh_of(checkpoints[TINY], 1, [4, 4]), checkpoints[TINY]
    with pytest.raises(GangError, match=r"ranks \[0, 1\] of 2 did not come in time"):
        opener = partial(alternately, TINY)
        assemble_gang(Listener("127.0.0.1"), checkpoint, opener, mesh, EngineConfig(), limits)


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n" * 9, b"\x80" * 36, b""])
def test_what_is_no_rank_is_turned_away(garbage: bytes) -> None:
    listener = Listener("127.0.0.1")
    with socket.create_connection(listener.address) as stranger:
        stranger.sendall(garbage + b"\0" * 64)
        stranger.shutdown(socket.SHUT_WR)
        with pytest.raises(HandshakeError):
            listener.accept(5)
    listener.close()


def test_strangers_are_turned_away() -> None:
    listener = Listener("127.0.0.1")
    refused: list[Exception] = []

    def accept() -> None:
        try:
            listener.accept(5)
        except HandshakeError as error:
            refused.append(error)

    thread = Thread(target=accept)
    thread.start()
    with pytest.raises(HandshakeError, match="not this gang's leader"):
        call(listener.address, b"another key", 0, 5)
    thread.join()
    listener.close()
    assert len(refused) == 1

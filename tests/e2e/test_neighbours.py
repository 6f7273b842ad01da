"""Other software on the machine: a port that is busy."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.cluster import ROOT


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mm")


@pytest.fixture
def busy() -> Iterator[int]:
    """A port that would be shared, as that of another Ray Serve of the same user is."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_a_busy_port_is_told_and_nothing_is_started(folder: Path, busy: int) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MURMUR"))}
    done = subprocess.run(
        [sys.executable, "-m", "serve.commands.cli", "up", "--port", str(busy)],
        env={**environment, "MURMUR_CLUSTER_DIR": str(folder / "c"), "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1 and done.stdout == ""
    holder = f"{psutil.Process().name()}, process {os.getpid()}"
    assert done.stderr.splitlines() == [
        f"murmur: port {busy} is busy ({holder}): choose another with --port or http.port"
    ]
    assert not (folder / "c").exists(), "nothing was started"

"""Other software on the machine: a port that is busy, another installation."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deployments.replicas.ports import free_port
from tests.e2e.conftest import CLIP
from tests.support.cluster import ROOT
from tests.support.load import post


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


def murmur(folder: Path, *arguments: str, cwd: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    """Run the command of the installation in `cwd`, for a cluster in `folder`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MURMUR"))}
    return subprocess.run(
        [sys.executable, "-m", "serve.commands.cli", *arguments],
        env={**kept, "MURMUR_CLUSTER_DIR": str(folder), "PYTHONPATH": str(cwd)},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_busy_port_is_told_and_nothing_is_started(folder: Path, busy: int) -> None:
    done = murmur(folder / "c", "up", "--port", str(busy))
    assert done.returncode == 1 and done.stdout == ""
    holder = f"{psutil.Process().name()}, process {os.getpid()}"
    assert done.stderr.splitlines() == [
        f"murmur: port {busy} is busy ({holder}): choose another with --port or http.port"
    ]
    assert not (folder / "c").exists(), "nothing was started"


@pytest.mark.more
def test_a_cluster_of_an_installation_that_is_gone_is_restarted() -> None:
    # Not pytest's folder: the paths of Ray's sockets would be too long there.
    folder = Path(tempfile.mkdtemp(prefix="mi-"))
    clone, port = folder / "clone", str(free_port())
    for package in ("engine", "deployments", "serve"):
        shutil.copytree(ROOT / package, clone / package)
    settings = folder / "murmur.yaml"
    settings.write_text('tiers: [{name: tiny.en, model: "demo:tiny.en"}]')
    try:
        first = murmur(folder / "c", "up", str(settings), "--port", port, cwd=clone)
        assert first.returncode == 0, first.stderr
        again = murmur(folder / "c", "up", str(settings), "--port", port, cwd=clone)
        assert again.returncode == 0 and "restarting" not in again.stderr
        shutil.rmtree(clone)
        done = murmur(folder / "c", "up", str(settings), "--port", port)
        assert done.returncode == 0, done.stderr
        said = f"restarting the cluster on this machine: it runs the installation in {clone}, which"
        assert said in done.stderr
        assert post(first.stdout.strip(), CLIP, "tiny.en").words
    finally:
        murmur(folder / "c", "down")
        shutil.rmtree(folder, ignore_errors=True)

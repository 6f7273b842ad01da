"""AWS's stand-in on loopback, and the cluster's files as Ray reads them."""

import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.replicas.ports import free_port

ROOT = Path(__file__).parents[2]
FILES = ("cluster.yaml", "cluster.gcp.yaml")
NETWORK = "198.51.100.7/32"
_START_S = 120.0


def read_cluster(name: str) -> dict[str, Any]:
    """A cluster's file, with what its reader has to set."""
    config: dict[str, Any] = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
    provider = config["provider"]
    if "ssh_from" in provider:
        provider["ssh_from"] = [NETWORK]
    if "project_id" in provider:
        provider["project_id"] = "a-project"
    return config


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home of its own: keys and tokens are written there."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def aws(home: Path) -> Iterator[str]:
    """moto's server: the region's default network, and nothing else."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    quiet = subprocess.DEVNULL
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "testing")
        monkeypatch.delenv("AWS_PROFILE", raising=False)
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        with subprocess.Popen(command, stdout=quiet, stderr=quiet) as server:
            try:
                _wait_for(url, server)
                yield url
            finally:
                server.kill()


def _wait_for(url: str, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            with urllib.request.urlopen(f"{url}/moto-api/", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            assert server.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)

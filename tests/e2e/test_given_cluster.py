"""A cluster that others run, as `ray start` makes it: with a token, and another application."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import yaml

from deployments.replicas.ports import free_port
from tests.e2e.conftest import CLIP
from tests.support.cluster import ROOT

pytestmark = pytest.mark.more
CPUS = 3


class GivenCluster:
    """A head with a token in a home of its own. Nothing says which authentication is used."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mg-"))
        self.http_port, gcs_port = free_port(), free_port()
        self.address = f"127.0.0.1:{gcs_port}"
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MURMUR"))}
        self.environment = {**kept, "HOME": str(self.folder), "PYTHONPATH": str(ROOT)}
        token = self.folder / ".ray" / "auth_token"
        token.parent.mkdir()
        token.write_text("0123456789abcdef" * 4)
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
            *("--node-ip-address", "127.0.0.1", "--port", str(gcs_port)),
            *("--ray-client-server-port", str(free_port()), "--include-dashboard", "false"),
            *("--dashboard-agent-listen-port", "0", "--num-cpus", str(CPUS)),
            *("--temp-dir", str(self.folder / "ray"), "--disable-usage-stats"),
        ]
        drain = {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
        self._log = (self.folder / "log").open("w")
        self._head = subprocess.Popen(
            command, env={**self.environment, **drain}, stdout=self._log, stderr=self._log
        )
        deadline = time.monotonic() + 120
        while "Ray runtime started" not in (self.folder / "log").read_text():
            assert self._head.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)

    def run(self, *command: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, *command],
            env={**self.environment, **variables},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def up(self, route_prefix: str = "/", **variables: str) -> "subprocess.CompletedProcess[str]":
        settings = self.folder / "murmur.yaml"
        tiers = [{"name": "tiny.en", "model": "demo:tiny.en"}]
        http = {"port": self.http_port, "route_prefix": route_prefix}
        settings.write_text(yaml.safe_dump({"tiers": tiers, "http": http}))
        up = ("-m", "serve.commands.cli", "up", str(settings), "--address", self.address)
        return self.run(*up, **variables)

    def serve_other(self, cpus: float) -> None:
        """Serve another application at /, which reserves so many cores."""
        done = self.run(
            *("-m", "tests.e2e.other_app", str(cpus), str(self.http_port)),
            RAY_ADDRESS=self.address,
            RAY_AUTH_MODE="token",
        )
        assert done.returncode == 0, done.stderr

    def stop(self) -> None:
        self._head.send_signal(signal.SIGTERM)
        self._head.wait(60)
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def given() -> Iterator[GivenCluster]:
    given = GivenCluster()
    yield given
    given.stop()


def lines_of(done: "subprocess.CompletedProcess[str]") -> list[str]:
    """What was said, without what is going on."""
    return [line for line in done.stderr.splitlines() if "looking at" not in line]


def test_who_has_no_token_is_told_so_at_once(given: GivenCluster, tmp_path: Path) -> None:
    began = time.monotonic()
    for variables, said in (
        ({"HOME": str(tmp_path)}, "requires its token, and there is none: put it into ~/.ray"),
        ({"RAY_AUTH_TOKEN": "f" * 64}, "requires its token, and this one is another's"),
        ({"RAY_AUTH_MODE": "disabled"}, "RAY_AUTH_MODE is disabled: set it to token"),
    ):
        done = given.up(**variables)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"murmur: the Ray cluster at {given.address} ") and said in line
    assert time.monotonic() - began < 60


def test_a_route_that_is_taken_and_cores_that_are_held_are_told(given: GivenCluster) -> None:
    given.serve_other(cpus=CPUS - 0.5)
    done = given.up()
    assert done.returncode == 1
    (line,) = lines_of(done)
    assert "the application 'other' answers at /" in line and "http.route_prefix" in line
    began = time.monotonic()
    done = given.up("/speech")
    assert done.returncode == 1
    (line,) = lines_of(done)
    assert line.startswith("murmur: of what others leave free: tier tiny.en: ")
    assert "has 0.5" in line
    assert time.monotonic() - began < 60


def test_it_serves_beside_another_application(given: GivenCluster) -> None:
    given.serve_other(cpus=0.5)
    done = given.up("/speech")
    assert done.returncode == 0, done.stderr
    url = done.stdout.strip()
    assert url.endswith("/speech")
    answer = httpx2.post(
        f"{url}/v1/audio/transcriptions",
        data={"model": "tiny.en"},
        files={"file": (CLIP.name, CLIP.read_bytes())},
        timeout=120,
    )
    assert answer.status_code == 200 and "Dashwood" in answer.json()["text"]
    assert httpx2.get(f"http://127.0.0.1:{given.http_port}/").text == "other"

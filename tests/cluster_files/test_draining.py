"""A spot notice and a real Ray node: it is drained until the machine goes."""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from deployments.replicas import cluster_nodes
from deployments.replicas.cluster_nodes import NodeRef
from deployments.replicas.spot_notice import SpotNotice
from serve.commands import watch_spot
from serve.commands.connection import ClusterError
from serve.commands.local_cluster import LocalCluster
from tests.deployments.replicas.test_spot_notice import served

ROOT = Path(__file__).parents[2]
_LOGGED_S = 30.0


# The cluster is to outlive whoever starts it, of which Python warns.
@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.more
def test_a_notice_drains_the_node_until_its_deadline() -> None:
    # Not pytest's folder: paths of Ray's sockets would be too long there.
    with tempfile.TemporaryDirectory(prefix="mm-") as folder, served() as (server, host):
        cluster = LocalCluster(Path(folder) / "c")
        kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        environment = {**kept, "PYTHONPATH": str(ROOT)}
        address = cluster.start(1, environment)
        try:
            server.action = json.dumps({"action": "terminate", "time": _in_two_minutes()})
            environment |= {
                **cluster.environment,
                "RAY_ADDRESS": address,
                "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://{host}",
            }
            said = _run(["-m", "serve.commands.cli", "watch-spot", "aws"], environment).stderr
            assert "draining its node" in said
            # An idle node goes at once when it is drained: only its log can be asked.
            assert json.loads(server.action)["time"] == _zulu(_drained_until(Path(folder) / "c"))
        finally:
            cluster.stop()


@pytest.mark.more
def test_a_control_service_that_is_gone_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes between the connection and the request to drain."""
    gone = NodeRef("127.0.0.1:9", "ab" * 28)
    monkeypatch.setattr(watch_spot, "connected", lambda address: nullcontext())
    monkeypatch.setattr(cluster_nodes, "this_node", lambda: gone)
    with pytest.raises(ClusterError, match="Ray's control service at 127.0.0.1:9: Timed out"):
        watch_spot._drain("any", SpotNotice(time.time() + 30))


def _drained_until(folder: Path) -> float:
    """What Ray's control service has noted, in seconds since 1970."""
    log = folder / "ray/session_latest/logs/gcs_server.out"
    deadline = time.monotonic() + _LOGGED_S
    while True:
        text = log.read_text(errors="replace")
        found = re.search(r"HandleDrainNode, reason: .* takes this .* deadline: (\d+)", text)
        if found:
            return int(found[1]) / 1000
        assert time.monotonic() < deadline, text[-2000:]
        time.sleep(0.5)


def _in_two_minutes() -> str:
    return _zulu(time.time() + 120)


def _zulu(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


def _run(arguments: list[str], environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done

"""A spot notice and a real Ray node: it is drained until the machine goes."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from serve.local_cluster import LocalCluster
from tests.deployments.test_spot_notice import served

ROOT = Path(__file__).parents[2]
DRAINING = """
import ray
from ray._private.state import state
ray.init("auto", log_to_driver=False, logging_level="ERROR")
deadlines = state.get_draining_nodes()
assert set(deadlines) == {node["NodeID"] for node in ray.nodes()}
print(*deadlines.values())
"""


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
            said = _run(["-m", "serve.cli", "watch-spot", "aws"], environment).stderr
            assert "draining its node" in said
            deadline_s = int(_run(["-c", DRAINING], environment).stdout) / 1000
            assert json.loads(server.action)["time"] == _zulu(deadline_s)
        finally:
            cluster.stop()


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

"""A Ray cluster that begins with just its head. Ray's own autoscaler adds nodes of the types in a
cluster file: logical nodes on this machine, with the types' labels and resources.

Only the provider is not real: Ray's fake one starts a raylet instead of a machine.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

from deployments.replicas.ports import free_port

ROOT = Path(__file__).parents[2]
HEAD_TYPE = "ray.head.default"  # the fake provider expects this name
_STORE_BYTES = 80 * 2**20
_PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
_START_TIMEOUT_S = 120
_COMMANDS = (
    *("initialization_commands", "setup_commands", "head_setup_commands"),
    *("worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands"),
)


class GrowingNodes:
    """A cluster that starts when it is constructed; `stop` ends it.

    Args:
        node_types: of workers, as in `available_node_types` of a cluster file.
        idle_s: seconds for which a node without work is kept.
    """

    def __init__(self, node_types: dict[str, dict[str, Any]], idle_s: float) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="gn-")
        folder = Path(self._folder.name)
        port, config = free_port(), folder / "cluster.json"
        config.write_text(json.dumps(_config(node_types, idle_s, f"127.0.0.1:{port}")))
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MURMUR"))}
        with (folder / "log").open("w") as log:
            self._process = subprocess.Popen(
                _command(folder, port, config),
                env={**kept, **_ENVIRONMENT},
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self._process.pid
        self.environment = {"RAY_ADDRESS": f"127.0.0.1:{port}", "RAY_AUTH_MODE": "disabled"}
        self._wait(folder / "log")

    def stop(self) -> None:
        """End the head and the nodes. The nodes are children of the autoscaler and outlive it."""
        children = psutil.Process(self.pid).children(recursive=True)
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
        for child in children:
            try:
                child.kill()
            except psutil.NoSuchProcess:
                pass
        psutil.wait_procs(children, 10)
        self._folder.cleanup()

    def _wait(self, log: Path) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while "Ray runtime started" not in log.read_text():
            running = self._process.poll() is None and time.monotonic() < deadline
            assert running, log.read_text()
            time.sleep(0.2)


_ENVIRONMENT = {
    "PYTHONPATH": str(ROOT),
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
    # As in `ray.cluster_utils.AutoscalingCluster`.
    "RAY_FAKE_CLUSTER": "1",
    "RAY_enable_autoscaler_v2": "1",
    "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
}


def _config(node_types: dict[str, dict[str, Any]], idle_s: float, gcs: str) -> dict[str, Any]:
    workers = {name: _small(node_type) for name, node_type in node_types.items()}
    head = {"resources": {"CPU": 2}, "node_config": {}, "max_workers": 0}
    return {
        "cluster_name": "growing",
        "max_workers": sum(worker["max_workers"] for worker in workers.values()),
        "idle_timeout_minutes": idle_s / 60,
        "provider": {
            "type": "external",
            "module": _PROVIDER,
            "gcs_address": gcs,
            "head_node_id": FAKE_HEAD_NODE_ID,
            "launch_multiple": True,
        },
        "available_node_types": {HEAD_TYPE: head, **workers},
        "head_node_type": HEAD_TYPE,
        # No machine is set up here, but Ray reads these keys.
        **{name: [] for name in _COMMANDS},
        **{name: {} for name in ("auth", "file_mounts", "docker")},
        "cluster_synced_files": [],
    }


def _small(node_type: dict[str, Any]) -> dict[str, Any]:
    """A node type with the same labels and the resources that matter for placement, and with an
    object store that fits this machine."""
    resources = {name: n for name, n in node_type["resources"].items() if name in ("CPU", "GPU")}
    return {
        "resources": {**resources, "object_store_memory": _STORE_BYTES},
        "labels": node_type.get("labels", {}),
        "node_config": {},
        "min_workers": 0,
        "max_workers": node_type["max_workers"],
    }


def _command(folder: Path, port: int, config: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
        *("--node-ip-address", "127.0.0.1", "--port", str(port), "--num-cpus", "2"),
        *("--ray-client-server-port", str(free_port()), "--dashboard-agent-listen-port", "0"),
        *("--object-store-memory", str(_STORE_BYTES), "--include-dashboard", "false"),
        *("--temp-dir", str(folder / "ray"), "--autoscaling-config", str(config)),
        *("--disable-usage-stats", "--log-style", "record", "--log-color", "false"),
    ]

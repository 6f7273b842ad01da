"""A real cluster for tests: `murmur up` with its own folder and port."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import yaml

from deployments.replicas.ports import free_port
from tests.support.growing_nodes import GrowingNodes
from tests.support.nodes import Nodes

ROOT = Path(__file__).parents[2]


class Cluster:
    """A cluster that starts when it is constructed; `stop` ends it.

    Args:
        settings: the settings file's content, without the port.
        import_path: names the application's builder.
        environment: additional variables for all its processes.
        nodes: a cluster that runs already; by default one is started.
    """

    def __init__(
        self,
        settings: dict[str, Any],
        import_path: str = "serve.app:build",
        environment: dict[str, str] | None = None,
        nodes: Nodes | GrowingNodes | None = None,
    ) -> None:
        # Not pytest's folder: the paths of Ray's sockets would be too long there.
        self.folder = Path(tempfile.mkdtemp(prefix="mm-"))
        self.port = free_port()
        self.settings = self.folder / "murmur.yaml"
        self._import_path = import_path
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MURMUR"))},
            "MURMUR_CLUSTER_DIR": str(self.folder),
            "PYTHONPATH": str(ROOT),
            **(environment or {}),
            **(nodes.environment if nodes else {}),
        }
        self._nodes = nodes
        try:
            done = self.up(settings)
            assert done.returncode == 0, done.stderr + self.logs()[-4000:]
            self.url = done.stdout.splitlines()[-1]
        except BaseException:
            self.stop()
            raise

    def up(self, settings: dict[str, Any], **asked: Any) -> "subprocess.CompletedProcess[str]":
        """Run `murmur up` with other settings.

        Args:
            asked: fields of `serve.commands.cluster.Up`.
        """
        http = {"port": self.port, **settings.get("http", {})}
        self.settings.write_text(yaml.safe_dump({**settings, "http": http}), encoding="utf-8")
        asked = {"timeout_s": 240, "import_path": self._import_path, **asked}
        code = (
            "import sys; from serve.commands.cluster import Up, up; "
            f"sys.exit(up(Up({str(self.settings)!r}, **{asked!r})))"
        )
        return self.run([sys.executable, "-c", code], 300)

    def murmur(
        self, *args: str | Path, timeout_s: float = 120
    ) -> "subprocess.CompletedProcess[str]":
        """Run the `murmur` command beside the cluster."""
        command = [sys.executable, "-m", "serve.commands.cli", *map(str, args)]
        return self.run(command, timeout_s)

    def run(self, command: list[str], timeout_s: float = 120) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command,
            env=self.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    def job(self, *arguments: str, timeout_s: float = 120) -> str:
        """Run Python as another Ray job on the cluster; returns what it printed."""
        done = subprocess.run(
            [sys.executable, *arguments],
            env=self.joined(),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def joined(self) -> dict[str, str]:
        """The environment for another Ray job on the cluster."""
        if self._nodes:
            return self.environment
        lines = self.murmur("env").stdout.splitlines()
        pairs = (line.removeprefix("export ").split("=", 1) for line in lines)
        return {**self.environment, **{name: value.strip("'") for name, value in pairs}}

    def processes(self, deployment: str) -> list[psutil.Process]:
        """The processes of a deployment's replicas."""
        return self._titled(f"ray::ServeReplica:murmur:{deployment}")

    def shards(self) -> list[psutil.Process]:
        """The processes of all ranks of all gangs."""
        return self._titled("ray::Shard")

    def placement_groups(self) -> list[dict[str, Any]]:
        """State and bundles' nodes of each placement group that is not removed."""
        found: list[dict[str, Any]] = self._told(
            "[{'state': g['state'], 'nodes': g['bundles_to_node_id']} "
            "for g in ray.util.placement_group_table().values() if g['state'] != 'REMOVED']"
        )
        return found

    def classes(self) -> dict[str, str | None]:
        """The accelerator class of each node, from its label, by node id."""
        found: dict[str, str | None] = self._told(
            "{n['NodeID']: n['Labels'].get('ray.io/accelerator-type') for n in ray.nodes()}"
        )
        return found

    def machines(self) -> list[tuple[str, str]]:
        """Accelerator class and market type of each live node with GPUs, from their labels."""
        found = self._told(
            "sorted((n['Labels']['ray.io/accelerator-type'], n['Labels']['ray.io/market-type']) "
            "for n in ray.nodes() if n['Alive'] and n['Resources'].get('GPU'))"
        )
        return [(name, market) for name, market in found]

    def nodes_of(self, actor_class: str) -> list[str]:
        """The node of each actor of a class: `Shard`, or `ServeReplica:murmur:` and a tier."""
        found: list[str] = self._told(
            "[a['Address']['NodeID'] for a in actors().values() "
            f"if a['ActorClassName'] == {actor_class!r} and a['State'] == 'ALIVE']"
        )
        return found

    def _told(self, expression: str) -> Any:
        """Evaluate an expression in another Ray job on the cluster."""
        code = (
            "import json, ray; from ray._private.state import actors; "
            f"ray.init(log_to_driver=False); print(json.dumps({expression}))"
        )
        return json.loads(self.job("-c", code))

    def _titled(self, title: str) -> list[psutil.Process]:
        try:
            pid = self._nodes.pid if self._nodes else int((self.folder / "pid").read_text())
            children = psutil.Process(pid).children(recursive=True)
        except (psutil.NoSuchProcess, FileNotFoundError):
            return []
        return [child for child in children if _is_titled(child, title)]

    def kill(self, deployment: str, index: int = 0) -> None:
        """Kill a replica as the kernel kills a process when memory runs out."""
        self.processes(deployment)[index].send_signal(signal.SIGKILL)

    def wait_for(self, deployment: str, n: int, timeout_s: float = 90) -> None:
        """Wait until exactly `n` replicas of a deployment run, and the application as a whole."""
        deadline = time.monotonic() + timeout_s
        while True:
            status = yaml.safe_load(self.murmur("status", "--yaml").stdout) or {}
            replicas = status.get("deployments", {}).get(deployment, {}).get("replicas", {})
            running = status.get("status") == "RUNNING" and replicas.get("running", 0) == n
            # Serve takes a moment to notice that a process has died.
            if running and len(self.processes(deployment)) == n:
                return
            assert time.monotonic() < deadline, status
            time.sleep(0.5)

    def logs(self) -> str:
        """What the replicas and ingresses wrote."""
        files = self.folder.glob("ray/session_2*/logs/serve/replica_*.log")
        return "\n".join(file.read_text(errors="replace") for file in files)

    def records(self) -> list[dict[str, Any]]:
        """The log's record of each request, in any order."""
        lines = (json.loads(line) for line in self.logs().splitlines() if line.startswith("{"))
        return [line["murmur"] for line in lines if "murmur" in line]

    def stop(self) -> None:
        self.murmur("down")
        shutil.rmtree(self.folder, ignore_errors=True)


def _is_titled(process: psutil.Process, title: str) -> bool:
    try:
        return process.cmdline()[0].startswith(title)
    except (psutil.NoSuchProcess, IndexError):
        return False

"""A Ray cluster of several logical nodes on this machine, whose GPUs exist in name only.

Run as a program, it holds the cluster: it prints the address, then takes commands from its input,
one per line.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
_STORE_BYTES = 80 * 2**20


class Nodes:
    """A cluster that starts when it is constructed; `stop` ends it.

    Args:
        classes: GPU class of each node besides the head. Each of these nodes has two GPUs.
    """

    def __init__(self, classes: list[str]) -> None:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MURMUR"))}
        environment = {
            **kept,
            "PYTHONPATH": str(ROOT),
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.nodes", *classes],
            env=environment,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        self.environment = {"RAY_ADDRESS": self._answer(), "RAY_AUTH_MODE": "disabled"}

    def remove(self, node_id: str) -> None:
        """End a node as a power cut does."""
        self._say(f"remove {node_id}")

    def stop(self) -> None:
        with self._process:  # closes its pipes
            self._say("stop")
            self._process.wait(60)

    def _say(self, command: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        assert self._answer() == "done"

    def _answer(self) -> str:
        assert self._process.stdout is not None
        while not (line := self._process.stdout.readline()).startswith("nodes: "):
            assert line, "the cluster has ended"
        return line.removeprefix("nodes: ").strip()


def hold(classes: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="mn-") as folder:
        # Ray writes the cluster's address into the default folder, but does not create that folder.
        os.environ["RAY_TMPDIR"] = folder
        Path(folder, "ray").mkdir()
        from ray.cluster_utils import Cluster

        cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 2,
                "object_store_memory": _STORE_BYTES,
                "include_dashboard": False,
                "dashboard_agent_listen_port": 0,
            },
        )
        nodes = [
            cluster.add_node(
                num_cpus=4,
                num_gpus=2,
                object_store_memory=_STORE_BYTES,
                labels={"ray.io/accelerator-type": name},
            )
            for name in classes
        ]
        cluster.wait_for_nodes()
        print("nodes:", cluster.address, flush=True)
        for line in sys.stdin:
            command, *arguments = line.split()
            if command == "remove":
                gone = next(node for node in nodes if node.node_id == arguments[0])
                cluster.remove_node(gone, allow_graceful=False)
            else:
                cluster.shutdown()
            print("nodes: done", flush=True)
            if command == "stop":
                return


if __name__ == "__main__":
    hold(sys.argv[1:])

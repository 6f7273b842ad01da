"""A cluster on hosts made of namespaces, which Ray's launcher sets up like a cloud's machines."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from serve.clouds.cluster_token import make_token
from tests.support.cluster_file import image_command, on_hosts, with_redis
from tests.support.hosts import Hosts, wait_for
from tests.support.launcher import ROOT, Launcher
from tests.support.redis_server import RedisServer

HEAD, WORKERS = "head", ("worker-1", "worker-2")
_PORT = 8000
_APPLICATIONS = (
    'curl -s -H "Authorization: Bearer $(cat ~/.ray/auth_token)"'
    " http://127.0.0.1:8265/api/serve/applications/"
)


class HostCluster:
    """A head and two workers; `up` starts Ray and Serve on them, `close` removes everything.

    MURMUR_TEST_IMAGE may name a folder that keeps what the hosts have installed, for the next run.

    Args:
        settings: the settings file's content, without the section `http`.
        redis: whether the head keeps its state in a Redis server on this machine.
    """

    def __init__(self, settings: dict[str, Any], redis: bool = False) -> None:
        kept = os.environ.get("MURMUR_TEST_IMAGE")
        self.hosts = Hosts(HEAD, *WORKERS, image=Path(kept) if kept else None)
        self.redis: RedisServer | None = None
        try:
            if redis:
                self.redis = RedisServer(self.hosts.address(0), self.hosts.folder / "redis")
            self._prepare(settings)
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        """Where the head's proxy answers."""
        return f"http://{self.hosts[HEAD].address}:{_PORT}"

    def up(self) -> None:
        """Run `ray up`, and wait for Serve, which starts by itself."""
        self.launcher.ray("up", "-y")
        self.wait_until_running()

    def restart_head(self) -> None:
        """Start Ray again on the head as after a crash, and the host itself if it is off."""
        if not self.hosts[HEAD].is_on:
            self.hosts[HEAD].switch_on()
        self.launcher.ray("up", "-y", "--restart-only")
        self.wait_until_running()

    def deploy(self, settings: dict[str, Any]) -> None:
        """Send new settings to the head and deploy them, with Ray's launcher."""
        self._write(settings)
        for file in (self._settings, self._serve_config):
            self.launcher.ray("rsync-up", str(file), f"~/murmur/{file.name}")
        self.launcher.ray("exec", "serve deploy ~/murmur/serve_config.yaml")

    def application(self) -> dict[str, Any]:
        """What Serve reports of our application; empty if there is none."""
        answer = json.loads(self.hosts[HEAD].run(_APPLICATIONS))
        found: dict[str, Any] = answer["applications"].get("murmur", {})
        return found

    def replicas(self, deployment: str) -> dict[str, str]:
        """The ids of a deployment's running replicas, and the addresses of their hosts.

        Empty while Serve rebuilds the application, because it lists no deployments then.
        """
        found = self.application()["deployments"].get(deployment, {"replicas": []})["replicas"]
        return {r["replica_id"]: r["node_ip"] for r in found if r["state"] == "RUNNING"}

    def wait_until_running(self, timeout_s: float = 600) -> None:
        def is_running() -> bool:
            status = self.application().get("status")
            assert status != "DEPLOY_FAILED", self.application()
            return status == "RUNNING"

        wait_for(is_running, "Serve to run", timeout_s)

    def records(self) -> list[dict[str, Any]]:
        """The records of all requests, from the ingresses' logs on all hosts that are on."""
        logs = "cat /tmp/ray/session_latest/logs/serve/*Ingress* 2>/dev/null || true"
        lines = [line for h in self.hosts if h.is_on for line in h.run(logs).splitlines()]
        parsed = (json.loads(line) for line in lines if line.startswith("{"))
        return [line["murmur"] for line in parsed if "murmur" in line]

    def close(self) -> None:
        if self.redis is not None:
            self.redis.stop()
        self.hosts.close()

    def _prepare(self, settings: dict[str, Any]) -> None:
        folder = self.hosts.folder
        self._settings = folder / "fleet.yaml"
        self._serve_config = folder / "serve_config.yaml"
        self._write(settings)
        replaced = {"fleet.yaml": self._settings, "serve_config.yaml": self._serve_config}
        config = on_hosts(self.hosts, HEAD, replaced)
        if self.redis is not None:
            config["head_start_ray_commands"] = with_redis(
                config["head_start_ray_commands"], self.redis.address, self.redis.password
            )
        file = folder / "cluster.yaml"
        file.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        self.launcher = Launcher(self.hosts, file, {"RAY_AUTH_MODE": "token"})
        token = self.launcher.home / ".ray" / "auth_token"
        make_token(token)
        if not self.hosts.has_image:
            self.hosts.prepare_image(image_command(config, token))
        for host in self.hosts:
            host.switch_on()

    def _write(self, settings: dict[str, Any]) -> None:
        whole = {**settings, "http": {"host": "0.0.0.0", "port": _PORT, "haproxy": True}}
        self._settings.write_text(yaml.safe_dump(whole), encoding="utf-8")
        build = [sys.executable, "-m", "serve.commands.cli", "build", str(self._settings)]
        done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        self._serve_config.write_text(done.stdout, encoding="utf-8")


def main() -> None:
    """`python -m tests.support.host_cluster`, as root: the same cluster, until interrupted."""
    cluster = HostCluster({"tiers": [{"name": "tiny.en", "model": "demo:tiny.en"}]})
    try:
        cluster.up()
        print(f"Serving at {cluster.url}. ssh -i {cluster.hosts.ssh_key} root@ADDRESS:")
        for host in cluster.hosts:
            print(f"{host.name}: {host.address}")
        signal.pause()
    except KeyboardInterrupt:
        cluster.launcher.ray("down", "-y")
    finally:
        cluster.close()


if __name__ == "__main__":
    main()

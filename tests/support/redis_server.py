"""The Redis server of `k8s/components/redis`, on this machine."""

import secrets
import subprocess
from pathlib import Path

import yaml

from tests.support.hosts import install_tools, wait_for

_PORT = 6379
_MANIFEST = Path(__file__).parents[2] / "k8s" / "components" / "redis" / "redis.yaml"


class RedisServer:
    """A server with a password that starts when it is constructed; `stop` ends it.

    Args:
        address: the address of this machine at which it listens.
        folder: for its data; is created.
    """

    def __init__(self, address: str, folder: Path) -> None:
        install_tools({"redis-server": "redis-server", "redis-cli": "redis-tools"})
        self._host = address
        self.address = f"{address}:{_PORT}"
        self.password = secrets.token_hex(24)
        folder.mkdir()
        here = f"dir {folder}\nbind {address}\nport {_PORT}"
        self._process = subprocess.Popen(
            ["sh", "-c", _start_command().replace("dir /data", here)],
            env={"PATH": "/usr/bin:/bin", "PASSWORD": self.password},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        try:
            wait_for(lambda: self.n_keys() is not None, "Redis")
        except BaseException:
            self.stop()
            raise

    def n_keys(self) -> int | None:
        """The number of keys that it holds; None while it does not answer."""
        said = subprocess.run(
            ["redis-cli", "-h", self._host, "-p", str(_PORT), "dbsize"],
            env={"PATH": "/usr/bin:/bin", "REDISCLI_AUTH": self.password},
            capture_output=True,
            text=True,
        ).stdout.strip()
        return int(said) if said.isdigit() else None

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)


def _start_command() -> str:
    """The manifest's start command, which includes the settings."""
    documents = yaml.safe_load_all(_MANIFEST.read_text(encoding="utf-8"))
    spec = next(each["spec"] for each in documents if each["kind"] == "StatefulSet")
    (command,) = spec["template"]["spec"]["containers"][0]["args"]
    assert "dir /data\n" in command
    return str(command)

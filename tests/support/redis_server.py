"""A Redis server, which keeps what a head knows as it does in `k8s/components/redis`."""

import secrets
import subprocess
from pathlib import Path

from tests.support.hosts import install_tools, wait_for

_PORT = 6379


class RedisServer:
    """Started when made, with a password; `stop` ends it.

    Args:
        address: of this machine, to listen at.
        folder: for its data; made.
    """

    def __init__(self, address: str, folder: Path) -> None:
        install_tools({"redis-server": "redis-server", "redis-cli": "redis-tools"})
        self._host = address
        self.address = f"{address}:{_PORT}"
        self.password = secrets.token_hex(24)
        folder.mkdir()
        settings = (
            f"bind {address}\nport {_PORT}\ndir {folder}\nappendonly yes\n"
            f"requirepass {self.password}\n"
        )
        self._process = subprocess.Popen(
            ["redis-server", "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        assert self._process.stdin is not None
        self._process.stdin.write(settings)
        self._process.stdin.close()
        wait_for(lambda: self.n_keys() is not None, "Redis")

    def n_keys(self) -> int | None:
        """What it keeps; None while it does not answer."""
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

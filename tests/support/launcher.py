"""Ray's cluster launcher, on a machine of its own but for the network."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.hosts import Hosts

ROOT = Path(__file__).parents[2]
_TIMEOUT_S = 900.0


class Launcher:
    """`ray up` and its like for one cluster file.

    The launcher keeps its state in `/tmp` and the home, so it gets others than this machine's, for
    as long as the hosts are there.

    Args:
        hosts: that the file names.
        file: of the cluster.
        environment: beside what this machine's programs need.
    """

    def __init__(self, hosts: Hosts, file: Path, environment: dict[str, str]) -> None:
        self._file = file
        self._folder = hosts.folder / "launcher"
        (self._folder / "tmp").mkdir(parents=True)
        self.home = self._folder / "home"
        self.home.mkdir()
        self._environment = {
            **{name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ},
            "HOME": str(self.home),
            # The launcher runs v2 by default, which asks provider `local` for hosts without end.
            "RAY_UP_enable_autoscaler_v2": "0",
            **environment,
        }

    def ray(self, command: str, *arguments: str) -> str:
        """Run `ray COMMAND FILE ...`; returns what it said."""
        private_tmp = (
            f'mount --make-rprivate / && mount --bind {self._folder / "tmp"} /tmp && exec "$@"'
        )
        ray = [sys.executable, "-m", "ray.scripts.scripts", command, str(self._file), *arguments]
        log = self._folder / f"{command}.log"
        with log.open("wb") as output:
            done = subprocess.run(
                ["unshare", "--mount", "bash", "-c", private_tmp, "bash", *ray],
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=_TIMEOUT_S,
            )
        said = log.read_text(encoding="utf-8", errors="replace")
        assert done.returncode == 0, f"ray {command}:\n{said}"
        return said

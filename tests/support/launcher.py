"""Ray's cluster launcher, kept apart from this machine except for the network."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.hosts import Hosts

ROOT = Path(__file__).parents[2]
_TIMEOUT_S = 900.0


class Launcher:
    """Runs `ray up` and similar commands for one cluster file.

    The launcher keeps its state in `/tmp` and the home folder, so it gets folders of its own for
    both, which last as long as the hosts.

    Args:
        hosts: those that the file names.
        file: the cluster file.
        environment: variables beyond those that this machine's programs need.
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
            # The default, autoscaler v2, asks provider `local` for more and more hosts.
            "RAY_UP_enable_autoscaler_v2": "0",
            **environment,
        }

    def ray(self, command: str, *arguments: str) -> str:
        """Run `ray COMMAND FILE ...`; returns its output."""
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

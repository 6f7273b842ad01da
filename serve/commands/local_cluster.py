"""A Ray cluster of our own on this machine, for users who have none.

Its sockets, logs and token are in one folder. Its process holds a lock there for as long as it
lives. The lock shows whether the cluster runs; a process id alone could belong to another program
by now. Ray listens on every interface, and whoever reaches it can run code, so it requires the
token.
"""

import fcntl
import os
import secrets
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from deployments.replicas.ports import free_port
from serve.commands.haproxy import end_haproxy
from serve.commands.installation import difference, write_installation

HOST = "127.0.0.1"
FOLDER_VARIABLE = "MURMUR_CLUSTER_DIR"
_DRAIN_VARIABLE = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"  # a lone node has nowhere to drain to
_START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 30.0
_STARTED = "Ray runtime started"


class LocalClusterError(Exception):
    """The cluster cannot be started or stopped."""


def default_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder that MURMUR_CLUSTER_DIR names, or else one for this user in the temporary folder.

    The default is short, because the path of a socket may have 107 bytes at most.
    """
    chosen = environment.get(FOLDER_VARIABLE)
    return Path(chosen) if chosen else Path(tempfile.gettempdir()) / f"murmur-{os.getuid()}"


class LocalCluster:
    """The cluster in a folder.

    Args:
        folder: is created if needed; only its owner may enter it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = folder / "lock"
        self._pid = folder / "pid"
        self._log = folder / "ray.log"
        self._ray = folder / "ray"
        self._token = folder / "token"
        self._installation = folder / "installation"

    @property
    def folder(self) -> Path:
        """Where all of it is."""
        return self._folder

    @property
    def log(self) -> Path:
        """What Ray said when it started."""
        return self._log

    @property
    def logs(self) -> Path:
        """The folder of Ray's own logs, those of replicas among them."""
        return self._ray / "session_latest" / "logs"

    def address(self) -> str | None:
        """Where the head listens, `host:port`; None if the cluster does not run."""
        self._check_folder()
        if not self._lock.exists():
            return None
        with self._lock.open() as lock:
            # A shared lock, so that several processes can ask at the same time.
            if _try_lock(lock.fileno(), fcntl.LOCK_SH):
                return None
        current = self._ray / "ray_current_cluster"
        return current.read_text().strip() if current.exists() else None

    @property
    def environment(self) -> dict[str, str]:
        """The variables that a process needs to join the cluster."""
        self._check_folder()
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self._token)}

    def outdated(self) -> str:
        """How the installation that the cluster runs differs from this one; empty: not at all."""
        return difference(self._installation)

    def start(self, n_cpus: int, environment: Mapping[str, str]) -> str:
        """Start it; returns its address.

        Args:
            n_cpus: cores that may be reserved.
            environment: of all its processes; the variables for joining are added.

        Raises:
            LocalClusterError: it runs already, or Ray does not start.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._check_folder()
        self._make_token()
        with self._lock.open("w") as lock, self._log.open("a") as log:
            if not _try_lock(lock.fileno()):
                raise LocalClusterError("the local cluster runs already, or is being started")
            # Now that we hold the lock, these files belong to no running cluster.
            log.truncate(0)
            (self._ray / "ray_current_cluster").unlink(missing_ok=True)
            self._pid.unlink(missing_ok=True)
            end_haproxy(self._folder)
            write_installation(self._installation)
            process = subprocess.Popen(
                self._command(n_cpus),
                env={**environment, **self.environment, _DRAIN_VARIABLE: "0"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[lock.fileno()],
            )
        self._pid.write_text(str(process.pid))
        return self._wait_for_start(process)

    def stop(self) -> bool:
        """Stop the cluster with all its processes; returns False if it did not run."""
        self._check_folder()
        if not self._lock.exists():
            return False
        with self._lock.open() as lock:
            # Shared, as in `address`: another process that asks just now is no cluster.
            if _try_lock(lock.fileno(), fcntl.LOCK_SH):
                return False
            pid = self._read_pid()
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + _STOP_TIMEOUT_S
            while not _try_lock(lock.fileno(), fcntl.LOCK_SH):
                if time.monotonic() > deadline:
                    raise LocalClusterError(f"process {pid} does not end")
                time.sleep(0.1)
        end_haproxy(self._folder)
        self._pid.unlink()
        (self._ray / "ray_current_cluster").unlink(missing_ok=True)
        return True

    def _read_pid(self) -> int:
        try:
            return int(self._pid.read_text())
        except (FileNotFoundError, ValueError) as error:
            raise LocalClusterError("the local cluster is just being started") from error

    def _command(self, n_cpus: int) -> list[str]:
        # Ports that are not set here have fixed defaults, the same for every cluster.
        return [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
            *("--node-ip-address", HOST, "--port", "0"),
            *("--ray-client-server-port", str(free_port())),  # 0 is not accepted here
            *("--dashboard-agent-listen-port", "0", "--include-dashboard", "false"),
            *("--num-cpus", str(n_cpus), "--temp-dir", str(self._ray), "--disable-usage-stats"),
            *("--log-style", "record", "--log-color", "false"),
        ]

    def _check_folder(self) -> None:
        """Refuse a folder that others may write to. In the temporary folder, anybody may create one
        with this name and put a token and an address of their own into it."""
        if not os.path.lexists(self._folder):
            return
        found = os.lstat(self._folder)
        is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
        if not is_ours or found.st_mode & 0o022:
            raise LocalClusterError(f"{self._folder} can be written by others: remove it")

    def _make_token(self) -> None:
        if not self._token.exists():
            descriptor = os.open(self._token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(32))

    def _wait_for_start(self, process: "subprocess.Popen[bytes]") -> str:
        deadline = time.monotonic() + _START_TIMEOUT_S
        address: str | None = None
        while address is None:
            if _STARTED in self._log.read_text(errors="replace"):
                address = self.address()
            if process.poll() is not None or time.monotonic() > deadline:
                process.terminate()
                process.wait()
                raise LocalClusterError(f"Ray does not start; it says why in {self._log}")
            time.sleep(0.1)
        return address


def _try_lock(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    """Take a file's lock; returns False if somebody else holds it. Closing the file releases it."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

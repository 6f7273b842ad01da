"""HAProxy of one of several clusters on a machine."""

import socket
from pathlib import Path

import pytest

from serve.commands.haproxy import haproxy_environment, uses_haproxy
from serve.settings.config import ConfigError, HttpSettings


def ports(folder: Path) -> set[int]:
    """All that a cluster with its files in the folder listens on behind its own port."""
    found = haproxy_environment(folder)
    lowest = int(found["RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT"])
    highest = int(found["RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT"])
    single = {int(value) for name, value in found.items() if name.endswith("_PORT")}
    return {*range(lowest, highest + 1)} | single


def test_nobody_listens_on_a_clusters_ports(tmp_path: Path) -> None:
    for port in ports(tmp_path):
        with socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(("0.0.0.0", port))


def test_what_stands_in_for_an_ingress_is_not_another_clusters(tmp_path: Path) -> None:
    found = haproxy_environment(tmp_path)
    fallback = int(found["RAY_SERVE_FALLBACK_PROXY_HTTP_PORT"])
    lowest = int(found["RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT"])
    highest = int(found["RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT"])
    assert not lowest <= fallback <= highest and highest - lowest >= 20
    assert 8500 not in ports(tmp_path)


def test_files_are_the_clusters_own(tmp_path: Path) -> None:
    found = haproxy_environment(tmp_path)
    files = [
        value for name, value in found.items() if name.endswith(("_LOC", "PATH", "BASE", "FILE"))
    ]
    assert len(files) == 5 and all(Path(file).is_relative_to(tmp_path) for file in files)


def test_a_path_that_is_too_long_for_sockets(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 60)
    assert not uses_haproxy(HttpSettings(), long)
    with pytest.raises(ConfigError, match="too long for its sockets: set MURMUR_CLUSTER_DIR"):
        uses_haproxy(HttpSettings(haproxy=True), long)
    assert not uses_haproxy(HttpSettings(haproxy=False), Path("/tmp/m"))

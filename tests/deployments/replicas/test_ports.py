"""Who holds a port, also where it could be shared."""

import os
import socket
from collections.abc import Iterator

import psutil
import pytest

from deployments.replicas import ports
from deployments.replicas.ports import free_block, port_holder


@pytest.fixture(params=[False, True], ids=["alone", "shared"])
def busy(request: pytest.FixtureRequest) -> Iterator[int]:
    """A port on which this process listens, as Ray's proxies do (SO_REUSEPORT) or others."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, request.param)
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_a_holder_is_named(busy: int) -> None:
    name = psutil.Process().name()
    for host in ("127.0.0.1", "0.0.0.0"):
        assert port_holder(host, busy) == f"{name}, process {os.getpid()}"


def test_a_port_is_free_again_at_once(busy: int) -> None:
    """Connections that linger are no obstacle, nor are they to Ray's proxies."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            server.accept()[0].close()
    assert port_holder("127.0.0.1", port) is None


def test_an_address_of_others_is_an_error() -> None:
    with pytest.raises(OSError, match="Cannot assign"):
        port_holder("192.0.2.1", 8000)


def test_a_block_has_no_port_that_is_taken(busy: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it could be shared."""
    monkeypatch.setattr(ports, "_N_TRIES", 1)
    monkeypatch.setattr(ports, "_LOWEST", busy - 2)
    monkeypatch.setattr(ports, "_HIGHEST", busy + 1)
    with pytest.raises(OSError, match="no 3 free ports in a row"):
        free_block(3)
    monkeypatch.undo()
    first = free_block(50)
    assert all(port_holder("0.0.0.0", port) is None for port in range(first, first + 50))

"""Whether a port of this machine is free, and who holds it otherwise.

Ray's proxies bind with SO_REUSEPORT. Another Ray Serve of the same user on the same port is then no
error: the kernel deals out connections to both, and answers come from either.
"""

import errno
import random
import socket

import psutil


def port_holder(host: str, port: int) -> str | None:
    """Who listens on a port, such as `nginx, process 123`; None if the port is free.

    Raises:
        OSError: this machine cannot listen on the address at all.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Connections of a server that has ended are no obstacle; one that listens is, because this
        # socket does not share its port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return _named_holder(port)
    return None


_LOWEST, _HIGHEST = 20_000, 30_000
"""Above the ports of Ray's workers, below those of Serve's replicas and those that Linux gives to
outgoing connections: a cluster that starts takes many of them, and with them perhaps one that was
free when it was looked up."""
_N_TRIES = 100


def free_port() -> int:
    """A port of every interface on which nobody listens now; another one at each call.

    Raises:
        OSError: none was found.
    """
    return free_block(1)


def free_block(n_ports: int) -> int:
    """The first of n ports of every interface on which nobody listens now; another one at each
    call, so that two who ask at once hardly get the same.

    Raises:
        OSError: none was found.
    """
    for first in random.sample(range(_LOWEST, _HIGHEST, n_ports), _N_TRIES):
        if not any(port_holder("0.0.0.0", first + n) for n in range(n_ports)):
            return first
    raise OSError(errno.EADDRINUSE, f"no {n_ports} free ports in a row")


def _named_holder(port: int) -> str:
    """As far as this user may know: the processes of others are hidden."""
    for connection in psutil.net_connections("tcp"):
        listens = connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,)
        if not listens or connection.pid is None:
            continue
        try:
            return f"{psutil.Process(connection.pid).name()}, process {connection.pid}"
        except psutil.NoSuchProcess:
            continue
    return "a process of another user"

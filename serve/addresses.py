"""Addresses that no proxy of a network can reach."""

import ipaddress
import socket
from urllib.parse import urlsplit


def is_this_machine(url: str) -> bool:
    """Whether a URL leads to the machine that asks. The environment may name a proxy, through which
    requests to such a URL must not go."""
    host = urlsplit(url).hostname or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.lower() in ("localhost", socket.gethostname().lower())
    return address.is_loopback or address.is_unspecified

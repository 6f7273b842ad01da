"""Finds the Ray cluster that a command is for, and connects to it."""

import logging
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from serve.commands.authentication import TokenError, settle_authentication
from serve.commands.exit_codes import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_ROLLED_BACK
from serve.commands.local_cluster import LocalCluster, LocalClusterError, default_folder
from serve.settings.config import ConfigError

_HOST_AND_PORT = re.compile(r"(?:ray://)?([^:/]+):(\d{1,5})")
_CLIENT = "ray://"
_LISTENS_WITHIN_S = 10.0


class ClusterError(Exception):
    """A command could not do its work. The user sees the message."""


class RolledBackError(ClusterError):
    """An update failed, and the settings that worked last are back."""


def guarded(command: Callable[[], int]) -> int:
    """Run a command; its errors become a message and an exit code."""
    try:
        return command()
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_BAD_INPUT
    except RolledBackError as error:
        print(f"murmur: {error}", file=sys.stderr)
        return EXIT_ROLLED_BACK
    except (ClusterError, LocalClusterError) as error:
        print(f"murmur: {error}", file=sys.stderr)
        return EXIT_FAILED


def given_address(given: str | None) -> str | None:
    """The address of the cluster that the user means; None for this machine's own."""
    return given or os.environ.get("RAY_ADDRESS") or None


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect to a cluster for the length of a `with` block.

    Raises:
        ClusterError: there is none at this address, it requires a token that this process does not
            have, or it runs other versions of Ray or Python.
    """
    found = _HOST_AND_PORT.fullmatch(address)
    if found is not None:
        _check_listens(address, found[1], int(found[2]))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    import ray.serve  # its import sets its logger's level, so we set ours afterwards
    from ray.exceptions import RayError

    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # we print messages of our own
    try:
        if found is not None and not address.startswith(_CLIENT):
            settle_authentication(found[1], int(found[2]))
        ray.init(address, namespace="serve", log_to_driver=False, logging_level=logging.ERROR)
    except TokenError as error:
        raise ClusterError(f"the Ray cluster at {address} {error}") from error
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        words = " ".join(str(error).split())
        if "ersion mismatch" in words:
            raise ClusterError(f"the Ray cluster at {address} is another's: {words}") from error
        raise ClusterError(f"no Ray cluster at {address}: {words}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_listens(address: str, host: str, port: int) -> None:
    """Raise ClusterError at once if nobody listens there: Ray would try for minutes. Other
    addresses, such as `auto`, are Ray's to look up."""
    try:
        socket.create_connection((host, port), _LISTENS_WITHIN_S).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ClusterError(f"no Ray cluster at {address}: {reason}") from error


def say(words: str) -> None:
    """Print on the standard error what is going on."""
    print(f"murmur: {words}", file=sys.stderr, flush=True)


def running_here() -> tuple[str, dict[str, str]]:
    """Address of this machine's own cluster, and the variables that a process needs to join it.

    Raises:
        ClusterError: it does not run.
    """
    local = LocalCluster(default_folder())
    address = local.address()
    if address is None:
        raise ClusterError("nothing runs on this machine")
    return address, local.environment

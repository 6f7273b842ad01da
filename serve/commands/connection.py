"""The Ray cluster that a command is for: which one it is, and joining it."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from serve.commands.exit_codes import EXIT_BAD_INPUT, EXIT_FAILED
from serve.commands.local_cluster import LocalCluster, LocalClusterError, default_folder
from serve.settings.config import ConfigError


class ClusterError(Exception):
    """What a command could not do, in a line."""


def guarded(command: Callable[[], int]) -> int:
    """Run a command; what it could not do becomes a line and an exit code."""
    try:
        return command()
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_BAD_INPUT
    except (ClusterError, LocalClusterError) as error:
        print(f"murmur: {error}", file=sys.stderr)
        return EXIT_FAILED


def given_address(given: str | None) -> str | None:
    """Where the cluster is that the user means; None: this machine's own."""
    return given or os.environ.get("RAY_ADDRESS") or None


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Joined to a cluster, within.

    Raises:
        ClusterError: there is none.
    """
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    import ray.serve  # sets its logger's level, which is set again here

    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # what matters is said in our words
    try:
        ray.init(address, namespace="serve", log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(f"no Ray cluster at {address}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def say(words: str) -> None:
    """Tell on the standard error what is going on."""
    print(f"murmur: {words}", file=sys.stderr, flush=True)


def running_here() -> tuple[str, dict[str, str]]:
    """Address of this machine's own cluster, and the variables that let a process in."""
    local = LocalCluster(default_folder())
    address = local.address()
    if address is None:
        raise ClusterError("nothing runs on this machine")
    return address, local.environment

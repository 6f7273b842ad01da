"""`murmur up`, `down`, `env` and `build`: the application on a Ray cluster."""

import math
import os
import shlex
import time
from pathlib import Path

import yaml

from serve.commands.connection import (
    ClusterError,
    connected,
    given_address,
    guarded,
    running_here,
    say,
)
from serve.commands.deploying import check_room, deploy, wait_until_ready, wait_until_running
from serve.commands.exit_codes import EXIT_OK
from serve.commands.local_cluster import LocalCluster, default_folder
from serve.settings.check import check_settings
from serve.settings.config import Settings
from serve.settings.loading import ENVIRONMENT_PREFIX, load_settings
from serve.settings.serve_config import APP_NAME, IMPORT_PATH, serve_config
from serve.settings.tier_placement import tier_placement

_INLINE_VARIABLE = "RAY_max_direct_call_object_size"
_PUSH_VARIABLE = "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S"
"""Seconds until a decision about replicas reaches Serve's controller, by default 10."""
_INLINE_BYTES = 1_000_000
"""With this limit a chunk of 30 s, 960 kB, travels in the call itself and not through the object
store (docs/decisions.md)."""


def up(
    path: str | None, address: str | None, timeout_s: float, import_path: str = IMPORT_PATH
) -> int:
    """Deploy the application and wait until it serves.

    Args:
        address: of a Ray cluster; by default RAY_ADDRESS, or else a cluster of this machine's own.
        import_path: names the application's builder.
    """
    return guarded(lambda: _up(path, address, timeout_s, import_path))


def down(address: str | None) -> int:
    """Delete the application; without an address, stop the cluster of `up`, if it runs."""
    return guarded(lambda: _down(address))


def print_environment() -> int:
    """Print shell commands that set what other Ray jobs need to join the cluster of `up`."""
    return guarded(_print_environment)


def build_config(path: str | None) -> int:
    """Print the config that `serve deploy` and KubeRay take."""
    return guarded(lambda: _build_config(path))


def _up(path: str | None, address: str | None, timeout_s: float, import_path: str) -> int:
    settings = _checked(path)
    address = given_address(address)
    if address is None:
        local = LocalCluster(default_folder())
        address = local.address() or _start_local(local, settings)
        os.environ.update(local.environment)
    with connected(address):
        check_room(settings)
        deploy(settings, import_path)
        deadline = time.monotonic() + timeout_s
        wait_until_running(deadline, timeout_s)
        wait_until_ready(deadline, timeout_s)
    host = "127.0.0.1" if settings.http.host == "0.0.0.0" else settings.http.host
    prefix = settings.http.route_prefix.rstrip("/")
    print(f"http://{host}:{settings.http.port}{prefix}")
    return EXIT_OK


def _checked(path: str | None) -> Settings:
    settings = load_settings(None if path is None else Path(path))
    check_settings(settings)
    return settings


def _start_local(local: LocalCluster, settings: Settings) -> str:
    say("starting Ray on this machine")
    reserved = sum(
        bundle["CPU"] * tier.max_replicas
        for tier in settings.tiers
        for bundle in tier_placement(tier).bundles
    )
    reserved += math.ceil(settings.ingress.cpus * settings.ingress.replicas)
    return local.start(max(os.cpu_count() or 1, math.ceil(reserved)), _environment(settings))


def _environment(settings: Settings) -> dict[str, str]:
    """The environment of a cluster that we start, without the variables for settings: the cluster
    gets the settings with each deployment, and variables from its start must not override them."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(ENVIRONMENT_PREFIX)}
    kept.setdefault(_INLINE_VARIABLE, str(_INLINE_BYTES))
    kept.setdefault(_PUSH_VARIABLE, "1")
    if settings.http.haproxy:
        kept["RAY_SERVE_ENABLE_HA_PROXY"] = "1"
    return kept


def _down(given: str | None) -> int:
    address = given_address(given)
    local = LocalCluster(default_folder())
    # `murmur env` gives the cluster of `up` to the shell as RAY_ADDRESS.
    if given is None and address in (None, local.address()):
        if not local.stop():
            say("nothing runs on this machine")
        return EXIT_OK
    assert address is not None, "this machine's own cluster has no other address"
    with connected(address):
        from ray import serve as ray_serve
        from ray.serve.exceptions import RayServeException

        try:
            ray_serve.delete(APP_NAME, _blocking=False)
        except RayServeException as error:
            raise ClusterError(f"nothing is served at {address}") from error
    return EXIT_OK


def _print_environment() -> int:
    address, environment = running_here()
    for name, value in {"RAY_ADDRESS": address, **environment}.items():
        print(f"export {name}={shlex.quote(value)}")
    return EXIT_OK


def _build_config(path: str | None) -> int:
    config = serve_config(_checked(path))
    print(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), end="")
    return EXIT_OK

"""`murmur up`, `down`, `env` and `build`: the application on a Ray cluster."""

import math
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
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
from serve.commands.exit_codes import EXIT_OK
from serve.commands.haproxy import haproxy_environment, uses_haproxy
from serve.commands.local_cluster import LocalCluster, default_folder
from serve.commands.looking import check_memory, look_here, look_there
from serve.commands.room import check_port_here
from serve.commands.updating import Update, apply, preview
from serve.settings.check import check_settings
from serve.settings.config import Settings
from serve.settings.loading import ENVIRONMENT_PREFIX, load_settings
from serve.settings.serve_config import APP_NAME, IMPORT_PATH, serve_config
from serve.settings.tier_placement import tier_placement

_INLINE_VARIABLE = "RAY_max_direct_call_object_size"
_PUSH_VARIABLE = "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S"
"""Seconds until a decision about replicas reaches Serve's controller, by default 10."""
_PROXY_TIMEOUT_VARIABLE = "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S"
"""Seconds until Serve kills a proxy that is not ready, by default 5: too few on a busy machine."""
PROXY_VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
BOUND_PROXY = "serve.http.read_ahead.bound_proxy"
"""What Ray's own proxy calls when it starts, so that it does not read uploads ahead."""
_INLINE_BYTES = 1_000_000
"""With this limit a chunk of 30 s, 960 kB, travels in the call itself and not through the object
store (docs/decisions.md)."""


@dataclass(frozen=True, slots=True)
class Up:
    """What `murmur up` is asked to do.

    Attributes:
        path: of the settings; None: the default ones.
        address: of a Ray cluster; by default RAY_ADDRESS, or else a cluster of this machine's own.
        timeout_s: how long to wait until all tiers serve.
        port: goes before the settings' `http.port`.
        rollback: whether the settings that worked last come back if an update fails.
        dry_run: only say what would change.
        import_path: names the application's builder.
    """

    path: str | None = None
    address: str | None = None
    timeout_s: float = 1800.0
    port: int | None = None
    rollback: bool = True
    dry_run: bool = False
    import_path: str = IMPORT_PATH


def up(asked: Up) -> int:
    """Deploy the application and wait until it serves."""
    return guarded(lambda: _up(asked))


def down(address: str | None) -> int:
    """Delete the application; without an address, stop the cluster of `up`, if it runs."""
    return guarded(lambda: _down(address))


def print_environment() -> int:
    """Print shell commands that set what other Ray jobs need to join the cluster of `up`."""
    return guarded(_print_environment)


def build_config(path: str | None, surge: bool) -> int:
    """Print the config that `serve deploy` and KubeRay take.

    Args:
        surge: each tier's new replica starts before an old one stops.
    """
    return guarded(lambda: _build_config(path, surge))


def _up(asked: Up) -> int:
    settings = _checked(asked.path)
    if asked.port is not None:
        settings = with_port(settings, asked.port)
    address = given_address(asked.address)
    local = LocalCluster(default_folder()) if address is None else None
    look = look_there if local is None else look_here
    update = Update(settings, asked.import_path, asked.timeout_s, asked.rollback, look)
    if local is not None:
        address = local.address()
        if address is not None and (outdated := local.outdated()):
            return _restart(local, update, asked.dry_run, outdated)
        if address is None:
            return _up_first(local, update, asked.dry_run)
        os.environ.update(local.environment)
    assert address is not None
    with connected(address):
        if asked.dry_run:
            print("\n".join(preview(update)))
            return EXIT_OK
        apply(update)
    return _say_url(settings)


def _restart(local: LocalCluster, update: Update, dry_run: bool, outdated: str) -> int:
    """Replace a cluster of another installation: its processes would be of several versions."""
    look_here(update.settings.tiers)
    if dry_run:
        print(f"the cluster on this machine is restarted: {outdated}")
        return EXIT_OK
    say(f"restarting the cluster on this machine: {outdated}")
    local.stop()
    return _up_first(local, update, dry_run)


def _up_first(local: LocalCluster, update: Update, dry_run: bool) -> int:
    """Start this machine's own cluster, and serve there. What does not serve is not left behind."""
    settings = update.settings
    check_port_here(settings.http)
    check_memory(settings.tiers, look_here(settings.tiers))
    if dry_run:
        print(f"Ray is started here, with {', '.join(tier.name for tier in settings.tiers)}")
        return EXIT_OK
    address = _start_local(local, settings)
    os.environ.update(local.environment)
    try:
        with connected(address):
            apply(replace(update, own=True))
    except ClusterError:
        if update.rollback:
            local.stop()
            say(f"nothing is left running; what Ray wrote is in {local.logs}")
        raise
    return _say_url(settings)


def _say_url(settings: Settings) -> int:
    host = "127.0.0.1" if settings.http.host == "0.0.0.0" else settings.http.host
    prefix = settings.http.route_prefix.rstrip("/")
    print(f"http://{host}:{settings.http.port}{prefix}")
    return EXIT_OK


def _checked(path: str | None) -> Settings:
    settings = load_settings(None if path is None else Path(path))
    check_settings(settings)
    return settings


def with_port(settings: Settings, port: int) -> Settings:
    """The settings with another `http.port`."""
    http = settings.http.model_copy(update={"port": port})
    return settings.model_copy(update={"http": http})


def _start_local(local: LocalCluster, settings: Settings) -> str:
    say("starting Ray on this machine")
    reserved = sum(
        bundle["CPU"] * tier.max_replicas
        for tier in settings.tiers
        for bundle in tier_placement(tier).bundles
    )
    # For an update, a tier starts a new replica before it stops an old one.
    reserved += sum(
        bundle["CPU"] for tier in settings.tiers for bundle in tier_placement(tier).bundles
    )
    reserved += math.ceil(settings.ingress.cpus * (settings.ingress.replicas + 1))
    n_cpus = max(os.cpu_count() or 1, math.ceil(reserved))
    environment = _environment()
    if uses_haproxy(settings.http, local.folder):
        environment |= haproxy_environment(local.folder)
    return local.start(n_cpus, environment)


def _environment() -> dict[str, str]:
    """The environment of a cluster that we start, without the variables for settings: the cluster
    gets the settings with each deployment, and variables from its start must not override them."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(ENVIRONMENT_PREFIX)}
    kept.setdefault(_INLINE_VARIABLE, str(_INLINE_BYTES))
    kept.setdefault(_PUSH_VARIABLE, "1")
    kept.setdefault(PROXY_VARIABLE, BOUND_PROXY)
    kept.setdefault(_PROXY_TIMEOUT_VARIABLE, "60")
    # Both spellings, because each is read by some program.
    kept["no_proxy"] = kept["NO_PROXY"] = _without_proxy(os.environ)
    kept["RAY_SERVE_ENABLE_HA_PROXY"] = "0"
    return kept


def _without_proxy(environment: Mapping[str, str]) -> str:
    """`no_proxy` with this machine in it: a proxy of the network cannot reach it."""
    there = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    names = [name.strip() for name in there.split(",") if name.strip()]
    return ",".join(dict.fromkeys([*names, "localhost", "127.0.0.1", "::1"]))


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


def _build_config(path: str | None, surge: bool) -> int:
    settings = _checked(path)
    config = serve_config(settings, surge=[tier.name for tier in settings.tiers if surge])
    print(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), end="")
    return EXIT_OK

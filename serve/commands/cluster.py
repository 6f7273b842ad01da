"""`murmur up`, `down`, `status`, `env` and `build`: the application on a Ray cluster."""

import logging
import math
import os
import re
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from serve.commands.exit_codes import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_OK
from serve.commands.local_cluster import LocalCluster, LocalClusterError, default_folder
from serve.commands.status_table import status_table
from serve.settings.check import check_settings
from serve.settings.config import ENVIRONMENT_PREFIX, ConfigError, Settings, load_settings
from serve.settings.serve_config import APP_NAME, IMPORT_PATH, serve_config
from serve.settings.tier_placement import placements, tier_placement

_POLL_S = 0.5
_BOARD_WAIT_S = 5.0
_CLEAR = "\x1b[H\x1b[2J"
"""Empties a terminal."""
_EXCEPTION = re.compile(r"^[A-Za-z_][\w.]*(Error|Exception|Interrupt): ")
"""How the last line of a traceback begins."""
_INLINE_VARIABLE = "RAY_max_direct_call_object_size"
_PUSH_VARIABLE = "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S"
"""Seconds until a decision about replicas reaches Serve's controller, by default 10."""
_INLINE_BYTES = 1_000_000
"""A chunk of 30 s, 960 kB, travels in the call itself, and not through the object store
(docs/decisions.md)."""


class ClusterError(Exception):
    """What a command could not do, in a line."""


def up(
    path: str | None, address: str | None, timeout_s: float, import_path: str = IMPORT_PATH
) -> int:
    """Deploy, on a cluster of this machine's own if no other is named, and wait until it serves.

    Args:
        import_path: of the application's builder.
    """
    return _guarded(lambda: _up(path, address, timeout_s, import_path))


def down(address: str | None) -> int:
    """Take the application away, and with it a cluster that `up` started."""
    return _guarded(lambda: _down(address))


def status(address: str | None, as_yaml: bool = False, every_s: float | None = None) -> int:
    """Print how application and tiers are; 0 if it serves.

    Args:
        as_yaml: what Serve says, for programs, instead of a table.
        every_s: print it again and again, until interrupted.
    """
    return _guarded(lambda: _status(address, as_yaml, every_s))


def print_environment() -> int:
    """Print, for a shell, what other Ray jobs need to join the cluster that `up` started."""
    return _guarded(_print_environment)


def build_config(path: str | None) -> int:
    """Print the config that `serve deploy` and KubeRay take."""
    return _guarded(lambda: _build_config(path))


def _guarded(command: Any) -> int:
    try:
        return int(command())
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_BAD_INPUT
    except (ClusterError, LocalClusterError) as error:
        print(f"murmur: {error}", file=sys.stderr)
        return EXIT_FAILED


def _up(path: str | None, address: str | None, timeout_s: float, import_path: str) -> int:
    settings = _checked(path)
    address = _address(address)
    if address is None:
        local = LocalCluster(default_folder())
        address = local.address() or _start_local(local, settings)
        os.environ.update(local.environment)
    with connected(address):
        _check_room(settings)
        _deploy(settings, import_path)
        deadline = time.monotonic() + timeout_s
        _wait_until_running(deadline, timeout_s)
        _wait_until_ready(deadline, timeout_s)
    host = "127.0.0.1" if settings.http.host == "0.0.0.0" else settings.http.host
    prefix = settings.http.route_prefix.rstrip("/")
    print(f"http://{host}:{settings.http.port}{prefix}")
    return EXIT_OK


def _checked(path: str | None) -> Settings:
    settings = load_settings(None if path is None else Path(path))
    check_settings(settings)
    return settings


def _start_local(local: LocalCluster, settings: Settings) -> str:
    _say("starting Ray on this machine")
    reserved = sum(
        bundle["CPU"] * tier.max_replicas
        for tier in settings.tiers
        for bundle in tier_placement(tier).bundles
    )
    reserved += math.ceil(settings.ingress.cpus * settings.ingress.replicas)
    return local.start(max(os.cpu_count() or 1, math.ceil(reserved)), _environment(settings))


def _environment(settings: Settings) -> dict[str, str]:
    """Of a cluster that we start. What the settings say is sent to it, and is not to be overridden
    by what was set when it started."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(ENVIRONMENT_PREFIX)}
    kept.setdefault(_INLINE_VARIABLE, str(_INLINE_BYTES))
    kept.setdefault(_PUSH_VARIABLE, "1")
    if settings.http.haproxy:
        kept["RAY_SERVE_ENABLE_HA_PROXY"] = "1"
    return kept


def _check_room(settings: Settings) -> None:
    """Ray would let a replica that fits nowhere wait for ever, without a word."""
    from deployments.replicas.cluster_nodes import cluster_nodes, may_grow
    from deployments.replicas.placement import shortage

    faults = shortage(placements(settings), cluster_nodes())
    if faults and not may_grow():
        raise ClusterError("\n".join(faults))
    for fault in faults:
        _say(f"{fault}; waiting for nodes to join")


def _deploy(settings: Settings, import_path: str) -> None:
    from ray import serve as ray_serve
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    config = serve_config(settings, import_path)
    ray_serve.start(proxy_location=config["proxy_location"], http_options=config["http_options"])
    client = _get_global_client()
    assert client is not None, "Serve has just been started"
    running = client.http_config
    wanted = (settings.http.host, settings.http.port)
    if (running.host, running.port) != wanted:
        raise ClusterError(
            f"Serve runs at {running.host}:{running.port} and cannot move to {wanted[0]}:"
            f"{wanted[1]}: `murmur down` first"
        )
    others = [
        name
        for name, application in client.get_serve_details()["applications"].items()
        if name != APP_NAME and application["source"] == "declarative"
    ]
    if others:  # a config is the whole of what is deployed by config
        raise ClusterError(
            f"deployed there by config, and would be taken away: {', '.join(others)}. Add what "
            "`murmur build` prints to that config, and `serve deploy` it"
        )
    # What the controller does with the body of `serve deploy`; there is no other public way to it
    # than the dashboard, which a small cluster does without.
    client.deploy_apps(ServeDeploySchema.model_validate(config))


def _wait_until_running(deadline: float, timeout_s: float) -> None:
    said = ""
    while True:
        application = _application()
        tiers = application["deployments"]
        now = ", ".join(f"{name} {tier['status'].lower()}" for name, tier in tiers.items())
        if now and now != said:
            _say(now)
            said = now
        if application["status"] == "RUNNING":
            return
        if application["status"] in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise ClusterError(_reason(application))
        if time.monotonic() > deadline:
            raise ClusterError(f"not serving after {timeout_s:g} s: {_reason(application)}")
        time.sleep(_POLL_S)


def _wait_until_ready(deadline: float, timeout_s: float) -> None:
    """Until `/readyz` says so at every ingress: the first chunk of a replica takes its time, and is
    not to be that of whoever comes first."""
    from ray import serve as ray_serve
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    from deployments.entrance.readiness import is_ready

    ingresses = ray_serve.get_app_handle(APP_NAME)
    while True:
        states: list[dict[str, bool]] = []
        with suppress(RayError, RayServeException, TimeoutError):  # one is lost: there will be more
            states = ingresses.broadcast("ready").results(timeout_s=_BOARD_WAIT_S)
        if states and all(is_ready(tiers) for tiers in states):
            return
        if time.monotonic() > deadline:
            waiting = sorted({name for tiers in states for name, ok in tiers.items() if not ok})
            raise ClusterError(f"no chunk decoded after {timeout_s:g} s by {', '.join(waiting)}")
        time.sleep(_POLL_S)


def _reason(application: dict[str, Any]) -> str:
    tiers = application["deployments"].items()
    messages = [f"{name}: {_short(tier['message'])}" for name, tier in tiers if tier["message"]]
    if not messages and application["message"]:
        messages = [_short(application["message"])]
    return "\n".join(messages) or application["status"]


def _short(message: str) -> str:
    """What a traceback ends with. All of it is in the logs."""
    lines = message.splitlines()
    ends = [i for i, line in enumerate(lines) if _EXCEPTION.match(line)]
    if "Traceback" not in message or not ends:
        return message
    last = ends[-1]
    return "\n".join([_EXCEPTION.sub("", lines[last]), *lines[last + 1 :]]).strip()


def _application() -> dict[str, Any]:
    """The application's status and its deployments'."""
    from ray import serve as ray_serve

    found = ray_serve.status().applications.get(APP_NAME)
    if found is None:
        return {"status": "NOT_DEPLOYED", "message": "", "deployments": {}}
    deployments = {
        name: {
            "status": deployment.status.value,
            "replicas": {state.lower(): n for state, n in deployment.replica_states.items()},
            "message": deployment.message,
        }
        for name, deployment in found.deployments.items()
    }
    return {"status": found.status.value, "message": found.message, "deployments": deployments}


def _down(address: str | None) -> int:
    address = _address(address)
    if address is None:
        if not LocalCluster(default_folder()).stop():
            raise ClusterError("nothing runs on this machine")
        return EXIT_OK
    with connected(address):
        from ray import serve as ray_serve
        from ray.serve.exceptions import RayServeException

        try:
            ray_serve.delete(APP_NAME, _blocking=False)
        except RayServeException as error:
            raise ClusterError(f"nothing is served at {address}") from error
    return EXIT_OK


def _status(address: str | None, as_yaml: bool, every_s: float | None) -> int:
    found = _address(address)
    if found is None:
        found, environment = _running_here()
        os.environ.update(environment)
    with connected(found), suppress(KeyboardInterrupt):
        while True:
            application = _application()
            if as_yaml:
                print(yaml.safe_dump({"address": found, **application}, sort_keys=False), end="")
            else:
                clear = _CLEAR if every_s is not None and sys.stdout.isatty() else ""
                print(clear + status_table(found, application, _cluster()), flush=True)
            if every_s is None:
                break
            time.sleep(every_s)
    return EXIT_OK if application["status"] == "RUNNING" else EXIT_FAILED


def _cluster() -> dict[str, Any] | None:
    """What the board knows; None where none answers."""
    from ray import serve as ray_serve
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    from serve.app import BOARD_NAME

    try:
        board: Any = ray_serve.get_deployment_handle(BOARD_NAME, APP_NAME)
        found: dict[str, Any] = board.cluster.remote().result(timeout_s=_BOARD_WAIT_S)
    except (RayError, RayServeException, TimeoutError):
        return None
    return found


def _print_environment() -> int:
    address, environment = _running_here()
    for name, value in {"RAY_ADDRESS": address, **environment}.items():
        print(f"export {name}={shlex.quote(value)}")
    return EXIT_OK


def _running_here() -> tuple[str, dict[str, str]]:
    """Address of this machine's own cluster, and the variables that let a process in."""
    local = LocalCluster(default_folder())
    address = local.address()
    if address is None:
        raise ClusterError("nothing runs on this machine")
    return address, local.environment


def _build_config(path: str | None) -> int:
    config = serve_config(_checked(path))
    print(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), end="")
    return EXIT_OK


def _address(given: str | None) -> str | None:
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


def _say(words: str) -> None:
    print(f"murmur: {words}", file=sys.stderr, flush=True)

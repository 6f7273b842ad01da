"""Hands the application to Serve, and waits until it serves."""

import re
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from serve.commands.application import application_status
from serve.commands.connection import ClusterError, say
from serve.settings.config import Settings
from serve.settings.serve_config import APP_NAME

_POLL_S = 0.5
_READY_WAIT_S = 5.0
_EXCEPTION = re.compile(r"^[A-Za-z_][\w.]*(Error|Exception|Interrupt): ")
"""How the last line of a traceback begins."""


def running_serve() -> Any:
    """A client of the cluster's Serve; None if it does not run. It has no public name."""
    from ray.serve.context import _get_global_client

    return _get_global_client(raise_if_no_controller_running=False)


def start_serve(config: Mapping[str, Any]) -> Any:
    """Start Serve with a config's proxies, if it does not run; returns a client.

    Raises:
        ClusterError: it does not start.
    """
    from ray import serve as ray_serve
    from ray.exceptions import RayError

    try:
        ray_serve.start(
            proxy_location=config["proxy_location"], http_options=config["http_options"]
        )
    except (RayError, RuntimeError) as error:
        raise ClusterError(f"Serve does not start: {short_reason(str(error))}") from error
    client = running_serve()
    assert client is not None, "Serve has just been started"
    return client


def check_free(client: Any, settings: Settings) -> None:
    """Check that the application can be deployed beside what is deployed already.

    Raises:
        ClusterError: Serve listens at another address, another application has the route, or others
            are deployed by a config.
    """
    running = client.http_config
    wanted = (settings.http.host, settings.http.port)
    if (running.host, running.port) != wanted:
        raise ClusterError(
            f"Serve runs at {running.host}:{running.port} and cannot move to {wanted[0]}:"
            f"{wanted[1]}: `murmur down` first"
        )
    applications = client.get_serve_details()["applications"]
    others = {name: found for name, found in applications.items() if name != APP_NAME}
    prefix = settings.http.route_prefix
    if holders := [name for name, found in others.items() if found["route_prefix"] == prefix]:
        raise ClusterError(
            f"the application {holders[0]!r} answers at {prefix}, and would get nothing more: set "
            "http.route_prefix, such as to /speech"
        )
    declared = [name for name, found in others.items() if found["source"] == "declarative"]
    if declared:  # a new config removes all applications of the previous one
        raise ClusterError(
            f"deployed there by config, and would be taken away: {', '.join(declared)}. Add what "
            "`murmur build` prints to that config, and `serve deploy` it"
        )


def deployed(client: Any) -> dict[str, Any] | None:
    """The config of the application that is deployed; None if none is."""
    import ray

    if application_status()["status"] == "NOT_DEPLOYED":
        return None
    found = ray.get(client._controller.get_app_configs.remote()).get(APP_NAME)
    return None if found is None else plain(found)


def deploy(client: Any, config: Mapping[str, Any]) -> None:
    """Hand a config to Serve."""
    from ray.serve.schema import ServeDeploySchema

    # The call with which the dashboard executes `serve deploy`. It has no public name, and our own
    # small cluster runs without a dashboard.
    client.deploy_apps(ServeDeploySchema.model_validate(config))


def application_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The application in a config, in the form in which `deployed` gives it."""
    from ray.serve.schema import ServeDeploySchema

    schema = ServeDeploySchema.model_validate(config)
    (application,) = schema.applications
    application.logging_config = application.logging_config or schema.logging_config
    return plain(application)


def plain(application: Any) -> dict[str, Any]:
    """An application's schema as JSON values, without what is not set."""
    values: dict[str, Any] = application.model_dump(mode="json", exclude_unset=True)
    return values


def wait_until_running(deadline: float, timeout_s: float) -> None:
    """Wait until Serve says that the application runs.

    Args:
        deadline: when to give up, by `time.monotonic`.
        timeout_s: for the message.

    Raises:
        ClusterError: the application does not run; the message says why.
    """
    said = ""
    while True:
        application = application_status()
        tiers = application["deployments"]
        now = ", ".join(f"{name} {tier['status'].lower()}" for name, tier in tiers.items())
        if now and now != said:
            say(now)
            said = now
        if application["status"] == "RUNNING":
            return
        if application["status"] in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise ClusterError(_reason(application))
        if time.monotonic() > deadline:
            raise ClusterError(f"not serving after {timeout_s:g} s: {_reason(application)}")
        time.sleep(_POLL_S)


def wait_until_ready(deadline: float, timeout_s: float) -> None:
    """Wait until `/readyz` of every ingress says that it is ready. A replica's first chunk is slow,
    so it should not be that of the first caller.

    Args:
        deadline: when to give up, by `time.monotonic`.
        timeout_s: for the message.

    Raises:
        ClusterError: no chunk was decoded until then.
    """
    from ray import serve as ray_serve
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    from deployments.entrance.readiness import is_ready

    ingresses = ray_serve.get_app_handle(APP_NAME)
    while True:
        states: list[dict[str, bool]] = []
        with suppress(RayError, RayServeException, TimeoutError):  # Serve replaces a lost ingress
            states = ingresses.broadcast("ready").results(timeout_s=_READY_WAIT_S)
        if states and all(is_ready(tiers) for tiers in states):
            return
        if time.monotonic() > deadline:
            raise ClusterError(f"not ready after {timeout_s:g} s: {what_is_missing(states)}")
        time.sleep(_POLL_S)


def what_is_missing(states: Iterable[Mapping[str, bool]]) -> str:
    """In words, from each ingress's tiers and whether they are ready."""
    waiting = sorted({name for tiers in states for name, ok in tiers.items() if not ok})
    return f"no chunk decoded by {', '.join(waiting)}" if waiting else "no ingress answers"


def _reason(application: dict[str, Any]) -> str:
    tiers = application["deployments"].items()
    messages = [
        f"{name}: {short_reason(tier['message'])}" for name, tier in tiers if tier["message"]
    ]
    if not messages and application["message"]:
        messages = [short_reason(application["message"])]
    return "\n".join(messages) or application["status"]


def short_reason(message: str) -> str:
    """The message at the end of a traceback. The logs have all of it."""
    lines = message.splitlines()
    ends = [i for i, line in enumerate(lines) if _EXCEPTION.match(line)]
    if "Traceback" not in message or not ends:
        return message
    last = ends[-1]
    return "\n".join([_EXCEPTION.sub("", lines[last]), *lines[last + 1 :]]).strip()

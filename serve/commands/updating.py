"""An update of the connected cluster: looked at first, and taken back if it fails all the same."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deployments.replicas.inspection import Inspection
from serve.commands.application import application_status
from serve.commands.connection import ClusterError, RolledBackError, say
from serve.commands.deploying import (
    application_of,
    check_free,
    deploy,
    deployed,
    running_serve,
    start_serve,
    wait_until_ready,
    wait_until_running,
)
from serve.commands.looking import tiers_of, with_room
from serve.commands.room import check_ports_there, check_room, tiers_with_spare_room
from serve.settings.changes import Changes, changes
from serve.settings.config import Settings, TierSettings
from serve.settings.serve_config import serve_config

Look = Callable[[Sequence[TierSettings]], dict[str, Inspection]]
_NAMESPACE, _KEY = b"murmur", b"settings that worked"


@dataclass(frozen=True, slots=True)
class Update:
    """How to update.

    Attributes:
        import_path: names the application's builder.
        timeout_s: how long to wait until all tiers serve.
        rollback: whether the settings that worked last come back if the update fails.
        look: looks at tiers before anything is changed.
        own: the cluster has just been started for this: models and port have been looked at, and
            nothing else runs there.
    """

    settings: Settings
    import_path: str
    timeout_s: float
    rollback: bool
    look: Look
    own: bool = False


def preview(update: Update) -> list[str]:
    """What `apply` would do, in words, after the same look.

    Raises:
        ClusterError: it would not begin.
    """
    client = running_serve()
    planned = _plan(update, _before(client, update))
    if planned.changes is None:
        names = ", ".join(tier.name for tier in update.settings.tiers)
        return [f"deployed for the first time: {names}"]
    return planned.changes.lines()


def apply(update: Update) -> None:
    """Deploy the settings, and wait until all tiers serve.

    Raises:
        ClusterError: a look found faults, and nothing was changed; or the update failed.
        RolledBackError: the update failed, and the settings that worked last are back.
    """
    client = running_serve()
    before = _before(client, update)
    planned = _plan(update, before)
    client = client or start_serve(planned.config)
    last = _that_worked(before)
    for line in planned.changes.lines() if planned.changes is not None else ():
        say(line)
    try:
        _deploy(client, planned.config, update.timeout_s)
    except ClusterError as error:
        if last is None or not update.rollback:
            raise
        _roll_back(client, last, update.timeout_s, error)
    _remember(application_of(planned.config))


def _before(client: Any, update: Update) -> dict[str, Any] | None:
    """The application that is deployed, after a look at whether the settings fit beside others."""
    if client is None:
        if not update.own:
            check_ports_there(update.settings.http)
        return None
    check_free(client, update.settings)
    return deployed(client)


@dataclass(frozen=True, slots=True)
class _Planned:
    """The config to deploy, and what it changes; None if there is nothing to compare with."""

    config: dict[str, Any]
    changes: Changes | None


def _plan(update: Update, before: Mapping[str, Any] | None) -> _Planned:
    """Look at everything, and choose how replicas are replaced."""
    settings = update.settings
    config = serve_config(settings, update.import_path)
    found = None if before is None else changes(before, application_of(config))
    if found is None or found.whole or application_status()["status"] != "RUNNING":
        tiers = tiers_of(settings, None)
    else:
        tiers = tiers_of(settings, found.replaced)
    seen = {} if update.own else update.look(tiers)
    check_room(settings, before)
    if found is None:
        return _Planned(config, None)
    surge = with_room(seen) & tiers_with_spare_room(settings, {tier.name for tier in tiers})
    for tier in tiers:
        if tier.name not in surge and tier.min_replicas > 0:
            say(_no_room(tier))
    return _Planned(serve_config(settings, update.import_path, surge), found)


def _no_room(tier: TierSettings) -> str:
    what = f"tier {tier.name}: there is no room for one more replica"
    if tier.min_replicas == 1:
        return f"{what}: it is away while the new one loads"
    return f"{what}: one less serves while it is updated"


def _deploy(client: Any, config: Mapping[str, Any], timeout_s: float) -> None:
    deploy(client, config)
    deadline = time.monotonic() + timeout_s
    wait_until_running(deadline, timeout_s)
    wait_until_ready(deadline, timeout_s)


def _roll_back(client: Any, last: dict[str, Any], timeout_s: float, fault: ClusterError) -> None:
    say(f"the update failed: {fault}")
    say("back to the settings that worked last")
    try:
        _deploy(client, {"applications": [last]}, timeout_s)
    except ClusterError as error:
        raise ClusterError(
            f"the update failed: {fault}\nand the settings that worked last do not serve: {error}"
        ) from error
    raise RolledBackError(f"the update failed, the settings that worked last are back: {fault}")


def _that_worked(before: dict[str, Any] | None) -> dict[str, Any] | None:
    """The application that ran last: the one that runs now, or the last that `up` saw running."""
    if before is not None and application_status()["status"] == "RUNNING":
        return before
    from ray.experimental.internal_kv import _internal_kv_get

    found = _internal_kv_get(_KEY, namespace=_NAMESPACE)
    last: dict[str, Any] | None = None if found is None else json.loads(found)
    return last


def _remember(application: Mapping[str, Any]) -> None:
    """Keep an application that runs in the cluster's control service (GCS)."""
    from ray.experimental.internal_kv import _internal_kv_put

    _internal_kv_put(_KEY, json.dumps(application), overwrite=True, namespace=_NAMESPACE)

"""Application-level autoscaling policy for Ray Serve: it returns what the board decided.

The policy runs in Serve's controller. A policy that waits or raises would stop the controller for
all applications, so this one does neither.
"""

import logging
from collections.abc import Mapping
from typing import Any

from ray.serve.config import AutoscalingContext

from deployments.fleet import deployment_name
from deployments.routing.board import TARGET

logger = logging.getLogger("ray.serve")


def follow_board(
    contexts: Mapping[Any, AutoscalingContext],
) -> tuple[dict[Any, int], dict[Any, dict[str, Any]]]:
    """Return the number of replicas of each deployment for which the board has made a decision.

    Other deployments stay as they are.

    Args:
        contexts: Serve's context of each deployment, by deployment id.

    Returns:
        Replicas by deployment id, and an empty policy state.
    """
    try:
        return _targets(contexts), {}
    except Exception:  # border to the controller
        logger.exception("the board's decision could not be read: replicas stay as they are")
        return {}, {}


def _targets(contexts: Mapping[Any, AutoscalingContext]) -> dict[Any, int]:
    newest: dict[str, tuple[float, float]] = {}
    for context in contexts.values():
        # Not Serve's aggregates: they are means over time, and a mean of decisions is no
        # decision.
        for name, by_replica in (context.raw_metrics or {}).items():
            if name.startswith(TARGET):
                tier = deployment_name(name.removeprefix(TARGET))
                values = [(v.timestamp, v.value) for series in by_replica.values() for v in series]
                newest[tier] = max([*values, newest.get(tier, (0.0, 0.0))])
    targets: dict[Any, int] = {}
    for deployment, context in contexts.items():
        if deployment.name in newest:
            wanted = max(round(newest[deployment.name][1]), _is_wanted(context))
            if context.current_num_replicas == 0 and wanted:
                # If a deployment without replicas is called, Serve uses this number and ignores
                # the policy's return value (`_get_cold_start_scale_up_replicas`).
                context.target_num_replicas = wanted
            targets[deployment] = wanted
    return targets


def _is_wanted(context: AutoscalingContext) -> bool:
    """Whether calls are running or waiting. Serve starts a replica for them at once, and the board
    may not know of them yet."""
    return bool(context.total_num_requests)

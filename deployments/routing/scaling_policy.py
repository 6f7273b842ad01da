"""Ray Serve's application-level autoscaling policy: what the board decided.

It runs in Serve's controller, which a policy that waits or raises would stop for all applications,
so that it does neither.
"""

import logging
from collections.abc import Mapping
from typing import Any

from ray.serve.config import AutoscalingContext

from deployments.routing.board import TARGET

logger = logging.getLogger("ray.serve")


def follow_board(
    contexts: Mapping[Any, AutoscalingContext],
) -> tuple[dict[Any, int], dict[Any, dict[str, Any]]]:
    """Deployments' contexts by their ids -> replicas of those that the board has decided on. A
    deployment without a decision stays as it is."""
    try:
        return _targets(contexts), {}
    except Exception:  # the border to the controller
        logger.exception("the board's decision could not be read: replicas stay as they are")
        return {}, {}


def _targets(contexts: Mapping[Any, AutoscalingContext]) -> dict[Any, int]:
    newest: dict[str, tuple[float, float]] = {}
    for context in contexts.values():
        # Serve's aggregates are means of some time, and a mean of decisions is none.
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
                # Of a deployment that has none and is called, Serve takes this for the policy's
                # answer, and not what it answers (`_get_cold_start_scale_up_replicas`).
                context.target_num_replicas = wanted
            targets[deployment] = wanted
    return targets


def _is_wanted(context: AutoscalingContext) -> bool:
    """Whether calls are under way or wait. Serve starts a replica for those at once, and the board
    may not know of them yet."""
    return bool(context.total_num_requests)


def deployment_name(tier: str) -> str:
    """Ray cuts the names of its tasks at the last dot."""
    return tier.replace(".", "_")

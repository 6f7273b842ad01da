"""Where replicas of a tier go, by its settings. Does not import Ray."""

from deployments.placement import GangPlacement, gang_placement
from serve.config import TierSettings

LEADER_CPUS = 1
"""Cores of a gang's leader, beside those of its ranks."""


def tier_placement(tier: TierSettings) -> GangPlacement:
    """Where a replica of a tier goes."""
    return gang_placement(
        tier.tensor_parallel,
        tier.accelerators,
        tier.cpus,
        LEADER_CPUS if tier.is_sharded else 0,
        tier.allow_cross_node_tp,
        tier.spot,
    )

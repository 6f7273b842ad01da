"""Where the settings place replicas of tiers and ingresses. Does not import Ray."""

from deployments.replicas.placement import GangPlacement, Tier, gang_placement
from serve.settings.config import IngressSettings, Settings, TierSettings

LEADER_CPUS = 1
"""Cores of a gang's leader, in addition to those of its ranks."""


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


def placements(settings: Settings) -> list[Tier]:
    """Everything that needs a place, for `placement.shortage`: the tiers, and the ingress if it
    asks for cores or labels."""
    tiers = [(tier.name, tier_placement(tier), tier.min_replicas) for tier in settings.tiers]
    ingress = settings.ingress
    if ingress.cpus or ingress.labels:
        tiers.append(("ingress", _ingress_placement(ingress), ingress.replicas))
    return tiers


def _ingress_placement(ingress: IngressSettings) -> GangPlacement:
    return GangPlacement(
        bundles=({"CPU": ingress.cpus},), labels=(dict(ingress.labels),), shard_bundles=(0,)
    )

"""What an ingress goes by. It may change at any time; a request keeps what it began with."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from deployments.entrance.canaries import Canary
from deployments.entrance.limits import IngressLimits
from deployments.entrance.tasks import RoutingOptions


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings of one ingress.

    Args:
        aliases: other model names -> names of tiers.
        limits: limits of this ingress.
        routing: how chunks are assigned to tiers.
        asleep: names of tiers that may scale to zero. Readiness checks do not wake them.
        versions: `TierSpec.version` of each tier, by its name.
        canaries: models that are tried on some of the requests for a tier or an adapter, by its
            name.
    """

    aliases: Mapping[str, str]
    limits: IngressLimits
    routing: RoutingOptions
    asleep: frozenset[str] = frozenset()
    versions: Mapping[str, str] = field(default_factory=dict)
    canaries: Mapping[str, Canary] = field(default_factory=dict)

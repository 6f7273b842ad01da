"""Converts settings to the options of the application's deployments. Does not import Ray.

The options are in the form of Serve's `DeploymentSchema`. Serve replaces a replica if the options
of its actor or its placement change, and tells it of all others (`user_config`). So what a tier's
engine is made of is among the options of its actors, in their environment, and nothing else is.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from deployments.fleet import TierFacts, deployment_name
from deployments.planning.accelerators import CPU
from deployments.tier import SPEC_VARIABLE
from serve.settings.api_keys import key_sums
from serve.settings.config import LimitSettings, Settings, TierSettings
from serve.settings.tier_facts import expected_rtfx, tier_facts
from serve.settings.tier_placement import LEADER_CPUS, tier_placement
from serve.settings.tier_spec import tier_spec

INGRESS_NAME = "Ingress"
BOARD_NAME = "Board"
EXPECTED_RTFX = "expected_rtfx"
"""In the `user_config` of board and ingresses: the planner's speed of each tier's replicas. It
takes torch to find, which they do without."""
RESTART_OPTIONS = (
    "ray_actor_options",
    "placement_group_bundles",
    "placement_group_bundle_label_selector",
    "placement_group_strategy",
)
"""Serve replaces a deployment's replicas if one of these changes (`ray/serve/_private/version.py`,
2.60)."""
UNBOUNDED = 1_000_000
"""`max_ongoing_requests` of replicas. Their own queue is fair, while Serve's is first come, first
served. What the ingress admits bounds the queue."""
_SPARE_REQUESTS = 256
"""Requests beyond those that an ingress admits, so that it can refuse requests itself and answer
probes."""
_HEALTH_PERIOD_S = 5.0
_GANG_HEALTH_PERIOD_S = 1.0
"""A gang may lose a rank while it is idle. Only the health check would tell Serve."""
_LOOK_BACK_S = 11.0
"""Serve asks for metrics five times in this period. It warns of less than its default of 10 s."""
_ONE_MORE = 1
"""`max_surge_percent` that allows one replica more than the target, for targets up to 100."""


def deployment_options(settings: Settings, surge: bool = False) -> dict[str, dict[str, Any]]:
    """The options of each deployment, by its name.

    Args:
        surge: whether a tier's new replica starts before an old one stops. Where there is no room
            for one more, its update waits for room.

    Raises:
        ConfigError, ShardingError: a tier's price is unknown, or its model cannot be split.
    """
    tiers = {deployment_name(tier.name): _tier(tier, settings, surge) for tier in settings.tiers}
    return {INGRESS_NAME: _ingress(settings), BOARD_NAME: _board(settings), **tiers}


def _ingress(settings: Settings) -> dict[str, Any]:
    limits = settings.limits
    return {
        "num_replicas": settings.ingress.replicas,
        "max_ongoing_requests": _ongoing(limits),
        "graceful_shutdown_timeout_s": limits.deadline_s,
        "health_check_period_s": _HEALTH_PERIOD_S,
        "ray_actor_options": _beside_ingress(settings, settings.ingress.cpus),
        # Where an ingress reserves nothing, there is room for one more.
        "max_surge_percent": 0 if settings.ingress.cpus else _ONE_MORE,
        "user_config": {**_sections(settings), EXPECTED_RTFX: _expected_rtfx(settings)},
    }


def _ongoing(limits: LimitSettings) -> int:
    most = limits.max_requests + limits.max_uploads + limits.max_live_sessions
    return most + _SPARE_REQUESTS


def _sections(settings: Settings) -> dict[str, Any]:
    """The sections that an ingress reads, with the hashes of keys instead of the keys, because
    Serve's dashboard shows all of it."""
    left_out = {"http", "ingress", "autoscaling", "auth", "log_level"}
    sections = settings.model_dump(mode="json", exclude=left_out, exclude_defaults=True)
    # Tiers may be the default ones; the ingress must not depend on which these are.
    sections["tiers"] = [t.model_dump(mode="json", exclude_defaults=True) for t in settings.tiers]
    if not settings.http.page:
        sections["http"] = {"page": False}
    if keys := key_sums(settings.auth):
        sections["auth"] = {"api_keys_sha256": list(keys)}
    return sections


def _board(settings: Settings) -> dict[str, Any]:
    scaling = {
        **settings.autoscaling.model_dump(),
        "queue_wait_s": settings.slo.queue_wait_s,
        "batch_wait_s": settings.slo.batch_wait_s,
    }
    return {
        "max_ongoing_requests": UNBOUNDED,
        "health_check_period_s": _HEALTH_PERIOD_S,
        "ray_actor_options": _beside_ingress(settings, 0),
        # There is one board, but Serve asks only autoscaled deployments for metrics.
        "autoscaling_config": _autoscaling(1, 1),
        "user_config": {
            "scaling": scaling,
            "facts": [_plain(tier_facts(tier)) for tier in settings.tiers],
            EXPECTED_RTFX: _expected_rtfx(settings),
            "canaries": settings.routing.model_dump(mode="json")["canary"],
        },
    }


def sections_of(user_config: Mapping[str, Any]) -> dict[str, Any]:
    """The sections of the settings in an ingress's `user_config`."""
    return {name: section for name, section in user_config.items() if name != EXPECTED_RTFX}


def _expected_rtfx(settings: Settings) -> dict[str, float]:
    return {tier.name: expected_rtfx(tier) for tier in settings.tiers}


def _plain(facts: TierFacts) -> dict[str, Any]:
    values = asdict(facts)
    languages = facts.languages
    return {**values, "languages": None if languages is None else sorted(languages)}


def _beside_ingress(settings: Settings, cpus: float) -> dict[str, Any]:
    labels = settings.ingress.labels
    return {"num_cpus": cpus, **({"label_selector": dict(labels)} if labels else {})}


def _tier(tier: TierSettings, settings: Settings, surge: bool) -> dict[str, Any]:
    return {
        "max_ongoing_requests": UNBOUNDED,
        "graceful_shutdown_timeout_s": settings.limits.deadline_s,
        "health_check_period_s": _GANG_HEALTH_PERIOD_S if tier.is_sharded else _HEALTH_PERIOD_S,
        "max_surge_percent": _ONE_MORE if surge else 0,
        # Also for a fixed number of replicas. How many deployments have this option is part of the
        # application's version (`get_app_code_version`): with a change all would be replaced.
        "autoscaling_config": _autoscaling(
            tier.min_replicas, tier.max_replicas, target_ongoing_requests=tier.batch_size
        ),
        **_resources(tier),
    }


def _resources(tier: TierSettings) -> dict[str, Any]:
    """Options that tell Serve where to place a replica. For a gang these are its bundles; the first
    one also holds the replica itself."""
    placement = tier_placement(tier)
    labels = [dict(bundle) for bundle in placement.labels]
    environment = {"env_vars": {SPEC_VARIABLE: tier_spec(tier).to_json()}}
    if tier.is_sharded:
        return {
            "ray_actor_options": {"num_cpus": LEADER_CPUS, "runtime_env": environment},
            "placement_group_bundles": [dict(bundle) for bundle in placement.bundles],
            **({"placement_group_bundle_label_selector": labels} if any(labels) else {}),
            "placement_group_strategy": placement.strategy,
        }
    options: dict[str, Any] = {"num_cpus": tier.cpus}
    if tier.accelerators[0] != CPU:
        options["num_gpus"] = 1
    if labels[0]:
        options["label_selector"] = labels[0]
    return {"ray_actor_options": {**options, "runtime_env": environment}}


def _autoscaling(min_replicas: int, max_replicas: int, **more: Any) -> dict[str, Any]:
    return {
        "min_replicas": min_replicas,
        "max_replicas": max_replicas,
        # For Serve's own policy, which applies if the application runs without a config.
        **more,
        # No delays here: the board waits before it decides.
        "upscale_delay_s": 0.0,
        "downscale_delay_s": 0.0,
        "downscale_to_zero_delay_s": 0.0,
        "look_back_period_s": _LOOK_BACK_S,
    }

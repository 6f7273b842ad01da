"""Builds the Ray Serve application, with its deployments, from the settings. Wiring only.

Use it with `serve run serve.app:build config=murmur.yaml`, with `import_path: serve.app:build` in a
Serve config (`murmur build` prints one), or with `ray.serve.run(build({}))`.
"""

from pathlib import Path
from typing import Any, cast

from ray import serve as ray_serve
from ray.serve import Application, Deployment
from ray.serve.config import AutoscalingConfig

from deployments.audio.reading import AudioLimits
from deployments.entrance.limits import IngressLimits
from deployments.entrance.tasks import RoutingOptions
from deployments.fleet import Priority
from deployments.planning.accelerators import CPU
from deployments.replicas.replica import Replica
from deployments.routing.board import Board
from deployments.routing.scaling_policy import deployment_name
from deployments.transcript.cascade import CascadeOptions
from serve.http.routes import HttpIngress
from serve.settings.api_keys import key_sums
from serve.settings.check import check_settings
from serve.settings.config import Settings, TierSettings
from serve.settings.loading import load_settings
from serve.settings.tier_facts import expected_rtfx, tier_facts
from serve.settings.tier_placement import LEADER_CPUS, tier_placement
from serve.settings.tier_spec import tier_spec

INGRESS_NAME = "Ingress"
BOARD_NAME = "Board"
_UNBOUNDED = 1_000_000
"""`max_ongoing_requests` of replicas. Their own queue is fair, while Serve's is first come, first
served. What the ingress admits bounds the queue."""
_SPARE_REQUESTS = 256
"""Requests beyond those that an ingress admits, so that it can refuse requests itself and answer
probes."""
_HEALTH_PERIOD_S = 5.0
_LOOK_BACK_S = 11.0
"""Serve asks for metrics five times in this period. It warns of less than its default of 10 s."""
_GANG_HEALTH_PERIOD_S = 1.0
"""A gang may lose a rank while it is idle. Only the health check would tell Serve."""


def build(args: dict[str, Any]) -> Application:
    """Ray's application builder.

    Args:
        args: sections of the settings, and `config`, the path of a settings file on the machine
            where this runs.

    Raises:
        ConfigError: the settings are wrong.
    """
    sections = {name: value for name, value in args.items() if name != "config"}
    path = args.get("config")
    return assemble(load_settings(None if path is None else Path(path), values=sections))


def assemble(settings: Settings, replica: type[Replica] = Replica) -> Application:
    """Build the application for these settings.

    Args:
        replica: class of the tiers' replicas.

    Raises:
        ConfigError: the settings ask for something impossible.
    """
    check_settings(settings)
    routing = _routing(settings)
    board = _board(settings, routing)
    tiers = {tier.name: _tier(tier, settings, replica, board) for tier in settings.tiers}
    limits = settings.limits
    deployment = _deployment(ray_serve.ingress()(HttpIngress)).options(
        name=INGRESS_NAME,
        num_replicas=settings.ingress.replicas,
        max_ongoing_requests=limits.max_requests + _SPARE_REQUESTS,
        graceful_shutdown_timeout_s=limits.deadline_s,
        health_check_period_s=_HEALTH_PERIOD_S,
        ray_actor_options=_beside_ingress(settings, settings.ingress.cpus),
    )
    max_upload_bytes = round(limits.max_upload_mb * 1e6)
    ingress_limits = IngressLimits(
        audio=AudioLimits(max_duration_s=limits.max_duration_s),
        max_chunks_in_flight=limits.max_chunks_in_flight,
        max_requests=limits.max_requests,
        max_queued_audio_s=limits.max_queued_audio_s,
        deadline_s=limits.deadline_s,
    )
    keys = key_sums(settings.auth)
    asleep = frozenset(tier.name for tier in settings.tiers if tier.min_replicas == 0)
    return deployment.bind(
        tiers,
        settings.aliases,
        ingress_limits,
        routing,
        board,
        asleep,
        max_upload_bytes,
        keys,
        settings.http.page,
    )


def _routing(settings: Settings) -> RoutingOptions:
    slo, cascade = settings.slo, settings.routing.cascade
    # Half of the objective: the rest is for delays not yet known when a chunk is sent.
    waits_s = (slo.realtime_wait_s / 2, slo.queue_wait_s / 2, slo.batch_wait_s / 2)
    thresholds = cascade.model_dump(exclude={"enabled"})
    return RoutingOptions(
        facts=tuple(tier_facts(tier) for tier in settings.tiers),
        expected_rtfx={tier.name: expected_rtfx(tier) for tier in settings.tiers},
        quality=settings.routing.quality,
        cascade=CascadeOptions(**thresholds) if cascade.enabled else None,
        patience_s=dict(zip(Priority, waits_s, strict=True)),
    )


def _board(settings: Settings, routing: RoutingOptions) -> Application:
    deployment = _deployment(Board).options(
        name=BOARD_NAME,
        max_ongoing_requests=_UNBOUNDED,
        health_check_period_s=_HEALTH_PERIOD_S,
        ray_actor_options=_beside_ingress(settings, 0),
        # There is one board, but Serve asks only autoscaled deployments for metrics.
        autoscaling_config=AutoscalingConfig(
            min_replicas=1, max_replicas=1, look_back_period_s=_LOOK_BACK_S
        ),
        user_config={
            **settings.autoscaling.model_dump(),
            "queue_wait_s": settings.slo.queue_wait_s,
            "batch_wait_s": settings.slo.batch_wait_s,
        },
    )
    return deployment.bind(routing.facts, routing.expected_rtfx)


def _beside_ingress(settings: Settings, cpus: float) -> dict[str, Any]:
    labels = settings.ingress.labels
    return {"num_cpus": cpus, **({"label_selector": labels} if labels else {})}


def _deployment(kind: Any) -> Deployment:
    return cast(Deployment, ray_serve.deployment(kind))  # its type covers decorators, too


def _tier(
    tier: TierSettings, settings: Settings, replica: type[Replica], board: Application
) -> Application:
    deployment = _deployment(replica).options(
        name=deployment_name(tier.name),
        max_ongoing_requests=_UNBOUNDED,
        graceful_shutdown_timeout_s=settings.limits.deadline_s,
        health_check_period_s=_GANG_HEALTH_PERIOD_S if tier.is_sharded else _HEALTH_PERIOD_S,
        **_resources(tier),
        **_replicas(tier),
    )
    return deployment.bind(tier_spec(tier), board)


def _resources(tier: TierSettings) -> dict[str, Any]:
    """Options that tell Serve where to place a replica. For a gang these are its bundles; the first
    one also holds the replica itself."""
    placement = tier_placement(tier)
    labels = list(placement.labels)
    if tier.is_sharded:
        return {
            "placement_group_bundles": list(placement.bundles),
            "placement_group_bundle_label_selector": labels if any(labels) else None,
            "placement_group_strategy": placement.strategy,
            "ray_actor_options": {"num_cpus": LEADER_CPUS},
        }
    options: dict[str, Any] = {"num_cpus": tier.cpus}
    if tier.accelerators[0] != CPU:
        options["num_gpus"] = 1
    if labels[0]:
        options["label_selector"] = labels[0]
    return {"ray_actor_options": options}


def _replicas(tier: TierSettings) -> dict[str, Any]:
    if tier.min_replicas == tier.max_replicas:
        return {"num_replicas": tier.min_replicas}
    return {
        "autoscaling_config": AutoscalingConfig(
            min_replicas=tier.min_replicas,
            max_replicas=tier.max_replicas,
            # For Serve's own policy, which applies if the application runs without a config.
            target_ongoing_requests=tier.batch_size,
            # No delays here: the board waits before it decides.
            upscale_delay_s=0.0,
            downscale_delay_s=0.0,
            downscale_to_zero_delay_s=0.0,
            look_back_period_s=_LOOK_BACK_S,
        )
    }

"""Converts settings to the rules that an ingress goes by."""

from collections.abc import Mapping

from deployments.audio.reading import AudioLimits
from deployments.entrance.canaries import Canary
from deployments.entrance.limits import IngressLimits, LiveLimits
from deployments.entrance.rules import Rules
from deployments.entrance.tasks import RoutingOptions
from deployments.fleet import Priority
from deployments.transcript.cascade import CascadeOptions
from serve.http.receiving import UploadLimits
from serve.settings.config import LimitSettings, Settings
from serve.settings.tier_facts import tier_facts
from serve.settings.tier_spec import tier_spec


def rules_of(settings: Settings, expected_rtfx: Mapping[str, float]) -> Rules:
    """
    Args:
        expected_rtfx: speed of a replica of each tier, used until the board has answered.

    Raises:
        ConfigError: a tier's price is unknown.
    """
    return Rules(
        aliases=dict(settings.aliases),
        limits=_limits(settings.limits),
        routing=_routing(settings, expected_rtfx),
        asleep=frozenset(tier.name for tier in settings.tiers if tier.min_replicas == 0),
        versions={tier.name: tier_spec(tier).version for tier in settings.tiers},
        canaries={
            name: Canary(canary.to, canary.share, canary.shadow)
            for name, canary in settings.routing.canary.items()
        },
    )


def upload_limits(limits: LimitSettings) -> UploadLimits:
    """What an ingress receives at once."""
    return UploadLimits(
        max_uploads=limits.max_uploads,
        max_uploads_per_caller=limits.max_uploads_per_caller,
        max_bytes=limits.max_uploading_mb * 1e6,
        min_bytes_per_s=limits.min_upload_kb_per_s * 1e3,
    )


def _limits(limits: LimitSettings) -> IngressLimits:
    return IngressLimits(
        audio=AudioLimits(max_duration_s=limits.max_duration_s),
        max_chunks_in_flight=limits.max_chunks_in_flight,
        max_requests=limits.max_requests,
        max_queued_audio_s=limits.max_queued_audio_s,
        deadline_s=limits.deadline_s,
        live=LiveLimits(limits.max_live_sessions, limits.max_live_session_s, limits.live_idle_s),
    )


def _routing(settings: Settings, expected_rtfx: Mapping[str, float]) -> RoutingOptions:
    slo, cascade = settings.slo, settings.routing.cascade
    # Half of the objective: the rest is for delays not yet known when a chunk is sent.
    waits_s = (slo.realtime_wait_s / 2, slo.queue_wait_s / 2, slo.batch_wait_s / 2)
    thresholds = cascade.model_dump(exclude={"enabled"})
    return RoutingOptions(
        facts=tuple(tier_facts(tier) for tier in settings.tiers),
        expected_rtfx=expected_rtfx,
        quality=settings.routing.quality,
        cascade=CascadeOptions(**thresholds) if cascade.enabled else None,
        patience_s=dict(zip(Priority, waits_s, strict=True)),
        adapters={name: tier.name for tier in settings.tiers for name in tier.adapters},
    )

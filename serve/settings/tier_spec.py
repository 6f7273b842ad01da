"""Converts a tier's settings to the spec that its replicas are given. Does not import Ray."""

from deployments.planning.accelerators import CPU
from deployments.tier import Sharding, TierSpec
from serve.settings.config import TierSettings
from serve.settings.tier_placement import tier_placement


def tier_spec(tier: TierSettings) -> TierSpec:
    """What a replica of a tier runs."""
    sharding = None
    if tier.is_sharded:
        sharding = Sharding(
            tensor_parallel=tier.tensor_parallel,
            accelerators=tier.accelerators,
            stage_layers=tier.stage_layers,
            shard_bundles=tier_placement(tier).shard_bundles,
            silent_s=tier.shard_silent_s,
        )
    return TierSpec(
        name=tier.name,
        model=tier.model,
        device="cpu" if tier.accelerators[0] == CPU else "cuda",
        precision=tier.precision,
        max_slots=tier.batch_size,
        threads=tier.cpus,
        sharding=sharding,
        cross_attention=tier.cross_attention,
        int8_self_attention=tier.int8_self_attention,
        encode_batch=tier.encode_batch,
        max_length=tier.max_length,
        offload=tier.offload,
        window=tier.window,
        threads_when_idle=tier.cpus_when_idle,
        adapters=tuple(tier.adapters.items()),
    )

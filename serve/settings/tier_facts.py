"""Converts a tier's settings to what the router knows of it: quality, price and speed. Where the
settings do not say, the names of its model and devices decide."""

from deployments.fleet import TierFacts
from deployments.planning.accelerators import CPU, device_model, shared_arithmetic
from deployments.planning.gpu_catalogue import gpu_catalogue
from deployments.tier import Sharding
from engine.config import CHUNK_LENGTH_S
from engine.model_sizes import known_sizes
from engine.weights.names import short_name
from serve.settings.config import ConfigError, TierSettings
from serve.settings.tier_placement import tier_placement
from serve.settings.tier_spec import tier_spec

_QUALITIES = {
    "tiny": 1,
    "base": 2,
    "small": 3,
    "medium": 4,
    "distil-small": 3,
    "distil-medium": 4,
    "distil-large-v2": 5,
    "distil-large-v3": 5,
    "distil-large-v3.5": 5,
    "turbo": 5,
    "large-v1": 6,
    "large-v2": 6,
    "large-v3": 6,
}
_ONE_LANGUAGE = ("distil-large-v2", "distil-large-v3", "distil-large-v3.5")
_NEVER_TRANSLATE = ("turbo", *_ONE_LANGUAGE)
_USD_PER_CORE_HOUR = 0.045
"""Half the price of a c7i.large, which has two cores. `TierSettings.usd_per_hour` documents it."""
_GPU_START_S, _CPU_START_S = 150.0, 20.0
_TOKENS_PER_WINDOW = 100.0
_UNKNOWN_RTFX = 50.0
"""Assumed speed of a model of unknown size, until it has been measured."""


def quality_of(tier: TierSettings) -> int | None:
    """A tier's quality; None if it takes no part in `auto`."""
    return tier.quality or _QUALITIES.get(_base_name(tier))


def is_english_only(tier: TierSettings) -> bool:
    """Whether a tier's model knows only English, by its name."""
    short = short_name(tier.model)
    return short.endswith(".en") or short in _ONE_LANGUAGE


def tier_facts(tier: TierSettings) -> TierFacts:
    """What the router knows of a tier.

    Raises:
        ConfigError: the price of its devices is not known.
    """
    english = is_english_only(tier)
    languages = tier.languages or (("en",) if english else ())
    translates = not english and short_name(tier.model) not in _NEVER_TRANSLATE
    is_gpu = tier.accelerators[0] != CPU
    cold_start_s = tier.cold_start_s
    if cold_start_s is None:
        cold_start_s = _GPU_START_S if is_gpu else _CPU_START_S
    return TierFacts(
        name=tier.name,
        quality=quality_of(tier) or 0,
        languages=frozenset(languages) or None,
        translates=translates if tier.translates is None else tier.translates,
        accelerator=tier.accelerators[0],
        usd_per_hour=_usd_per_hour(tier),
        min_replicas=tier.min_replicas,
        max_replicas=tier.max_replicas,
        slots=tier.batch_size,
        cold_start_s=cold_start_s,
        machine=str(tier_placement(tier)),
        max_slot_groups=tier.pipeline_parallel,
        adapters=tuple(tier.adapters),
    )


def expected_rtfx(tier: TierSettings) -> float:
    """A replica's speed (RTFx), assumed until it has been measured.

    Raises:
        ShardingError: the model cannot be split like this.
    """
    if tier.rtfx is not None:
        return tier.rtfx
    dims = known_sizes(tier.model)
    if dims is None:
        return _UNKNOWN_RTFX
    # These import torch. Others use this module, too, and do without.
    from deployments.planning.planner import REACHED
    from deployments.replicas.gang_mesh import gang_config, make_mesh
    from engine.parallel.cost import Workload, stage_costs

    spec = tier_spec(tier)
    one_device = Sharding(1, tier.accelerators, (), (0,), tier.shard_silent_s)
    sharding = spec.sharding or one_device
    config = gang_config(spec, sharding)
    mesh = make_mesh(dims, sharding, config)
    costs = stage_costs(
        dims,
        mesh.stages,
        [device_model(name, config.precision) for name in tier.accelerators],
        tier.tensor_parallel,
        config.formats_on(shared_arithmetic(tier.accelerators)),
        Workload(config.max_slots, _TOKENS_PER_WINDOW),
        config.positions(dims),
        config.encode_limit,
        config.offload,
    )
    cores = tier.cpus if tier.accelerators[0] == CPU else 1
    return cores * REACHED * CHUNK_LENGTH_S / max(cost.window_s for cost in costs)


def _base_name(tier: TierSettings) -> str:
    return short_name(tier.model).removesuffix(".en")


def _usd_per_hour(tier: TierSettings) -> float:
    if tier.usd_per_hour is not None:
        return tier.usd_per_hour
    is_spot = bool(tier.spot)
    usd = 0.0
    for name in tier.accelerators:
        if name == CPU:
            usd += _USD_PER_CORE_HOUR * tier.cpus * tier.tensor_parallel
            continue
        known = gpu_catalogue().find(name)
        instance = None if known is None else gpu_catalogue().cheapest(known.name, is_spot)
        price = None if instance is None else instance.usd_per_gpu_hour(is_spot)
        if price is None:
            kind = "spot price" if is_spot else "price"
            raise ConfigError(f"usd_per_hour must be set: no {kind} of {name!r} is known")
        usd += price * tier.tensor_parallel
    return usd

"""Looks at settings before they are deployed, on the machines that would run them."""

from collections.abc import Collection, Mapping, Sequence

from deployments.fleet import deployment_name
from deployments.replicas.inspection import Inspection, inspect_tier
from engine.fit import gigabytes
from serve.commands.connection import ClusterError, say
from serve.settings.config import Settings, TierSettings
from serve.settings.tier_placement import tier_placement
from serve.settings.tier_spec import tier_spec

_TIMEOUT_S = 1800.0
"""Longest wait for a look, which may download weights."""


def tiers_of(settings: Settings, deployments: Collection[str] | None) -> list[TierSettings]:
    """The tiers of these deployments; None: all."""
    return [
        tier
        for tier in settings.tiers
        if deployments is None or deployment_name(tier.name) in deployments
    ]


def look_here(tiers: Sequence[TierSettings]) -> dict[str, Inspection]:
    """Look at tiers on this machine, by name.

    Raises:
        ClusterError: a tier could not start, or all tiers together need more memory than there is.
    """
    _say_looking(tiers)
    seen = {tier.name: inspect_tier(tier_spec(tier), tier.accelerators) for tier in tiers}
    _check(seen)
    return seen


def look_there(tiers: Sequence[TierSettings]) -> dict[str, Inspection]:
    """Look at tiers on nodes of the connected cluster that may run them, by name. A tier for which
    there is no such node yet is left out.

    Raises:
        ClusterError: a tier could not start, or a node cannot look.
    """
    import ray
    from ray.exceptions import GetTimeoutError, RayError

    from deployments.replicas.cluster_nodes import cluster_nodes
    from deployments.replicas.placement import suits

    _say_looking(tiers)
    nodes = cluster_nodes()
    looks = {}
    for tier in tiers:
        labels = tier_placement(tier).labels[0]
        if any(suits(labels, node.labels) for node in nodes):
            task = ray.remote(inspect_tier).options(
                num_cpus=0, max_retries=0, **({"label_selector": dict(labels)} if labels else {})
            )
            looks[tier.name] = task.remote(tier_spec(tier), tier.accelerators)
    try:
        found = ray.get([*looks.values()], timeout=_TIMEOUT_S)
    except GetTimeoutError as error:
        raise ClusterError(f"no node has looked at the models in {_TIMEOUT_S:g} s") from error
    except RayError as error:
        raise ClusterError(f"a node cannot look at the models: {_end_of(error)}") from error
    seen = dict(zip(looks, found, strict=True))
    _check(seen)
    return seen


def check_memory(tiers: Sequence[TierSettings], seen: Mapping[str, Inspection]) -> None:
    """Check that the first replicas of all tiers fit into the memory that this machine has left.

    Raises:
        ClusterError: they do not.
    """
    needs = {
        tier.name: seen[tier.name].needed_bytes * tier.min_replicas
        for tier in tiers
        if tier.name in seen
    }
    needed = sum(needs.values())
    free = min((look.free_bytes for look in seen.values()), default=needed)
    if needed > free:
        terms = ", ".join(f"{name} {gigabytes(n)}" for name, n in needs.items() if n)
        raise ClusterError(
            f"the tiers need {gigabytes(needed)} of memory ({terms}), {gigabytes(free)} are free: "
            "fewer replicas, a smaller batch_size or a smaller model"
        )


def with_room(seen: Mapping[str, Inspection]) -> set[str]:
    """Tiers of which the machines can hold one more replica each, as far as memory goes. The
    smallest come first."""
    left = {look.machine: look.free_bytes for look in seen.values()}
    fitting = set()
    for name, look in sorted(seen.items(), key=lambda item: item[1].needed_bytes):
        left[look.machine] -= look.needed_bytes
        if left[look.machine] >= 0:
            fitting.add(name)
    return fitting


def _check(seen: Mapping[str, Inspection]) -> None:
    faults = [f"tier {name}: {look.fault}" for name, look in seen.items() if look.fault]
    if faults:
        raise ClusterError("\n".join(faults))


def _say_looking(tiers: Sequence[TierSettings]) -> None:
    if tiers:
        say(f"looking at {', '.join(dict.fromkeys(tier.model for tier in tiers))}")


def _end_of(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__

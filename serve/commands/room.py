"""Whether the connected cluster has room for what is to be deployed: resources and ports."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from deployments.replicas.placement import NodeResources, Tier, shortage
from deployments.replicas.ports import port_holder
from serve.commands.application import replica_nodes
from serve.commands.connection import ClusterError, say
from serve.settings.config import HttpSettings, Settings
from serve.settings.tier_placement import placements, tier_placement

_PORT_TIMEOUT_S = 60.0


def check_room(settings: Settings, before: Mapping[str, Any] | None) -> None:
    """Check that all replicas fit, because Ray lets one that fits nowhere wait silently for ever.

    Args:
        before: the application that is deployed: what its replicas hold counts as free.

    Raises:
        ClusterError: a replica fits nowhere, and the cluster cannot grow.
    """
    from deployments.replicas.cluster_nodes import cluster_nodes, may_grow

    wanted, whole = placements(settings), cluster_nodes()
    faults = shortage(wanted, whole)
    if not faults:
        faults = [
            f"of what others leave free: {fault}"
            for fault in shortage(wanted, _given_back(_free(whole), before))
        ]
    if faults and not may_grow():
        raise ClusterError("\n".join(faults))
    for fault in faults:
        say(f"{fault}; waiting for nodes to join")


def tiers_with_spare_room(settings: Settings, names: Iterable[str]) -> set[str]:
    """Those of these tiers that fit once more, all together, beside everything that runs."""
    from deployments.replicas.cluster_nodes import cluster_nodes, may_grow

    if may_grow():
        return set(names)
    nodes = _free(cluster_nodes())
    fitting: list[Tier] = []
    for tier in settings.tiers:
        once_more = (tier.name, tier_placement(tier), 1)
        if tier.name in names and not shortage([*fitting, once_more], nodes):
            fitting.append(once_more)
    return {name for name, _, _ in fitting}


def check_port_here(http: HttpSettings) -> None:
    """Check that nobody on this machine listens on the port.

    Raises:
        ClusterError: somebody does; or this machine cannot listen there.
    """
    if fault := _port_fault(http.host, http.port):
        raise ClusterError(f"{fault}: choose another with --port or http.port")


def check_ports_there(http: HttpSettings) -> None:
    """As `check_port_here`, on every node of the connected cluster."""
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    faults = {}
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        if node["Alive"]:
            here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task = ray.remote(_port_fault).options(
                num_cpus=0, max_retries=0, scheduling_strategy=here
            )
            faults[node["NodeManagerAddress"]] = task.remote(http.host, http.port)
    try:
        found = dict(zip(faults, ray.get([*faults.values()], timeout=_PORT_TIMEOUT_S), strict=True))
    except RayError as error:
        raise ClusterError(f"a node cannot look at its ports: {error}") from error
    if lines := [f"{address}: {fault}" for address, fault in found.items() if fault]:
        raise ClusterError("\n".join(f"{line}: choose another with http.port" for line in lines))


def _port_fault(host: str, port: int) -> str:
    try:
        holder = port_holder(host, port)
    except OSError as error:
        return f"cannot listen on {host}:{port}: {error.strerror or error}"
    return f"port {port} is busy ({holder})" if holder is not None else ""


def _free(nodes: Iterable[NodeResources]) -> list[NodeResources]:
    """The nodes with what nobody holds of them."""
    from ray._private.state import available_resources_per_node

    free = available_resources_per_node()  # type: ignore[no-untyped-call]
    return [replace(node, resources=dict(free.get(node.node_id, {}))) for node in nodes]


def _given_back(
    nodes: Iterable[NodeResources], before: Mapping[str, Any] | None
) -> list[NodeResources]:
    """The nodes as they are once the deployed application's replicas are gone."""
    held: dict[str, Counter[str]] = {}
    options = {each["name"]: each for each in (before or {}).get("deployments") or ()}
    for deployment, node_ids in replica_nodes().items():
        for node_id in node_ids:
            held.setdefault(node_id, Counter()).update(_holds(options.get(deployment, {})))
    return [
        replace(node, resources=dict(Counter(node.resources) + held.get(node.node_id, Counter())))
        for node in nodes
    ]


def _holds(options: Mapping[str, Any]) -> Counter[str]:
    """What a replica holds. Of a gang all of it counts on the leader's node."""
    if bundles := options.get("placement_group_bundles"):
        return sum((Counter(bundle) for bundle in bundles), Counter())
    actor = options.get("ray_actor_options", {})
    return Counter({"CPU": actor.get("num_cpus") or 0, "GPU": actor.get("num_gpus") or 0})

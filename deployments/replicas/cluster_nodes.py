"""Queries about the nodes of the Ray cluster that this process has joined."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray._private import ray_constants

# `ray drain-node` itself calls this; Ray has no public API to drain a node.
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.core.generated.autoscaler_pb2 import DrainNodeReason  # type: ignore[attr-defined]
from ray.experimental.internal_kv import _internal_kv_get

from deployments.replicas.placement import NodeResources

_NODE_GROUP_LABEL = "ray.io/node-group"
_UNTYPED_NODE = "node_"


def cluster_nodes() -> list[NodeResources]:
    """The nodes that are alive, named by address. If nodes share an address, their names also have
    the start of their id."""
    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    sharing = Counter(node["NodeManagerAddress"] for node in alive)
    nodes = [
        NodeResources(
            name=_name_of(node, sharing[node["NodeManagerAddress"]]),
            resources=dict(node["Resources"]),
            labels=dict(node["Labels"]),
            node_id=node["NodeID"],
        )
        for node in alive
    ]
    return sorted(nodes, key=lambda node: node.name)


def _name_of(node: Mapping[str, Any], n_sharing: int) -> str:
    address = str(node["NodeManagerAddress"])
    return address if n_sharing == 1 else f"{address}/{node['NodeID'][:8]}"


def may_grow() -> bool:
    """Whether nodes may join by themselves, so that resources that are missing now may come.

    True if a cluster launcher or KubeRay started a node, or if an autoscaler runs.
    """
    if any(_NODE_GROUP_LABEL in node.labels for node in cluster_nodes()):
        return True
    return is_autoscaler_v2(fetch_from_server=True) or _has_node_types()


def _has_node_types() -> bool:
    """Whether Ray's older autoscaler reports node types. It lists untyped nodes by their id."""
    status = _internal_kv_get(ray_constants.DEBUG_AUTOSCALING_STATUS)
    report = (json.loads(status).get("autoscaler_report") if status else None) or {}
    return any(not name.startswith(_UNTYPED_NODE) for name in report.get("active_nodes", {}))


@dataclass(frozen=True, slots=True)
class NodeRef:
    """A node as Ray's control service (GCS) knows it.

    Attributes:
        gcs_address: of the control service, host:port.
        node_id: in hexadecimal digits.
    """

    gcs_address: str
    node_id: str


def this_node() -> NodeRef:
    """The node of this process, which must be connected to its cluster."""
    context = ray.get_runtime_context()
    return NodeRef(context.gcs_address, context.get_node_id())


def drain(node: NodeRef, deadline: float, message: str) -> str | None:
    """Ask Ray to move everything that runs on a node elsewhere, before the node goes.

    This process need not be connected. On the node itself it had better not be: an idle node goes
    at once, and a process that is still connected would wait for it.

    Args:
        deadline: when the node goes, in seconds since 1970.
        message: the reason to give to Ray.

    Returns:
        Why Ray refuses; None if it accepts.

    Raises:
        RpcError: the control service does not answer.
    """
    is_accepted, refusal = GcsClient(address=node.gcs_address).drain_node(
        node.node_id,
        DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"),
        message,
        round(deadline * 1000),
    )
    return None if is_accepted else str(refusal)

"""What is asked of Ray about its nodes."""

import json
from typing import Any

import pytest
import ray

from deployments.replicas import cluster_nodes
from deployments.replicas.cluster_nodes import cluster_nodes as nodes
from deployments.replicas.cluster_nodes import may_grow
from deployments.replicas.placement import ACCELERATOR_LABEL


def ray_node(address: str, node_id: str, alive: bool = True, **labels: str) -> dict[str, Any]:
    return {
        "NodeID": node_id,
        "Alive": alive,
        "NodeManagerAddress": address,
        "Resources": {"CPU": 4.0, "GPU": 1.0, "accelerator_type:L4": 1.0},
        "Labels": {ACCELERATOR_LABEL: "L4", **labels},
    }


@pytest.fixture
def nodes_of_ray(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    nodes = [
        ray_node("10.0.0.9", "c" * 20),
        ray_node("10.0.0.1", "a" * 20),
        ray_node("10.0.0.9", "d" * 20, alive=False),
    ]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    return nodes


def test_nodes_that_live(nodes_of_ray: list[dict[str, Any]]) -> None:
    found = nodes()
    assert [each.name for each in found] == ["10.0.0.1", "10.0.0.9"]
    assert found[0].resources["GPU"] == 1.0
    assert found[0].labels == {ACCELERATOR_LABEL: "L4"}


def test_nodes_of_one_address_are_told_apart(nodes_of_ray: list[dict[str, Any]]) -> None:
    nodes_of_ray.append(ray_node("10.0.0.9", "b" * 20))
    names = [each.name for each in nodes()]
    assert names == ["10.0.0.1", "10.0.0.9/bbbbbbbb", "10.0.0.9/cccccccc"]


def _status(*types: str) -> bytes:
    return json.dumps({"autoscaler_report": {"active_nodes": dict.fromkeys(types, 1)}}).encode()


@pytest.mark.parametrize(
    ("status", "is_v2", "grows"),
    [
        (None, False, False),
        (b"{}", False, False),
        (_status("node_" + "a" * 20, "node_" + "c" * 20), False, False),
        (_status("ray.head.default"), False, True),
        (None, True, True),
    ],
)
def test_whether_nodes_may_join(
    status: bytes | None,
    is_v2: bool,
    grows: bool,
    nodes_of_ray: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster_nodes, "is_autoscaler_v2", lambda fetch_from_server: is_v2)
    monkeypatch.setattr(cluster_nodes, "_internal_kv_get", lambda key: status)
    assert may_grow() == grows
    nodes_of_ray[0]["Labels"]["ray.io/node-group"] = "workers"
    assert may_grow()

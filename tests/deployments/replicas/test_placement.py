"""Bundles of gangs, and what a cluster lacks for them."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.replicas.placement import (
    ACCELERATOR_LABEL,
    MARKET_LABEL,
    GangPlacement,
    NodeResources,
    gang_placement,
    shortage,
)

L4 = {ACCELERATOR_LABEL: "L4"}
H100 = {ACCELERATOR_LABEL: "H100"}


def node(name: str, cpus: float, gpus: float = 0, labels: dict[str, str] | None = None) -> Any:
    resources = {"CPU": cpus, **({"GPU": gpus} if gpus else {}), "memory": 1e9}
    return NodeResources(name, resources, {"ray.io/node-id": name, **(labels or {})})


def gang(
    tensor_parallel: int, *accelerators: str, cpus: int = 1, cross: bool = False
) -> GangPlacement:
    return gang_placement(tensor_parallel, accelerators, cpus, 1.0, cross)


def single(accelerator: str, cpus: int = 1) -> GangPlacement:
    """A replica that is one actor."""
    return gang_placement(1, [accelerator], cpus, 0.0, False)


def test_a_bundle_for_each_stage() -> None:
    assert gang_placement(2, ["L4", "H100"], 3, 1.0, False) == GangPlacement(
        bundles=({"CPU": 7.0, "GPU": 2.0}, {"CPU": 6.0, "GPU": 2.0}),
        labels=(L4, H100),
        shard_bundles=(0, 0, 1, 1),
        strategy="PACK",
    )


def test_a_bundle_for_each_shard_where_stages_cross_nodes() -> None:
    assert gang_placement(2, ["L4", "H100"], 3, 0.5, True) == GangPlacement(
        bundles=(
            {"CPU": 3.5, "GPU": 1.0},
            {"CPU": 3.0, "GPU": 1.0},
            {"CPU": 3.0, "GPU": 1.0},
            {"CPU": 3.0, "GPU": 1.0},
        ),
        labels=(L4, L4, H100, H100),
        shard_bundles=(0, 1, 2, 3),
    )


def test_stages_without_gpus_run_anywhere() -> None:
    found = gang_placement(2, ["cpu", "L4"], 2, 1.0, False)
    assert found.bundles == ({"CPU": 5.0}, {"CPU": 4.0, "GPU": 2.0})
    assert found.labels == ({}, L4)


@pytest.mark.parametrize(("tensor_parallel", "accelerators"), [(0, ["L4"]), (1, [])])
def test_a_gang_of_nothing_is_refused(tensor_parallel: int, accelerators: list[str]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        gang_placement(tensor_parallel, accelerators, 1, 1.0, False)


@given(
    tensor_parallel=st.integers(1, 8),
    accelerators=st.lists(st.sampled_from(["cpu", "L4", "H100"]), min_size=1, max_size=5),
    cpus=st.integers(1, 8),
    cross=st.booleans(),
)
def test_every_shard_has_its_share_of_its_bundle(
    tensor_parallel: int, accelerators: list[str], cpus: int, cross: bool
) -> None:
    found = gang_placement(tensor_parallel, accelerators, cpus, 1.0, cross)
    assert len(found.shard_bundles) == tensor_parallel * len(accelerators)
    assert len(found.bundles) == len(found.labels)
    left = [dict(bundle) for bundle in found.bundles]
    left[0]["CPU"] -= 1.0
    for rank, index in enumerate(found.shard_bundles):
        accelerator = accelerators[rank // tensor_parallel]
        left[index]["CPU"] -= cpus
        if accelerator == "cpu":
            assert found.labels[index] == {}
        else:
            assert found.labels[index] == {ACCELERATOR_LABEL: accelerator}
            left[index]["GPU"] -= 1
    assert all(n == 0 for bundle in left for n in bundle.values())


def test_nothing_is_missing_where_all_fits() -> None:
    tiers = [
        ("large", gang(4, "L4", "H100", cpus=2), 2),
        ("small", single("L4"), 2),
        ("tiny", single("cpu", 4), 3),
    ]
    nodes = [
        node("a", 16, 8, L4),
        node("b", 32, 8, H100),
        node("c", 4, 2, L4),
        node("d", 12),
    ]
    # The two stages of L4 with their leaders need 18 cores, of which "a" has 16.
    assert shortage(tiers, nodes) != []
    assert shortage(tiers, [*nodes[1:], node("a", 18, 8, L4)]) == []


def test_a_stage_that_is_wider_than_every_node() -> None:
    nodes = [node("10.0.0.6", 64, 2, L4), node("10.0.0.7", 64, 4, L4), node("10.0.0.8", 64)]
    assert shortage([("large", gang(8, "L4"), 1)], nodes) == [
        "tier large: a replica needs 8 L4 GPUs on one node; the widest node (10.0.0.7) has 4: "
        "lower tensor_parallel or set allow_cross_node_tp"
    ]
    assert shortage([("large", gang(2, "L4", "L4", cross=True), 1)], nodes) == []


def test_the_stage_that_does_not_fit_is_named() -> None:
    nodes = [node("a", 64, 8, L4), node("b", 64, 4, H100)]
    assert shortage([("large", gang(8, "L4", "H100"), 1)], nodes) == [
        "tier large: stage 2 of 2 needs 8 H100 GPUs on one node; the widest node (b) has 4: "
        "lower tensor_parallel or set allow_cross_node_tp"
    ]


def test_equal_stages_that_do_not_fit_are_one_fault() -> None:
    lines = shortage([("large", gang(8, "L4", "L4", "L4"), 2)], [node("a", 64, 4, L4)])
    assert len(lines) == 1
    assert lines[0].startswith("tier large: stage 1 of 3 needs 8 L4 GPUs on one node")


def test_a_class_that_no_node_has() -> None:
    nodes = [node("a", 8, 2, L4), node("b", 8, 2, H100), node("c", 8)]
    assert shortage([("small", single("A10G"), 1)], nodes) == [
        "tier small: a replica needs 1 A10G GPU, but no node has any; there are H100, L4"
    ]
    assert shortage([("small", gang(1, "L4", "A10G"), 1)], nodes[2:]) == [
        "tier small: shard 1 of 2 needs 1 L4 GPU, but no node has any",
        "tier small: shard 2 of 2 needs 1 A10G GPU, but no node has any",
    ]


def test_a_labelled_node_without_its_gpu() -> None:
    assert shortage([("small", single("L4"), 1)], [node("a", 8, 0, L4)]) == [
        "tier small: a replica needs 1 L4 GPU on one node; the widest node (a) has 0"
    ]


def test_too_few_cores_beside_the_gpus_of_a_node() -> None:
    nodes = [node("a", 4, 2, L4), node("b", 8, 1, L4), node("c", 64)]
    assert shortage([("large", gang(2, "L4", cpus=2), 1)], nodes) == [
        "tier large: a replica needs 5 CPUs on one node beside 2 L4 GPUs; the widest node (a) "
        "has 4: lower cpus or tensor_parallel, or set allow_cross_node_tp"
    ]


def test_a_tier_on_cpus_alone() -> None:
    nodes = [node("a", 4), node("b", 6)]
    assert shortage([("tiny", single("cpu", 6), 1)], nodes) == []
    assert shortage([("tiny", single("cpu", 8), 1)], nodes) == [
        "tier tiny: a replica needs 8 CPUs on one node; the widest node (b) has 6: lower cpus"
    ]
    assert shortage([("tiny", gang(2, "cpu", "cpu", cpus=2), 1)], nodes) == []
    assert shortage([("tiny", single("cpu"), 1)], []) == [
        "tier tiny: a replica needs 1 CPU, but no node has any"
    ]


def test_too_few_gpus_in_all() -> None:
    nodes = [node("node-a", 64, 4, L4), node("node-b", 64, 2, L4), node("node-c", 64, 8, H100)]
    assert shortage([("large", gang(4, "L4"), 2)], nodes) == [
        "tier large: 8 L4 GPUs are needed for 2 replicas of 4, the cluster has 6 "
        "(4 on node-a, 2 on node-b): 2 are missing"
    ]


def test_tiers_share_what_there_is() -> None:
    tiers = [("large", gang(2, "L4", "L4"), 1), ("small", single("L4"), 3), ("x", single("cpu"), 1)]
    assert shortage(tiers, [node("a", 64, 6, L4)]) == [
        "tiers large, small: 7 L4 GPUs are needed for 1 replica of 4 and 3 replicas of 1, "
        "the cluster has 6 (6 on a): 1 is missing"
    ]


def test_too_few_cores_in_all() -> None:
    tiers = [("large", gang(2, "L4", cpus=2), 1), ("tiny", single("cpu", 4), 2)]
    assert shortage(tiers, [node("a", 6, 2, L4), node("b", 5)]) == [
        "tiers large, tiny: 13 CPUs are needed for 1 replica of 5 and 2 replicas of 4, "
        "the cluster has 11 (6 on a, 5 on b): 2 are missing"
    ]


def test_a_fault_for_each_class_that_is_short() -> None:
    nodes = [node("a", 2, 1, L4), node("b", 2, 1, H100)]
    lines = shortage(
        [("x", single("L4"), 2), ("y", single("H100"), 3), ("z", single("T4"), 1)], nodes
    )
    assert [line.split(" ", 3)[1] for line in lines] == ["z:", "x:", "y:", "x,"]
    assert "T4" in lines[0] and "2 L4" in lines[1] and "3 H100" in lines[2] and "5 CPUs" in lines[3]


def test_enough_in_all_but_not_on_the_same_nodes() -> None:
    nodes = [node("a", 64, 4, L4), node("b", 64, 2, L4), node("c", 64, 2, L4)]
    assert shortage([("large", gang(4, "L4"), 2)], nodes) == [
        "tier large: 1 of 2 replicas has no room beside the others: a replica needs 4 L4 GPUs and "
        "5 CPUs on one node; left are 2 GPUs and 64 CPUs on b, 2 GPUs and 64 CPUs on c, "
        "0 GPUs and 59 CPUs on a"
    ]
    lines = shortage([("tiny", single("cpu", 3), 4)], [node("a", 5), node("b", 5), node("c", 4)])
    assert lines == [
        "tier tiny: 1 of 4 replicas has no room beside the others: a replica needs 3 CPUs on one "
        "node; left are 2 CPUs on a, 2 CPUs on b, 1 CPU on c"
    ]


def test_narrow_nodes_are_filled_first() -> None:
    """Else the wide stage would take the cores that the other tier needs."""
    tiers = [
        ("wide", single("cpu", 5), 1),
        ("two", gang(2, "L4", cpus=1), 1),
        ("one", single("L4", 8), 1),
    ]
    nodes = [node("a", 8, 2, L4), node("b", 3, 2, L4), node("c", 5)]
    assert shortage(tiers, nodes) == []


def test_a_tier_that_sleeps_needs_a_place_to_wake_up_but_takes_none() -> None:
    assert shortage([("large", gang(8, "H100"), 0)], [node("a", 1)]) == [
        "tier large: a replica needs 8 H100 GPUs, but no node has any"
    ]
    tiers = [("large", gang(2, "H100"), 0), ("small", gang(2, "H100"), 1)]
    assert shortage(tiers, [node("a", 3, 2, H100)]) == []
    assert shortage([], []) == []


def test_many_nodes_are_not_all_listed() -> None:
    nodes = [node(f"n{i}", 8, 1, L4) for i in range(9)]
    (line,) = shortage([("small", single("L4"), 12)], nodes)
    assert "has 9 (1 on n0, 1 on n1, 1 on n2, 1 on n3, 5 more): 3 are missing" in line


NODES = st.lists(
    st.builds(
        lambda cpus, gpus, labels: node("n", cpus, gpus if labels else 0, labels),
        st.integers(0, 6),
        st.integers(1, 4),
        st.sampled_from([{}, L4, H100]),
    ),
    max_size=4,
)
TIERS = st.lists(
    st.tuples(
        st.just("t"),
        st.builds(
            gang_placement,
            st.integers(1, 2),
            st.lists(st.sampled_from(["cpu", "L4", "H100"]), min_size=1, max_size=2),
            st.integers(1, 2),
            st.sampled_from([0.0, 1.0]),
            st.booleans(),
        ),
        st.integers(1, 2),
    ),
    max_size=2,
)


@given(TIERS, NODES)
def test_what_is_said_to_fit_fits(
    tiers: list[tuple[str, GangPlacement, int]], nodes: list[NodeResources]
) -> None:
    bundles = [
        pair
        for _, each, replicas in tiers
        for _ in range(replicas)
        for pair in zip(each.bundles, each.labels, strict=True)
    ]
    lines = shortage(tiers, nodes)
    fits = _fits(bundles, [(dict(n.resources), n.labels) for n in nodes])
    if not lines:
        assert fits
    # Only that nothing has been found may be wrong.
    assert not fits or all("no room" in line for line in lines)


@given(st.integers(1, 5), st.booleans(), st.integers(1, 9), NODES)
def test_equal_replicas_fit_if_they_can(
    cpus: int, on_gpu: bool, replicas: int, nodes: list[NodeResources]
) -> None:
    """How many fit on a node is a quotient then."""
    found = shortage([("t", single("L4" if on_gpu else "cpu", cpus), replicas)], nodes)
    suited = [n.resources for n in nodes if not on_gpu or n.labels.get(ACCELERATOR_LABEL) == "L4"]
    n_fit = sum(
        min(n["CPU"] // cpus, n.get("GPU", 0) if on_gpu else n["CPU"] // cpus) for n in suited
    )
    assert (not found) == (n_fit >= replicas)


def _fits(
    bundles: Sequence[tuple[dict[str, float], dict[str, str]]],
    free: Sequence[tuple[dict[str, float], dict[str, str]]],
) -> bool:
    """Whether there is a way, by trying all."""
    if not bundles:
        return True
    (bundle, needed), *others = bundles
    for left, labels in free:
        if needed.items() <= labels.items() and all(left.get(k, 0) >= n for k, n in bundle.items()):
            for name, n in bundle.items():
                left[name] -= n
            if _fits(others, free):
                return True
            for name, n in bundle.items():
                left[name] += n
    return False


def test_spot_machines_are_told_by_their_label() -> None:
    """A node without the label is on demand, as Ray matches it."""
    spot, market = {MARKET_LABEL: "spot"}, {MARKET_LABEL: "!spot"}
    only = gang_placement(1, ["L4"], 1, 0.0, False, spot=True)
    never = gang_placement(1, ["cpu"], 1, 0.0, False, spot=False)
    assert only.labels == ({**L4, **spot},) and never.labels == (market,)
    nodes = [node("a", 4, 1, L4), node("b", 4, labels=spot)]
    assert shortage([("small", only, 1), ("tiny", never, 4)], nodes) == [
        "tier small: a replica needs 1 spot L4 GPU, but no node has any; there are L4"
    ]
    assert shortage([("tiny", never, 4)], nodes) == []
    assert shortage([("tiny", never, 5)], nodes) == [
        "tier tiny: 1 of 5 replicas has no room beside the others: a replica needs 1 on-demand CPU "
        "on one node; left are 0 CPUs on a"
    ]
    assert shortage([("small", only, 1)], [node("a", 4, 1, L4 | spot)]) == []

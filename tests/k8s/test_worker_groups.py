"""Worker groups offer what tiers of the settings ask for, as Ray's own autoscaler reads both."""

from dataclasses import replace

import pytest
from ray.autoscaler._private.kuberay.autoscaling_config import (
    _derive_autoscaling_config_from_ray_cr,
)

from deployments.planning.accelerators import CPU
from deployments.replicas.placement import ACCELERATOR_LABEL, NodeResources, Tier, shortage
from scripts.k8s_serve_configs import OVERLAYS, Overlay
from serve.settings.config import Settings, TierSettings
from serve.settings.tier_placement import placements, tier_placement
from tests.support.manifests import groups, ray_service

NAMES = [overlay.name for overlay in OVERLAYS]
_GPU = "nvidia.com/gpu"


def _nodes(overlay: str) -> list[NodeResources]:
    """All nodes that the cluster may grow to. Ray's autoscaler derives resources and labels of a
    group from the custom resource by this function, and starts pods by nothing else."""
    cluster = ray_service(overlay)["spec"]["rayClusterConfig"]
    resource = {"metadata": {"name": overlay, "namespace": "murmur"}, "spec": cluster}
    types = _derive_autoscaling_config_from_ray_cr(resource)["available_node_types"]
    return [
        NodeResources(f"{name}-{i}", dict(kind["resources"]), dict(kind["labels"]))
        for name, kind in types.items()
        for i in range(kind["max_workers"])
    ]


def _tiers(settings: Settings) -> list[Tier]:
    """Each at its most replicas."""
    return [
        (tier.name, tier_placement(tier), tier.max_replicas) for tier in settings.tiers
    ] + _ingress(settings)


def _ingress(settings: Settings) -> list[Tier]:
    return [place for place in placements(settings) if place[0] == "ingress"]


@pytest.mark.parametrize("overlay", OVERLAYS, ids=NAMES)
def test_groups_may_grow_to_every_tiers_most_replicas(overlay: Overlay) -> None:
    assert shortage(_tiers(overlay.settings()), _nodes(overlay.name)) == []


@pytest.mark.parametrize("overlay", OVERLAYS, ids=NAMES)
def test_groups_start_with_what_always_runs(overlay: Overlay) -> None:
    """Else the first request waits for a machine."""
    cluster = ray_service(overlay.name)["spec"]["rayClusterConfig"]
    least = {group["groupName"]: group["minReplicas"] for group in cluster["workerGroupSpecs"]}
    nodes = _nodes(overlay.name)
    always = [node for node in nodes if int(node.name.rpartition("-")[2]) < _least(node, least)]
    settings = overlay.settings()
    tiers = [(tier.name, tier_placement(tier), tier.min_replicas) for tier in settings.tiers]
    assert shortage([tier for tier in tiers if tier[2]] + _ingress(settings), always) == []


def _least(node: NodeResources, least: dict[str, int]) -> int:
    return least.get(node.name.rpartition("-")[0], 0)


@pytest.mark.parametrize(
    ("tier", "words"),
    [
        (
            TierSettings(name="two", model="m", accelerator="H100", tensor_parallel=2),
            "needs 2 H100 GPUs on one node",
        ),
        (TierSettings(name="b200", model="m", accelerator="B200"), "no node has any"),
        (
            TierSettings(name="many", model="m", accelerator="A100-40G", max_replicas=17),
            "17 A100-40G GPUs are needed",
        ),
        (
            TierSettings(name="spot", model="m", accelerator="L40S", spot=True, max_replicas=17),
            "has no room",
        ),
        (TierSettings(name="cores", model="m", accelerator="T4", cpus=4), "needs 4 CPUs"),
    ],
    ids=lambda value: value.name if isinstance(value, TierSettings) else "",
)
def test_what_groups_do_not_offer_is_said(tier: TierSettings, words: str) -> None:
    lines = shortage(_tiers(Settings(tiers=(tier,))), _nodes("gpu"))
    assert len(lines) == 1
    assert words in lines[0]


def test_a_group_that_loses_its_label_is_missed() -> None:
    settings = next(overlay for overlay in OVERLAYS if overlay.name == "gpu").settings()
    nodes = [replace(n, labels={}) if n.name.startswith("t4") else n for n in _nodes("gpu")]
    assert shortage(_tiers(settings), nodes)[0].startswith(
        "tier base: a replica needs 1 spot T4 GPU"
    )


def test_labels_of_groups_are_those_of_their_machines() -> None:
    """Ray's labels and Kubernetes' are the same, and both are needed: one places replicas and lets
    a group grow from nothing, the other chooses the machine."""
    seen = []
    for name, group in groups("gpu"):
        spec = group["template"]["spec"]
        limits = spec["containers"][0]["resources"]["limits"]
        if name == "head":
            assert _GPU not in limits
            continue
        if name == "ingress":
            assert _GPU not in limits
            assert spec["nodeSelector"] == {"ray.io/market-type": "on-demand"}
            continue
        assert spec["nodeSelector"] == group["labels"], name
        assert limits[_GPU] == 1, name
        tolerated = {toleration["key"] for toleration in spec["tolerations"]}
        assert {"nvidia.com/gpu", "ray.io/market-type"} <= tolerated, name
        seen.append(tuple(group["labels"].values()))
    classes = ("T4", "L4", "A10G", "L40S", "A100-40G", "H100")
    assert sorted(seen) == sorted((c, m) for c in classes for m in ("spot", "on-demand"))


def test_ingresses_of_the_fleet_run_where_no_gpu_waits_for_them() -> None:
    settings = next(overlay for overlay in OVERLAYS if overlay.name == "gpu").settings()
    nodes = [node for node in _nodes("gpu") if not node.resources.get("GPU")]
    assert shortage(_ingress(settings), nodes) == []


def test_an_ingress_group_without_its_role_is_missed() -> None:
    settings = next(overlay for overlay in OVERLAYS if overlay.name == "gpu").settings()
    nodes = [replace(node, labels={}) for node in _nodes("gpu")]
    assert shortage(_ingress(settings), nodes)[0].startswith("tier ingress:")


def test_no_group_of_the_demo_has_a_gpu() -> None:
    assert {tier.accelerator for tier in OVERLAYS[0].settings().tiers} == {CPU}
    for node in _nodes("cpu-demo"):
        assert node.resources.get("GPU", 0) == 0
        assert ACCELERATOR_LABEL not in node.labels


def test_the_head_takes_no_replicas() -> None:
    for name in NAMES:
        assert (
            ray_service(name)["spec"]["rayClusterConfig"]["headGroupSpec"]["rayStartParams"][
                "num-cpus"
            ]
            == "0"
        )

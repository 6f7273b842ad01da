"""Who reaches which port, by the policies' own rules."""

from collections.abc import Mapping
from typing import Any

import pytest

from scripts.k8s_serve_configs import OVERLAYS
from tests.support.manifests import groups, of_kind

NAMES = [overlay.name for overlay in OVERLAYS]
Labels = Mapping[str, str]
OURS, OTHER = "murmur", "elsewhere"
RAY = {"app.kubernetes.io/part-of": "murmur"}
HEAD = {**RAY, "ray.io/node-type": "head"}
OPERATOR = {"app.kubernetes.io/component": "kuberay-operator"}
CLIENT, MONITORING = {"murmur-client": "true"}, {"murmur-monitoring": "true"}
GCS, DASHBOARD, CLIENTS, SERVE, HAPROXY_STATS = 6379, 8265, 10001, 8000, 8404


def _selects(selector: Mapping[str, Any] | None, labels: Labels) -> bool:
    if selector is None:
        return False
    assert selector.keys() <= {"matchLabels", "matchExpressions"}
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In"
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return bool(selector.get("matchLabels", {}).items() <= labels.items())


def _reaches(
    overlay: str,
    to: Labels,
    port: int,
    pod: Labels,
    namespace: str,
    its_labels: Labels | None = None,
) -> bool:
    """As https://kubernetes.io/docs/concepts/services-networking/network-policies/ has it."""
    policies = [
        manifest["spec"]
        for manifest in of_kind(overlay, "NetworkPolicy")
        if _selects(manifest["spec"]["podSelector"], to)
    ]
    if not policies:
        return True
    for rule in (rule for policy in policies for rule in policy["ingress"]):
        if "ports" in rule and port not in [entry["port"] for entry in rule["ports"]]:
            continue
        for peer in rule["from"]:
            if "namespaceSelector" in peer:
                of_namespace = _selects(peer["namespaceSelector"], its_labels or {})
            else:
                of_namespace = namespace == OURS
            if of_namespace and ("podSelector" not in peer or _selects(peer["podSelector"], pod)):
                return True
    return False


@pytest.mark.parametrize("name", NAMES)
def test_every_ray_pod_is_under_the_policy(name: str) -> None:
    for group, spec in groups(name):
        assert RAY.items() <= spec["template"]["metadata"]["labels"].items(), group
        assert not _reaches(name, RAY, GCS, {}, OTHER), group


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("port", [GCS, DASHBOARD, CLIENTS, SERVE, HAPROXY_STATS])
def test_the_clusters_own_pods_reach_all_and_others_none(name: str, port: int) -> None:
    assert _reaches(name, HEAD, port, RAY, OURS)
    assert not _reaches(name, HEAD, port, {}, OURS)  # another pod of the namespace
    assert not _reaches(name, HEAD, port, RAY, OTHER)  # the label alone is no pass
    assert not _reaches(name, HEAD, port, {}, OTHER)


@pytest.mark.parametrize("name", NAMES)
def test_the_operator_deploys_and_asks_and_no_more(name: str) -> None:
    reached = {
        p for p in (GCS, DASHBOARD, CLIENTS, SERVE) if _reaches(name, HEAD, p, OPERATOR, OTHER)
    }
    assert reached == {DASHBOARD, SERVE}


@pytest.mark.parametrize("name", NAMES)
def test_namespaces_are_let_in_by_label(name: str) -> None:
    ports = (GCS, DASHBOARD, CLIENTS, SERVE, HAPROXY_STATS, 8080, 44217, 44227)
    clients = {p for p in ports if _reaches(name, HEAD, p, {}, OTHER, CLIENT)}
    monitors = {p for p in ports if _reaches(name, HEAD, p, {}, OTHER, MONITORING)}
    assert clients == {SERVE}
    assert monitors == {8080, 44217, 44227}


def test_only_heads_reach_redis() -> None:
    redis = {"app.kubernetes.io/name": "redis"}
    assert _reaches("gpu", redis, GCS, HEAD, OURS)
    assert not _reaches("gpu", redis, GCS, {**RAY, "ray.io/node-type": "worker"}, OURS)
    assert not _reaches("gpu", redis, GCS, HEAD, OTHER)
    assert not _reaches("gpu", redis, GCS, {}, OURS)

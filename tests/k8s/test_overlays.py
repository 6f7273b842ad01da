"""The overlays of k8s/: what kustomize makes of them, against the schemas of what reads it."""

import copy
import hashlib
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from scripts.k8s_serve_configs import OVERLAYS, Overlay
from serve.app import build
from serve.commands.cluster import BOUND_PROXY, PROXY_VARIABLE
from serve.settings.deployments import sections_of
from serve.settings.loading import load_settings
from tests.support.manifests import (
    ROOT,
    Manifest,
    built,
    check,
    groups,
    of_kind,
    pod_templates,
    ray_service,
)

NAMES = [overlay.name for overlay in OVERLAYS]
# What docs/kubernetes.md has people make; no Secret lies in the repository.
SECRETS = {"murmur", "murmur-redis", "murmur-tls"}


def _documents() -> list[Any]:
    return [
        pytest.param(m, id=f"{name}-{m['kind']}-{m['metadata']['name']}")
        for name in NAMES
        for m in built(name)
    ]


@pytest.mark.parametrize("manifest", _documents())
def test_every_manifest_is_what_its_schema_says(manifest: Manifest) -> None:
    check(manifest)


@pytest.mark.parametrize("name", NAMES)
def test_every_pod_template_is_a_pod(name: str) -> None:
    for group, template in pod_templates(name):
        metadata = {**template.get("metadata", {}), "name": group}
        check({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (
            ("spec", "rayClusterConfig", "enableInTreeAutoscalling"),
            True,
            "enableInTreeAutoscalling",
        ),
        (("spec", "rayClusterConfig", "workerGroupSpecs", 0, "maxReplicas"), "two", "'two'"),
        (("spec", "rayClusterConfig", "authOptions", "mode"), "tokens", "'tokens'"),
        (
            ("spec", "rayClusterConfig", "headGroupSpec", "template", "spec", "containres"),
            [],
            "containres",
        ),
        (
            ("spec", "rayClusterConfig", "autoscalerOptions", "upscalingMode"),
            "Quick",
            "'Quick'",
        ),
    ],
)
def test_a_wrong_field_of_a_ray_service_is_refused(
    path: tuple[str | int, ...], value: Any, words: str
) -> None:
    manifest = copy.deepcopy(ray_service("cpu-demo"))
    node: Any = manifest
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError, match=words):
        check(manifest)


def test_two_variables_of_one_name_are_refused() -> None:
    manifest = copy.deepcopy(ray_service("cpu-demo"))
    head = manifest["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]
    head["containers"][0]["env"] *= 2
    with pytest.raises(jsonschema.ValidationError, match="HF_HOME"):
        check(manifest)


@pytest.mark.parametrize("kind", ["NetworkPolicy", "PodMonitor", "PrometheusRule", "StatefulSet"])
def test_an_unknown_field_of_any_other_kind_is_refused(kind: str) -> None:
    manifest = copy.deepcopy(of_kind("gpu", kind)[0])
    manifest["spec"]["unknown"] = 1
    with pytest.raises(jsonschema.ValidationError, match="unknown"):
        check(manifest)


@pytest.mark.parametrize("overlay", OVERLAYS, ids=NAMES)
def test_serve_configs_are_those_of_the_settings(overlay: Overlay) -> None:
    there = overlay.patch.read_text(encoding="utf-8")
    assert there == overlay.render(), "stale: run `make k8s`"


@pytest.mark.parametrize("overlay", OVERLAYS, ids=NAMES)
def test_serve_takes_the_config_and_builds_the_application(overlay: Overlay) -> None:
    config = yaml.safe_load(ray_service(overlay.name)["spec"]["serveConfigV2"])
    schema = ServeDeploySchema.model_validate(config)
    (application,) = schema.applications
    assert application.import_path == "serve.app:build"
    build(dict(application.args))  # as Serve calls it
    (ingress,) = (d for d in application.deployments if d.name == "Ingress")
    tiers = load_settings(values=sections_of(ingress.user_config), environment={}).tiers
    assert tiers == overlay.settings().tiers
    assert schema.http_options.host == "0.0.0.0", "the Service could not reach it"


@pytest.mark.parametrize("overlay", OVERLAYS, ids=NAMES)
def test_every_ray_process_has_the_variables_that_it_needs(overlay: Overlay) -> None:
    settings = overlay.settings()
    (variables,) = (
        manifest
        for manifest in of_kind(overlay.name, "ConfigMap")
        if manifest["metadata"]["name"].startswith("ray-env-")
    )
    data = variables["data"]
    assert data["RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S"] == "1"
    assert data["RAY_max_direct_call_object_size"] == "1000000"
    assert (data["RAY_SERVE_ENABLE_HA_PROXY"] == "1") is (settings.http.haproxy is not False)
    assert data[PROXY_VARIABLE] == BOUND_PROXY
    source = [{"configMapRef": {"name": variables["metadata"]["name"]}}]
    cluster = ray_service(overlay.name)["spec"]["rayClusterConfig"]
    assert cluster["autoscalerOptions"]["envFrom"] == source
    for name, group in groups(overlay.name):
        assert group["template"]["spec"]["containers"][0]["envFrom"] == source, name


@pytest.mark.parametrize("overlay", OVERLAYS, ids=NAMES)
def test_ports_are_where_they_are_looked_for(overlay: Overlay) -> None:
    """KubeRay makes the Service from the port `serve`, and Prometheus scrapes by name."""
    for name, group in groups(overlay.name):
        ports = {
            port["name"]: port["containerPort"]
            for port in group["template"]["spec"]["containers"][0]["ports"]
        }
        assert ports["serve"] == overlay.settings().http.port, name
        assert ports["metrics"] == 8080, name


@pytest.mark.parametrize("overlay", OVERLAYS, ids=NAMES)
def test_work_under_way_outlives_updates_and_drains(overlay: Overlay) -> None:
    spec = ray_service(overlay.name)["spec"]
    assert spec["upgradeStrategy"] == {"type": "NewCluster"}
    assert spec["rayClusterDeletionDelaySeconds"] >= overlay.settings().limits.deadline_s
    drain_s = _variables(overlay.name)["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]
    for name, group in groups(overlay.name):
        grace_s = group["template"]["spec"]["terminationGracePeriodSeconds"]
        assert grace_s > int(drain_s), name
        # What autoscaler v2 demands: it counts pods, so kubelets may not restart them.
        assert group["template"]["spec"]["restartPolicy"] == "Never", name


def _variables(name: str) -> dict[str, str]:
    return next(
        m["data"]
        for m in of_kind(name, "ConfigMap")
        if m["metadata"]["name"].startswith("ray-env-")
    )


@pytest.mark.parametrize("name", NAMES)
def test_pods_meet_the_restricted_standard(name: str) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/"""
    for group, template in pod_templates(name):
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, group
        assert spec["securityContext"]["runAsUser"] > 0, group
        assert spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault", group
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), group
        assert (spec.get("automountServiceAccountToken") is not False) is (group == "head"), group
        kinds = {kind for volume in spec.get("volumes", []) for kind in volume if kind != "name"}
        assert kinds <= {"emptyDir", "persistentVolumeClaim", "configMap", "secret"}, group
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, group
            assert context["capabilities"] == {"drop": ["ALL"]}, group
            assert not any("hostPort" in port for port in container.get("ports", [])), group
            assert {"requests", "limits"} <= container["resources"].keys(), group
            assert "readinessProbe" in container, group
            assert "livenessProbe" in container, group
    scaler = ray_service(name)["spec"]["rayClusterConfig"]["autoscalerOptions"]
    assert scaler["securityContext"]["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("name", NAMES)
def test_secrets_are_named_and_never_there(name: str) -> None:
    assert not of_kind(name, "Secret")
    named = set(_values(list(built(name)), "secretKeyRef", "name"))
    named |= set(_values(list(built(name)), None, "secretName"))
    assert named <= SECRETS
    page = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    for secret in named:
        assert f" {secret} " in page, secret


def _values(node: Any, parent: str | None, key: str) -> list[str]:
    """Values of a key, below a parent's key where one is given."""
    if isinstance(node, list):
        return [value for item in node for value in _values(item, parent, key)]
    if not isinstance(node, dict):
        return []
    found = [value for item in node.values() for value in _values(item, parent, key)]
    holder = node if parent is None else node.get(parent, {})
    return found + ([holder[key]] if isinstance(holder, dict) and key in holder else [])


@pytest.mark.parametrize("name", NAMES)
def test_what_pods_name_is_there(name: str) -> None:
    claims = {m["metadata"]["name"] for m in of_kind(name, "PersistentVolumeClaim")}
    assert set(_values(list(built(name)), "persistentVolumeClaim", "claimName")) <= claims
    maps = {m["metadata"]["name"] for m in of_kind(name, "ConfigMap")}
    assert set(_values(list(built(name)), "configMapRef", "name")) <= maps
    for group, template in pod_templates(name):
        volumes = {volume["name"] for volume in template["spec"].get("volumes", [])}
        if group == "redis":
            volumes.add("data")  # by a template of a claim
        for container in template["spec"]["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes, group


@pytest.mark.parametrize("name", NAMES)
def test_versions_are_those_of_the_project(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    ray = re.search(r"^ray==(.+)$", pins, re.MULTILINE)
    assert ray is not None
    assert ray_service(name)["spec"]["rayClusterConfig"]["rayVersion"] == ray[1]
    flavour = {"cpu-demo": "cpu", "gpu": "cuda"}[name]
    for group, spec in groups(name):
        image = spec["template"]["spec"]["containers"][0]["image"]
        assert image == f"murmur:{project['version']}-{flavour}", group


@pytest.mark.parametrize("name", NAMES)
def test_budgets_select_pods_and_give_numbers(name: str) -> None:
    """Kubernetes knows no scale of pods that an operator owns."""
    for manifest in of_kind(name, "PodDisruptionBudget"):
        assert isinstance(manifest["spec"]["minAvailable"], int)
        labels = manifest["spec"]["selector"]["matchLabels"]
        ours = {k: v for k, v in labels.items() if not k.startswith("ray.io/")}
        assert all(
            ours.items() <= group["template"]["metadata"]["labels"].items()
            for _, group in groups(name)
        )


def test_the_ingress_leads_to_what_kuberay_makes() -> None:
    (ingress,) = of_kind("gpu", "Ingress")
    (path,) = ingress["spec"]["rules"][0]["http"]["paths"]
    service = ray_service("gpu")["metadata"]["name"]
    assert path["backend"]["service"] == {"name": f"{service}-serve-svc", "port": {"name": "serve"}}
    notes = ingress["metadata"]["annotations"]
    limits = OVERLAYS[1].settings().limits
    prefix = "nginx.ingress.kubernetes.io/proxy"
    assert (
        float(notes[f"{prefix}-body-size"].removesuffix("m")) * 2**20 >= limits.max_upload_mb * 1e6
    )
    assert float(notes[f"{prefix}-read-timeout"]) >= limits.deadline_s


@pytest.mark.parametrize("name", NAMES)
def test_variables_of_pods_are_settings_that_the_application_reads(name: str) -> None:
    """A sum of a key that is a Secret's reaches an ingress by the environment of where it runs."""
    variables = set()
    for group, spec in groups(name):
        named = {entry["name"] for entry in spec["template"]["spec"]["containers"][0]["env"]}
        variables.add(frozenset(named))
        assert "HF_HOME" in named, group
    (same_everywhere,) = variables
    sums = [hashlib.sha256(key).hexdigest() for key in (b"one", b"two")]
    values = {"MURMUR__AUTH__API_KEYS_SHA256": f"[{', '.join(sums)}]"}
    assert {variable for variable in same_everywhere if "MURMUR" in variable} == values.keys()
    config = yaml.safe_load(ray_service(name)["spec"]["serveConfigV2"])
    (ingress,) = (d for d in config["applications"][0]["deployments"] if d["name"] == "Ingress")
    settings = load_settings(values=sections_of(ingress["user_config"]), environment=values)
    assert list(settings.auth.api_keys_sha256) == sums


@pytest.mark.parametrize("name", NAMES)
def test_kubectl_can_keep_what_it_applied_in_an_annotation(name: str) -> None:
    for manifest in built(name):
        assert len(json.dumps(manifest)) < 262_144 * 0.9, manifest["kind"]


def test_the_folder_has_nothing_that_no_overlay_uses() -> None:
    named = "".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "k8s").rglob("kustomization.yaml")
    )
    used = {"kustomization.yaml", "settings.yaml"}
    for path in (ROOT / "k8s").rglob("*"):
        if path.is_file() and path.name not in used:
            assert Path(path).name in named, path

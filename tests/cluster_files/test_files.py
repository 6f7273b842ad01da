"""The files at the top level, beside Ray's schemas, the catalogue and each other."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.serve.schema import ServeDeploySchema

from deployments.planning.gpu_catalogue import gpu_catalogue
from deployments.replicas.placement import ACCELERATOR_LABEL, MARKET_LABEL
from serve.commands.cli import main
from serve.commands.cluster import BOUND_PROXY, PROXY_VARIABLE
from serve.settings.check import check_settings
from serve.settings.cluster_file import possible_nodes
from serve.settings.loading import load_settings
from tests.cluster_files.conftest import FILES, ROOT, read_cluster

SCRIPTS = ROOT / "scripts"
CLOUDS = {"cluster.yaml": "aws", "cluster.gcp.yaml": "gcp"}
TYPE_KEYS = {"cluster.yaml": "InstanceType", "cluster.gcp.yaml": "machineType"}
CLASSES = {
    "cluster.yaml": {"T4", "L4", "A10G", "L40S", "A100-40G", "H100"},
    "cluster.gcp.yaml": {"T4", "L4", "A100-40G", "H100"},
}


def gpu_types(name: str) -> dict[str, dict[str, Any]]:
    kinds = read_cluster(name)["available_node_types"]
    return {key: kind for key, kind in kinds.items() if kind["resources"].get("GPU")}


def test_the_serve_config_is_that_of_the_fleet(capsys: pytest.CaptureFixture[str]) -> None:
    """`murmur build fleet.yaml > serve_config.yaml`"""
    assert main(["build", str(ROOT / "fleet.yaml")]) == 0
    text = (ROOT / "serve_config.yaml").read_text(encoding="utf-8")
    assert capsys.readouterr().out == text
    ServeDeploySchema.model_validate(yaml.safe_load(text))


def test_a_config_may_start_new_replicas_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "--surge", str(ROOT / "fleet.yaml")]) == 0
    config = ServeDeploySchema.model_validate(yaml.safe_load(capsys.readouterr().out))
    of_tiers = [d for d in config.applications[0].deployments if d.name not in ("Ingress", "Board")]
    assert of_tiers and all(d.max_surge_percent == 1 for d in of_tiers)


@pytest.mark.parametrize("name", FILES)
def test_ray_takes_the_file(name: str) -> None:
    config = prepare_config(read_cluster(name))
    validate_config(config)
    json.dumps(config)  # as Ray hashes and sends it
    assert not set(config) - set(_schema()["properties"])


@pytest.mark.parametrize("name", FILES)
def test_every_tier_of_the_fleet_has_a_place(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["check-config", str(ROOT / "fleet.yaml"), "--cluster", str(ROOT / name)]
    assert main(arguments) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("tier", "said"),
    [
        ({"accelerator": "V100", "usd_per_hour": 3}, "needs 1 V100 GPU, but no node has any"),
        ({"accelerator": "L4", "tensor_parallel": 2}, "needs 2 L4 GPUs on one node"),
        ({"accelerator": "T4", "cpus": 5}, "needs 5 CPUs on one node beside 1 T4 GPU"),
        ({"cpus": 97}, "needs 97 CPUs on one node"),
        ({"accelerator": "A100-40G", "min_replicas": 17, "max_replicas": 17}, "1 is missing"),
    ],
)
def test_a_tier_without_a_place_is_named(
    tier: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "murmur.yaml"
    tiers = [
        {"name": "good", "model": "base", "accelerator": "T4"},
        {"name": "bad", "model": "base", **tier},
    ]
    path.write_text(yaml.safe_dump({"tiers": tiers}))
    assert main(["check-config", str(path), "--cluster", str(ROOT / "cluster.yaml")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("cluster.yaml: tier bad: ") and said in err
    assert err.count("\n") == 1


def test_spot_and_ingress_find_their_nodes_by_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = read_cluster("cluster.yaml")
    for name in ("t4-spot", "ingress"):
        del cluster["available_node_types"][name]
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(cluster))
    assert main(["check-config", str(ROOT / "fleet.yaml"), "--cluster", str(path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in lines] == ["tier base", "tier ingress"]
    assert "needs 1 spot T4 GPU, but" in lines[0]
    assert "needs 2 CPUs on a node labelled murmur/role: ingress, but" in lines[1]


@pytest.mark.parametrize(
    ("text", "said"),
    [("a: [", "no YAML"), ("[]", "not a file for `ray up`"), ("a: 1", "head_node_type")],
)
def test_what_is_no_cluster_file_is_refused(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    assert main(["check-config", "--cluster", str(path)]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("most", "n_nodes"), [(1, 2), (5, 4), (None, 3)])
def test_no_more_nodes_than_the_cluster_may_have(
    most: int | None, n_nodes: int, tmp_path: Path
) -> None:
    cluster = {
        "head_node_type": "head",
        "available_node_types": {"head": {}, "worker": {"max_workers": 3}},
    } | ({} if most is None else {"max_workers": most})
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(cluster))
    assert len(possible_nodes(path)) == n_nodes


@pytest.mark.parametrize("name", FILES)
def test_machines_are_what_the_catalogue_says(name: str) -> None:
    instances = {i.type: i for i in gpu_catalogue().instances if i.cloud == CLOUDS[name]}
    kinds = gpu_types(name)
    assert {kind["labels"][ACCELERATOR_LABEL] for kind in kinds.values()} == CLASSES[name]
    for key, kind in kinds.items():
        instance = instances[kind["node_config"][TYPE_KEYS[name]]]
        label, market = kind["labels"][ACCELERATOR_LABEL], kind["labels"][MARKET_LABEL]
        assert gpu_catalogue().gpu(label).name == instance.gpu, key
        assert kind["resources"] == {"CPU": instance.vcpus, "GPU": instance.gpus}, key
        # Sold in that way, which is that of the machine's configuration.
        assert instance.usd_per_gpu_hour(market == "spot") is not None, key
        assert _is_spot(kind["node_config"]) == (market == "spot") == key.endswith("-spot")


@pytest.mark.parametrize("name", FILES)
def test_no_gpu_runs_until_it_is_wanted_and_spot_is_preferred(name: str) -> None:
    for kind in gpu_types(name).values():
        is_spot = kind["labels"][MARKET_LABEL] == "spot"
        assert kind.get("min_workers", 0) == 0 and kind["max_workers"] > 0
        assert kind.get("priority", 0) == (10 if is_spot else 0)
    config = read_cluster(name)
    assert config["idle_timeout_minutes"] > 0
    assert config["available_node_types"][config["head_node_type"]]["resources"] == {"CPU": 0}


def test_both_clouds_run_the_same_commands() -> None:
    aws, gcp = (read_cluster(name) for name in FILES)
    for key in ("file_mounts", "rsync_exclude", "setup_commands", "worker_setup_commands"):
        assert aws[key] == gcp[key]
    for key in ("head_start_ray_commands", "worker_start_ray_commands", "head_setup_commands"):
        assert str(aws[key]).replace("aws", "gcp") == str(gcp[key])


@pytest.mark.parametrize("name", FILES)
def test_what_nodes_get_is_there_and_is_enough(name: str) -> None:
    mounts = read_cluster(name)["file_mounts"]
    own = {far: near for far, near in mounts.items() if far.startswith("~/murmur/")}
    assert all((ROOT / near).exists() and far == f"~/murmur/{near}" for far, near in own.items())
    # All that the package is built of, and the scripts that the commands name.
    needed = {"engine", "deployments", "serve", "scripts", "pyproject.toml", "constraints.txt"}
    assert needed | {"README.md", "LICENSE", "NOTICE"} <= set(own.values())
    text = (ROOT / name).read_text(encoding="utf-8")
    for path in re.findall(r"~/murmur/([\w./-]+)", text):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("name", [*FILES, "fleet.yaml", "serve_config.yaml", "scripts/ray-env"])
def test_no_secret_is_in_it(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for pattern in (
        r"AKIA[0-9A-Z]{16}",
        r"hf_[A-Za-z0-9]{20}",
        r"sk-[A-Za-z0-9]{16}",
        r"PRIVATE KEY",
    ):
        assert not re.search(pattern, text)
    assert not re.search(r"(?i)(secret|password|token|api_keys)\s*[:=]\s*['\"]?\w{12}", text)


def test_ray_processes_have_the_variables_that_operations_ask_for() -> None:
    found = _environment()
    assert found["RAY_AUTH_MODE"] == "token"
    assert found["RAY_max_direct_call_object_size"] == "1000000"
    assert found["RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S"] == "1"
    is_haproxy = load_settings(ROOT / "fleet.yaml", {}).http.haproxy is not False
    assert (found["RAY_SERVE_ENABLE_HA_PROXY"] == "1") == is_haproxy
    assert found[PROXY_VARIABLE] == BOUND_PROXY
    page = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    for name, value in re.findall(r"(RAY_\w+)=([\w.]+)", page):
        assert name not in found or name == "RAY_AUTH_MODE" or found[name] == value, name
    health = ("RAY_health_check_timeout_ms", "RAY_health_check_period_ms")
    assert all(f"{name}={found[name]}" in page for name in health)


def test_what_is_set_already_stays() -> None:
    assert _environment(RAY_AUTH_MODE="disabled")["RAY_AUTH_MODE"] == "disabled"


def test_the_scripts_are_clean() -> None:
    shellcheck = Path(sys.executable).parent / "shellcheck"
    scripts = [path for path in sorted(SCRIPTS.iterdir()) if path.suffix != ".py"]
    names = [path.relative_to(ROOT) for path in scripts if path.is_file()]
    done = subprocess.run([shellcheck, "-x", *names], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("arguments", [[], ["--deploy"], ["--", "ray", "stop"], ["-x", "y", "--"]])
def test_node_start_explains_itself(arguments: list[str]) -> None:
    done = subprocess.run([SCRIPTS / "node-start", *arguments], capture_output=True, text=True)
    assert done.returncode == 2 and "usage: node-start" in done.stderr


def test_the_fleet_can_be() -> None:
    check_settings(load_settings(ROOT / "fleet.yaml", {}))


def _schema() -> dict[str, Any]:
    import ray.autoscaler

    path = Path(ray.autoscaler.__file__).parent / "ray-schema.json"
    schema: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return schema


def _is_spot(node_config: dict[str, Any]) -> bool:
    aws = node_config.get("InstanceMarketOptions", {}).get("MarketType")
    return "spot" in (aws, node_config.get("scheduling", {}).get("provisioningModel", "").lower())


def _environment(**given: str) -> dict[str, str]:
    """What Ray's processes have of scripts/ray-env."""
    done = subprocess.run(
        ["bash", "-c", '. "$0" && env', SCRIPTS / "ray-env"],
        env={"HOME": "/home/somebody", "PATH": "/usr/bin:/bin", **given},
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(line.split("=", 1) for line in done.stdout.splitlines())

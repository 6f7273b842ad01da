"""Adapts this repository's cluster file to existing hosts instead of a cloud's machines."""

import json
import shlex
from pathlib import Path
from typing import Any

import yaml

from tests.support.hosts import Hosts

ROOT = Path(__file__).parents[2]
_CLOUD = ("provider", "auth", "head_node_type", "available_node_types", "max_workers", "metadata")
"""Sections about a cloud's machines. All else stays as it is."""
_EXTRAS = "demo"
"""The package's extra that nodes install: the demo models, without the clients of clouds."""


def on_hosts(hosts: Hosts, head: str, replaced: dict[str, Path]) -> dict[str, Any]:
    """The cluster file for these hosts, with the same set-up, files and start commands.

    Args:
        head: the name of the head; all other hosts are workers.
        replaced: files of this repository -> the files that are sent instead.
    """
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    types = config["available_node_types"]
    mounts = {there: str(replaced.get(here, here)) for there, here in config["file_mounts"].items()}
    assert set(replaced) <= set(config["file_mounts"].values())
    return {
        **{name: value for name, value in config.items() if name not in _CLOUD},
        "provider": {
            "type": "local",
            "head_ip": hosts[head].address,
            "worker_ips": [host.address for host in hosts if host.name != head],
        },
        "auth": {"ssh_user": "root", "ssh_private_key": str(hosts.ssh_key)},
        "file_mounts": mounts,
        "head_setup_commands": [_demo(command) for command in config["head_setup_commands"]],
        "worker_setup_commands": [_demo(command) for command in config["worker_setup_commands"]],
        "head_start_ray_commands": _as_type(
            types[config["head_node_type"]], config["head_start_ray_commands"]
        ),
        "worker_start_ray_commands": _as_type(
            {"labels": types["ingress"]["labels"]}, config["worker_start_ray_commands"]
        ),
    }


def with_redis(commands: list[str], address: str, password: str) -> list[str]:
    """Start commands of a head that keeps its state in Redis, with the variables KubeRay sets."""
    exports = f"export RAY_gcs_storage=redis RAY_REDIS_ADDRESS={address}; "
    return [f"{exports}{command} --redis-password={password}" for command in commands]


def image_command(config: dict[str, Any], token: Path) -> str:
    """The command that prepares a home folder as the head's set-up commands do."""
    excluded = " ".join(f"--exclude {shlex.quote(name)}" for name in config["rsync_exclude"])
    commands = []
    for there, here in config["file_mounts"].items():
        source = token if "auth_token" in here else ROOT / here
        slash = "/" if source.is_dir() else ""
        commands.append(f"mkdir -p $(dirname {there})")
        commands.append(f"rsync -a {excluded} {source}{slash} {there}{slash}")
    # Hosts reach no package index, so what pip needs for each build of the package must be there.
    commands += config["head_setup_commands"]
    commands.append("python3 -m pip download -q --no-deps -d ~/wheels 'setuptools>=77' wheel")
    commands.append("echo 'export PIP_NO_INDEX=1 PIP_FIND_LINKS=~/wheels' >>~/.bashrc")
    return " && ".join(commands)


def _demo(command: str) -> str:
    program, *extras = command.split()
    assert program.endswith("/node-setup"), command
    return f"{program} {_EXTRAS}"


def _as_type(node_type: dict[str, Any], commands: list[str]) -> list[str]:
    """Start commands with the variables by which Ray's launcher tells a node its type. The launcher
    does not set them for provider `local`."""
    variables = {
        "RAY_OVERRIDE_RESOURCES": node_type.get("resources"),
        "RAY_OVERRIDE_LABELS": node_type.get("labels"),
    }
    exports = "".join(
        f"export {name}={shlex.quote(json.dumps(value, separators=(',', ':')))}; "
        for name, value in variables.items()
        if value
    )
    return [exports + command for command in commands]

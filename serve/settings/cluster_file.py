"""Checks settings against a file for `ray up`: whether its node types can hold the replicas.

Does not import Ray.
"""

from pathlib import Path
from typing import Any

import yaml

from deployments.replicas.placement import NodeResources, shortage
from serve.settings.config import ConfigError, Settings
from serve.settings.tier_placement import placements

_MAX_WORKERS = 2
"""Ray's default (`ray/autoscaler/*/defaults.yaml`, 2.60)."""


def check_cluster(settings: Settings, path: Path) -> None:
    """Check that the cluster has room for every tier and the ingress.

    Raises:
        ConfigError: with a line for each tier that has no room; or the file cannot be read.
    """
    if faults := shortage(placements(settings), possible_nodes(path)):
        raise ConfigError("\n".join(f"{path.name}: {fault}" for fault in faults))


def possible_nodes(path: Path) -> list[NodeResources]:
    """The nodes of a cluster that has as many of every node type as it may, named after the type.

    With several types, this may be more nodes than `max_workers` allows in all.

    Raises:
        ConfigError: the file is not a cluster file.
    """
    try:
        cluster = yaml.safe_load(path.read_text(encoding="utf-8"))
        head, most = cluster["head_node_type"], cluster.get("max_workers", _MAX_WORKERS)
        types = cluster["available_node_types"].items()
        counts = {
            name: 1 if name == head else min(most, kind.get("max_workers", most))
            for name, kind in types
        }
        return [node for name, kind in types for node in [_node(name, kind)] * counts[name]]
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: no YAML: {error}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: not a file for `ray up`: {error!r}") from error


def _node(name: str, kind: dict[str, Any]) -> NodeResources:
    resources = {resource: float(n) for resource, n in kind.get("resources", {}).items()}
    return NodeResources(name=name, resources=resources, labels=dict(kind.get("labels", {})))

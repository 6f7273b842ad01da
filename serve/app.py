"""Builds the Ray Serve application, with its deployments, from the settings. Wiring only.

Use it with `serve run serve.app:build config=murmur.yaml`, with `import_path: serve.app:build` in a
Serve config (`murmur build` prints one), or with `ray.serve.run(build({}))`.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from ray import serve as ray_serve
from ray.serve import Application, Deployment

from deployments.fleet import deployment_name
from deployments.replicas.replica import Replica
from deployments.routing.board import Board
from serve.http.routes import HttpIngress
from serve.settings.check import check_settings
from serve.settings.config import Settings
from serve.settings.deployments import BOARD_NAME, INGRESS_NAME, deployment_options
from serve.settings.loading import load_settings
from serve.settings.serve_config import TIER_NAMES


def build(args: dict[str, Any]) -> Application:
    """Ray's application builder.

    Args:
        args: sections of the settings, and `config`, the path of a settings file on the machine
            where this runs. Or `tier_names` alone, if a Serve config gives the options of all
            deployments.

    Raises:
        ConfigError: the settings are wrong.
    """
    return build_with(args, Replica)


def build_with(args: dict[str, Any], replica: type[Replica]) -> Application:
    """As `build`, with another class for the tiers' replicas."""
    if TIER_NAMES in args:
        return _application(args[TIER_NAMES], {}, replica)
    sections = {name: value for name, value in args.items() if name != "config"}
    path = args.get("config")
    return assemble(load_settings(None if path is None else Path(path), values=sections), replica)


def assemble(settings: Settings, replica: type[Replica] = Replica) -> Application:
    """Build the application for these settings.

    Args:
        replica: class of the tiers' replicas.

    Raises:
        ConfigError: the settings ask for something impossible.
    """
    check_settings(settings)
    names = [tier.name for tier in settings.tiers]
    return _application(names, deployment_options(settings), replica)


def _application(
    tiers: Iterable[str], options: dict[str, dict[str, Any]], replica: type[Replica]
) -> Application:
    """Wire the deployments. Their constructors are told nothing that may change."""

    def deployment(kind: Any, name: str) -> Deployment:
        # The type of `deployment` covers decorators, too.
        plain = cast(Deployment, ray_serve.deployment(kind))
        return plain.options(name=name, **options.get(name, {}))

    board = deployment(Board, BOARD_NAME).bind()
    replicas = {tier: deployment(replica, deployment_name(tier)).bind(board) for tier in tiers}
    return deployment(ray_serve.ingress()(HttpIngress), INGRESS_NAME).bind(replicas, board)

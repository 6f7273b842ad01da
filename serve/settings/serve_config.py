"""Converts settings to the Ray Serve config that `serve deploy` and KubeRay take."""

from collections.abc import Collection
from typing import Any

from deployments.fleet import deployment_name
from serve.settings.config import Settings
from serve.settings.deployments import deployment_options

APP_NAME = "murmur"
IMPORT_PATH = "serve.app:build"
POLICY = "deployments.routing.scaling_policy:follow_board"
TIER_NAMES = "tier_names"
"""The builder's argument. Serve replaces all replicas if it changes, so it holds nothing else."""


def serve_config(
    settings: Settings, import_path: str = IMPORT_PATH, surge: Collection[str] = ()
) -> dict[str, Any]:
    """A ServeDeploySchema for the settings.

    It has the hashes of API keys instead of the keys, because Serve's dashboard shows all of it.

    Args:
        import_path: names a builder that takes the same arguments as `serve.app.build`.
        surge: names of tiers whose new replica starts before an old one stops.

    Raises:
        ConfigError, ShardingError: a tier's price is unknown, or its model cannot be split.
    """
    surging = {deployment_name(tier) for tier in surge}
    options = deployment_options(settings)
    ahead = deployment_options(settings, surge=True)
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": settings.http.host, "port": settings.http.port},
        "logging_config": {
            "encoding": "JSON",
            "enable_access_log": False,
            "log_level": settings.log_level.value,
        },
        "applications": [
            {
                "name": APP_NAME,
                "route_prefix": settings.http.route_prefix,
                "import_path": import_path,
                "autoscaling_policy": {"policy_function": POLICY},
                "args": {TIER_NAMES: [tier.name for tier in settings.tiers]},
                "deployments": [
                    {"name": name, **(ahead[name] if name in surging else options[name])}
                    for name in options
                ],
            }
        ],
    }

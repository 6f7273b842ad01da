"""Converts settings to the Ray Serve config that `serve deploy` and KubeRay take."""

from typing import Any

from serve.settings.api_keys import key_sums
from serve.settings.config import Settings

APP_NAME = "murmur"
IMPORT_PATH = "serve.app:build"
POLICY = "deployments.routing.scaling_policy:follow_board"


def serve_config(settings: Settings, import_path: str = IMPORT_PATH) -> dict[str, Any]:
    """A ServeDeploySchema for the settings.

    It has the hashes of API keys instead of the keys, because Serve's dashboard shows all of it.

    Args:
        import_path: names a builder that takes the same arguments as `serve.app.build`.
    """
    args = settings.model_dump(mode="json", exclude={"http", "auth"}, exclude_defaults=True)
    if keys := key_sums(settings.auth):
        args["auth"] = {"api_keys_sha256": list(keys)}
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": settings.http.host, "port": settings.http.port},
        "logging_config": {"encoding": "JSON", "enable_access_log": False},
        "applications": [
            {
                "name": APP_NAME,
                "route_prefix": settings.http.route_prefix,
                "import_path": import_path,
                "autoscaling_policy": {"policy_function": POLICY},
                "args": args,
            }
        ],
    }

"""Ray's node provider for Google Cloud, with an access token. cluster.gcp.yaml names it."""

from typing import Any

import click
from ray.autoscaler._private.gcp.config import bootstrap_gcp
from ray.autoscaler._private.gcp.node_provider import GCPNodeProvider

from serve.clouds.cluster_token import make_token


class GcpNodes(GCPNodeProvider):
    """`provider.module` of a cluster file."""

    @staticmethod
    def bootstrap_config(cluster_config: dict[str, Any]) -> dict[str, Any]:
        """Create what the cluster still lacks: a token, and what Ray's own provider creates.

        Raises:
            ClickException: the file names no project.
        """
        if not cluster_config["provider"].get("project_id"):
            raise click.ClickException("provider.project_id must be set: the id of your project")
        make_token()
        config: dict[str, Any] = bootstrap_gcp(cluster_config)  # type: ignore[no-untyped-call]
        return config

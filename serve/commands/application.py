"""The state of the application on the connected cluster."""

from typing import Any

from serve.settings.deployments import BOARD_NAME
from serve.settings.serve_config import APP_NAME

_BOARD_WAIT_S = 5.0


def application_status() -> dict[str, Any]:
    """Status and messages of the application and its deployments."""
    from ray import serve as ray_serve

    found = ray_serve.status().applications.get(APP_NAME)
    if found is None:
        return {"status": "NOT_DEPLOYED", "message": "", "deployments": {}}
    deployments = {
        name: {
            "status": deployment.status.value,
            "replicas": {state.lower(): n for state, n in deployment.replica_states.items()},
            "message": deployment.message,
        }
        for name, deployment in found.deployments.items()
    }
    return {"status": found.status.value, "message": found.message, "deployments": deployments}


def replica_nodes() -> dict[str, list[str]]:
    """The node of each replica of each deployment, by Ray's id."""
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    details = {} if client is None else client.get_serve_details()["applications"]
    deployments = details.get(APP_NAME, {"deployments": {}})["deployments"]
    return {
        name: [replica["node_id"] for replica in found["replicas"] if replica["node_id"]]
        for name, found in deployments.items()
    }


def board_state() -> dict[str, Any] | None:
    """The board's view of the cluster; None if no board answers."""
    from ray import serve as ray_serve
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    try:
        board: Any = ray_serve.get_deployment_handle(BOARD_NAME, APP_NAME)
        found: dict[str, Any] = board.cluster.remote().result(timeout_s=_BOARD_WAIT_S)
    except (RayError, RayServeException, TimeoutError):
        return None
    return found

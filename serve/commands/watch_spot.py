"""`murmur watch-spot`: drains this machine's node when the cloud reclaims the machine."""

import sys
import time

from deployments.replicas.spot_notice import SERVICES, SpotNotice, wait_for_notice
from serve.commands.connection import ClusterError, connected
from serve.commands.exit_codes import EXIT_FAILED, EXIT_OK

_POLL_S = 2.0
_RETRY_S = 1.0


def watch_spot(cloud: str, address: str, poll_s: float = _POLL_S) -> int:
    """Wait for the cloud's notice, then drain this node: Ray starts replicas elsewhere, and those
    here finish until the machine goes. Returns 0 once Ray knows.

    Args:
        cloud: `aws` or `gcp`.
        address: of the node's Ray cluster.
    """
    notice = wait_for_notice(SERVICES[cloud](), poll_s, _say)
    _say(f"this machine goes in {notice.deadline - time.time():.0f} s: draining its node")
    while True:
        try:
            _drain(address, notice)
        except ClusterError as error:
            _say(str(error))
            if time.time() > notice.deadline:
                return EXIT_FAILED
            time.sleep(_RETRY_S)
        else:
            return EXIT_OK


def _drain(address: str, notice: SpotNotice) -> None:
    from ray.exceptions import RpcError

    from deployments.replicas.cluster_nodes import drain, this_node

    with connected(address):
        node = this_node()
    try:
        refusal = drain(node, notice.deadline, "the cloud takes this spot machine away")
    except RpcError as error:
        raise ClusterError(f"Ray's control service at {node.gcs_address}: {error}") from error
    if refusal:
        raise ClusterError(f"Ray does not drain this node: {refusal}")


def _say(words: str) -> None:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    print(f"{now} murmur: {words}", file=sys.stderr, flush=True)

"""The nodes of the cluster by what they are, asked for now and then."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import RayError

from deployments.planning.accelerators import CPU
from deployments.replicas.cluster_nodes import cluster_nodes
from deployments.replicas.placement import (
    ACCELERATOR_LABEL,
    MARKET_LABEL,
    NodeResources,
)

logger = logging.getLogger("ray.serve")

PERIOD_S = 10.0


class Nodes:
    """What the cluster's control service last said of the nodes.

    Args:
        ask: returns the nodes that are alive. It may block.
    """

    def __init__(self, ask: Callable[[], Sequence[NodeResources]] | None = None) -> None:
        self._ask = ask or _cluster_nodes
        self._asked = float("-inf")
        self._asking: asyncio.Task[None] | None = None
        self.groups: list[dict[str, Any]] = []

    def refresh(self) -> None:
        """Ask again on a thread, unless that was done a moment ago or is going on."""
        now = time.monotonic()
        is_asking = self._asking is not None and not self._asking.done()
        if not is_asking and now - self._asked >= PERIOD_S:
            self._asked = now
            self._asking = asyncio.create_task(self._hear())

    async def _hear(self) -> None:
        try:
            self.groups = by_kind(await asyncio.to_thread(self._ask))
        except (RayError, ConnectionError) as error:  # what was heard last stays
            logger.warning("the GCS does not say which nodes live: %s", error)


def by_kind(nodes: Sequence[NodeResources]) -> list[dict[str, Any]]:
    """Nodes that are alike, with their number: `class` of their GPUs, or `cpu`; `market`, empty if
    Ray cannot tell; `cpus` and `gpus` of all of them."""
    groups: dict[tuple[str, str], Counter[str]] = {}
    for node in nodes:
        gpus = round(node.resources.get("GPU", 0))
        kind = node.labels.get(ACCELERATOR_LABEL) or ("gpu" if gpus else CPU)
        group = groups.setdefault((kind, node.labels.get(MARKET_LABEL, "")), Counter())
        group.update(nodes=1, cpus=round(node.resources.get("CPU", 0)), gpus=gpus)
    return [
        {"class": kind, "market": market, **group}
        for (kind, market), group in sorted(groups.items())
    ]


def _cluster_nodes() -> list[NodeResources]:
    # Without this, the question would start a cluster.
    return cluster_nodes() if ray.is_initialized() else []

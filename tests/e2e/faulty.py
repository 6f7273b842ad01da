"""The application with replicas that certain audio kills or holds up, or that do not start."""

import asyncio
import os
import signal
from typing import Any

from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from deployments.messages import Chunk, ChunkResult
from deployments.replicas.replica import Replica
from deployments.tier import spec_of
from serve.app import build_with

POISON = 32_767
"""A chunk with such a sample ends the replica's process while others are decoded there."""
SLOW = -32_768
"""A chunk with such a sample is held up for a minute."""


UNABLE = 13
"""Replicas of a tier with this `batch_size` do not start."""


class FaultyReplica(Replica):
    def __init__(self, board: DeploymentHandle[Any]) -> None:
        if spec_of(os.environ).max_slots == UNABLE:
            raise RuntimeError("this replica does not start")
        super().__init__(board)

    async def decode(self, chunk: Chunk) -> ChunkResult:
        if chunk.pcm.max() == POISON:
            await asyncio.sleep(0.3)
            os.kill(os.getpid(), signal.SIGKILL)
        if chunk.pcm.min() == SLOW:
            await asyncio.sleep(60)
        return await super().decode(chunk)


def build(args: dict[str, Any]) -> Application:
    return build_with(args, FaultyReplica)

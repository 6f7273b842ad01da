"""The application with replicas that certain audio kills or holds up, for tests of failures."""

import asyncio
import os
import signal
from typing import Any

from ray.serve import Application

from deployments.messages import Chunk, ChunkResult
from deployments.replicas.replica import Replica
from serve.app import assemble
from serve.settings.loading import load_settings

POISON = 32_767
"""A chunk with such a sample ends the replica's process while others are decoded there."""
SLOW = -32_768
"""A chunk with such a sample is held up for a minute."""


class FaultyReplica(Replica):
    async def decode(self, chunk: Chunk) -> ChunkResult:
        if chunk.pcm.max() == POISON:
            await asyncio.sleep(0.3)
            os.kill(os.getpid(), signal.SIGKILL)
        if chunk.pcm.min() == SLOW:
            await asyncio.sleep(60)
        return await super().decode(chunk)


def build(args: dict[str, Any]) -> Application:
    return assemble(load_settings(values=args), FaultyReplica)

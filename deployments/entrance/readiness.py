"""Whether tiers decode chunks: judged by their recent work, or by a probe if they are idle."""

import asyncio
import logging
import time
import uuid
from collections.abc import Mapping, Sequence

import numpy as np

from deployments.errors import TierUnavailableError
from deployments.messages import Chunk, Pcm
from deployments.replicas.tier_client import ChunkLostError, TierClient
from engine import SAMPLE_RATE, DecodingOptions

logger = logging.getLogger("ray.serve")

_FRESH_S = 15.0
"""A result younger than this shows that a tier works. Kubernetes probes every 10 s."""
_PROBE_WAIT_S = 0.8
"""Kubernetes waits 1 s for the answer to a probe."""
_PROBE_PRIORITY = -1_000


def is_ready(states: Mapping[str, bool]) -> bool:
    """Whether the cluster is ready: at least one tier decodes, or no tier always has replicas.

    Args:
        states: whether each tier that always has replicas decodes, by name.
    """
    return any(states.values()) or not states


class Readiness:
    """Checks the tiers that always have replicas."""

    def __init__(self, tiers: Sequence[TierClient]) -> None:
        self._tiers = tiers
        self._probes: dict[str, asyncio.Task[None]] = {}

    async def states(self) -> dict[str, bool]:
        """Whether each tier decoded a chunk recently, or decodes a probe at once."""
        states = await asyncio.gather(*(self._is_ready(tier) for tier in self._tiers))
        return {tier.name: state for tier, state in zip(self._tiers, states, strict=True)}

    async def _is_ready(self, tier: TierClient) -> bool:
        """A busy tier is ready if it has recent results. An idle tier decodes a probe. If the probe
        takes longer than this call can wait, a later call sees its result."""
        if not _is_fresh(tier):
            probe = self._probes.get(tier.name)
            if probe is None or probe.done():
                probe = self._probes[tier.name] = asyncio.create_task(_probe(tier))
            await asyncio.wait({probe}, timeout=_PROBE_WAIT_S)
        return _is_fresh(tier)


async def _probe(tier: TierClient) -> None:
    """Let a tier decode one second of noise."""
    options = DecodingOptions(language="en", max_new_tokens=1)
    chunk = Chunk(f"probe-{uuid.uuid4().hex}", 0, _noise(), options, priority=_PROBE_PRIORITY)
    try:
        await tier.decode(chunk)
    except (ChunkLostError, TierUnavailableError) as error:
        logger.warning("the tier %s is not ready: %s", tier.name, error)


def _is_fresh(tier: TierClient) -> bool:
    return time.monotonic() - tier.last_decoded < _FRESH_S


def _noise() -> Pcm:
    return np.random.default_rng(0).integers(-3000, 3000, SAMPLE_RATE).astype(np.int16)

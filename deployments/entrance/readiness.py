"""Whether tiers decode chunks: kept by a pulse of the ingress's own, whoever asks and how often.

A tier is ready if it has decoded a chunk and its replicas still report to the board, which they do
every second. An idle tier decodes a probe now and then. A slow probe is no outage. One that does
not end is, and so are replicas that fall silent.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from deployments.errors import TierUnavailableError
from deployments.messages import Chunk, Pcm
from deployments.replicas.tier_client import ChunkLostError, TierClient
from engine import SAMPLE_RATE, DecodingOptions

logger = logging.getLogger("ray.serve")

BEAT_S = 1.0
_IDLE_S = 10.0
"""An idle tier decodes a probe this often, or so often that probes take a tenth of its time."""
_SHARE = 10.0
FRESH_S = 15.0
"""While the board is silent, a result younger than this shows that a tier works."""
SLOW_S = 60.0
"""Longest that a probe may take while replicas report."""
_HEARD_S = 10.0
"""What the board said counts for this long."""
_PROBE_PRIORITY = -1_000


def is_ready(states: Mapping[str, bool]) -> bool:
    """Whether the cluster is ready: at least one tier decodes, or no tier always has replicas.

    Args:
        states: whether each tier that always has replicas decodes, by name.
    """
    return any(states.values()) or not states


class _Pulse:
    """The last probe of a tier. `lost` and `failed` are the last times at which the tier had no
    replica, and at which a probe failed."""

    def __init__(self) -> None:
        self.began = float("-inf")
        self.took_s = 0.0
        self.failed = float("-inf")
        self.task: asyncio.Task[None] | None = None
        self.lost = float("-inf")

    @property
    def is_out(self) -> bool:
        return self.task is not None and not self.task.done()


class Readiness:
    """The state of the tiers that always have replicas.

    Args:
        tiers: clients of these tiers.
        clock: the clock of `TierClient.last_decoded`, in seconds.

    Attributes:
        tiers: may be set at any time.
    """

    def __init__(
        self, tiers: Sequence[TierClient], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.tiers = tiers
        self._clock = clock
        self._pulses: dict[str, _Pulse] = {}
        self._replicas: Mapping[str, int] = {}
        self._heard = float("-inf")

    def states(self) -> dict[str, bool]:
        """Whether each tier decodes."""
        now = self._clock()
        return {tier.name: self._is_ready(tier, now) for tier in self.tiers}

    def hear(self, replicas: Mapping[str, int]) -> None:
        """Take what the board says: how many replicas of each tier report."""
        self._replicas, self._heard = replicas, self._clock()
        for name, n in replicas.items():
            if n == 0:
                self._pulse(name).lost = self._heard

    def beat(self) -> None:
        """Send a probe to tiers that are idle. Call this every `BEAT_S`, on the event loop."""
        now = self._clock()
        for tier in self.tiers:
            pulse = self._pulse(tier.name)
            idle_s = now - max(tier.last_decoded, pulse.began)
            if idle_s >= max(_IDLE_S, _SHARE * pulse.took_s) and not pulse.is_out:
                pulse.began = now
                pulse.task = asyncio.create_task(self._probe(tier, pulse))

    def _pulse(self, name: str) -> _Pulse:
        return self._pulses.setdefault(name, _Pulse())

    def _is_ready(self, tier: TierClient, now: float) -> bool:
        pulse = self._pulse(tier.name)
        if now - self._heard >= _HEARD_S or tier.name not in self._replicas:
            return now - tier.last_decoded < FRESH_S + _SHARE * pulse.took_s
        hangs = pulse.is_out and now - pulse.began >= SLOW_S and tier.last_decoded < pulse.began
        has_decoded = tier.last_decoded > max(pulse.lost, pulse.failed)
        return self._replicas[tier.name] > 0 and has_decoded and not hangs

    async def _probe(self, tier: TierClient, pulse: _Pulse) -> None:
        """Let a tier decode one second of noise."""
        options = DecodingOptions(language="en", max_new_tokens=1)
        key = f"probe-{uuid.uuid4().hex}"
        chunk = Chunk(key, 0, _noise(), options, priority=_PROBE_PRIORITY)
        try:
            await tier.decode(chunk)
        except (ChunkLostError, TierUnavailableError) as error:
            pulse.failed = self._clock()
            logger.warning("the tier %s is not ready: %s", tier.name, error)
        else:
            pulse.took_s = self._clock() - pulse.began


def _noise() -> Pcm:
    return np.random.default_rng(0).integers(-3000, 3000, SAMPLE_RATE).astype(np.int16)

"""Who decides in a simulation: Murmur's own functions, or what others do."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

from deployments.fleet import Priority, Quality, TierState
from deployments.routing.arrivals import Arrivals
from deployments.routing.autoscaling import (
    Demand,
    ScalingOptions,
    TierMemory,
    decide,
)
from deployments.routing.router import Ask, candidates, route

CHUNK_S = 20.0


class Kind(NamedTuple):
    """What a chunk needs.

    Attributes:
        above: quality that a tier must have more of.
    """

    language: str
    priority: Priority
    above: int | None


class Policy(Protocol):
    """Decides where chunks go and how many replicas there are."""

    name: str
    escalates: bool
    denied: frozenset[str]
    """Tiers of which it takes it that no more can be had."""
    chunk_s: float
    """Audio of a chunk, on average."""

    def choose(self, kind: Kind, tiers: Sequence[TierState]) -> str:
        """The tier of a chunk."""

    def first(self, kind: Kind, tiers: Sequence[TierState]) -> str:
        """The one that `choose` gives whenever it has a replica and nothing waits for it."""

    def targets(
        self, tiers: Sequence[TierState], arrivals: Mapping[Kind, Arrivals], now: float
    ) -> Mapping[str, int]:
        """Replicas of each tier.

        Args:
            arrivals: audio that arrives, without that of batch priority.
        """


class Murmur:
    """`deployments.routing.router` and `deployments.routing.autoscaling` as they are.

    Args:
        quality: that all requests ask for.
        escalates: whether chunks that look wrong go to the next tier up.
        knows_prices: if not, all replicas are taken to cost the same.
        chunk_s: audio of a chunk, on average.
    """

    def __init__(
        self,
        name: str,
        options: ScalingOptions,
        quality: Quality = Quality.BALANCED,
        escalates: bool = True,
        knows_prices: bool = True,
        chunk_s: float = CHUNK_S,
    ) -> None:
        self.name = name
        self.escalates = escalates
        self.denied: frozenset[str] = frozenset()
        self._options = options
        self._quality = quality
        self._knows_prices = knows_prices
        self.chunk_s = chunk_s
        self._memory: Mapping[str, TierMemory] = {}

    def choose(self, kind: Kind, tiers: Sequence[TierState]) -> str:
        return route(self._ask(kind), self._seen(tiers), self.chunk_s).tier

    def first(self, kind: Kind, tiers: Sequence[TierState]) -> str:
        return candidates(self._ask(kind), self._seen(tiers))[0].facts.name

    def targets(
        self, tiers: Sequence[TierState], arrivals: Mapping[Kind, Arrivals], now: float
    ) -> Mapping[str, int]:
        seen = self._seen(tiers)
        demands = [
            Demand(self._able(kind, seen), came.rate, came.idle_s)
            for kind, came in arrivals.items()
        ]
        plan = decide(seen, demands, self._memory, now, self._options, self.chunk_s)
        self._memory = plan.memory
        self.denied = frozenset(name for name, d in plan.decisions.items() if d.denied)
        return {name: decision.replicas for name, decision in plan.decisions.items()}

    def _able(self, kind: Kind, tiers: Sequence[TierState]) -> tuple[str, ...]:
        return tuple(t.facts.name for t in candidates(self._ask(kind), tiers))

    def _ask(self, kind: Kind) -> Ask:
        is_batch = kind.priority is Priority.BATCH
        return Ask(
            language=kind.language,
            quality=self._quality,
            above=kind.above,
            priority=kind.priority,
            # Half of the objective, as `serve.app` has it.
            patience_s=(self._options.batch_wait_s if is_batch else self._options.queue_wait_s) / 2,
        )

    def _seen(self, tiers: Sequence[TierState]) -> Sequence[TierState]:
        if self._knows_prices:
            return tiers
        return [replace(t, facts=replace(t.facts, usd_per_hour=1.0)) for t in tiers]


class RayDefault:
    """One tier for all, scaled as Ray Serve does by default: by the mean number of chunks in it.

    `ray.serve.autoscaling_policy`: the number of requests of the last `look_back_s` on average,
    divided by `target`, rounded up; up after 30 s of wanting more, down after 600 s of wanting
    less, and never from none to none.

    Args:
        target: chunks a replica.
    """

    escalates = False
    denied: frozenset[str] = frozenset()
    chunk_s = CHUNK_S

    def __init__(
        self,
        tier: str,
        target: float,
        look_back_s: float = 30.0,
        up_delay_s: float = 30.0,
        down_delay_s: float = 600.0,
    ) -> None:
        self.name = f"{tier} alone: Ray's policy"
        self._tier = tier
        self._target = target
        self._look_back_s = look_back_s
        self._delays_s = {1: up_delay_s, -1: down_delay_s}
        self._seen: deque[tuple[float, float]] = deque()
        self._now_wanted = 0
        self._direction, self._since = 0, 0.0

    def choose(self, kind: Kind, tiers: Sequence[TierState]) -> str:
        return self._tier

    def first(self, kind: Kind, tiers: Sequence[TierState]) -> str:
        return self._tier

    def targets(
        self, tiers: Sequence[TierState], arrivals: Mapping[Kind, Arrivals], now: float
    ) -> Mapping[str, int]:
        tier = next(t for t in tiers if t.facts.name == self._tier)
        self._seen.append((now, (tier.queued_s + tier.batch_s) / CHUNK_S))
        while self._seen[0][0] < now - self._look_back_s:
            self._seen.popleft()
        mean = sum(n for _, n in self._seen) / len(self._seen)
        wanted = math.ceil(mean / self._target - 1e-9)
        wanted = min(max(wanted, tier.facts.min_replicas), tier.facts.max_replicas)
        current = max(self._now_wanted, tier.facts.min_replicas)
        direction = (wanted > current) - (wanted < current)
        if direction != self._direction:
            self._direction, self._since = direction, now
        if direction and now - self._since >= self._delays_s[direction]:
            current = wanted
            self._direction = 0
        self._now_wanted = current
        return {self._tier: current}

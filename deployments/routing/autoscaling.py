"""Decides how many replicas each tier should have, for all tiers together.

The decision is a pure function of the arriving audio, the waiting audio and the price of replicas.
The simulator calls it too. Work is assigned to the cheapest tier that can do it, as in `router`. A
tier grows at once. It shrinks when it has not needed a replica for some time. Replicas that were
requested and do not come are still requested, but their work is planned for other tiers.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from deployments.fleet import MEAN_CHUNK_S, TierState

_EPSILON = 1e-9
_GRACE_S = 10.0
"""Least time until a replica comes: Serve and the board need this long to hear of each other."""
_MAX_ROUNDS = 4
"""Most rounds in which each tier may give up a replica. Bounds the work of a decision."""


@dataclass(frozen=True, slots=True)
class ScalingOptions:
    """Tunables of the autoscaler.

    Args:
        utilization: share of a replica's speed to plan with; the rest absorbs uneven arrivals.
        queue_wait_s: seconds that chunks may wait for a slot.
        batch_wait_s: the same for chunks of batch priority.
        down_margin: share of their planned capacity that the remaining replicas must have free
            before a replica is removed. Without it, a load close to a whole number of replicas
            would start and stop one again and again.
        down_delay_s: a replica that was not needed for this long is removed.
        zero_delay_s: a tier without work for this long loses its last replica.
        patience: number of cold starts. Replicas that were requested throughout this time and did
            not come count as unavailable.
    """

    utilization: float = 0.75
    queue_wait_s: float = 5.0
    batch_wait_s: float = 600.0
    down_margin: float = 0.1
    down_delay_s: float = 120.0
    zero_delay_s: float = 600.0
    patience: float = 2.0


@dataclass(frozen=True, slots=True)
class Demand:
    """Arriving audio that the same tiers can decode.

    Attributes:
        tiers: names of the tiers that can decode it.
        rate: seconds of audio per second; batch priority excluded.
        idle_s: seconds since any of it arrived. `rate` is a mean, so it stays above 0 for some time
            after the last arrival.
    """

    tiers: tuple[str, ...]
    rate: float
    idle_s: float = 0.0


@dataclass(frozen=True, slots=True)
class TierMemory:
    """What the next decision needs to know about the last ones.

    `needs`, `targets` and `ready` are (time, replicas) pairs. Only those are kept that can still
    become the maximum or minimum of a sliding window.

    Attributes:
        needs: decreasing; each is the maximum since its time of the replicas that were needed, or
            that existed and were kept by the down margin.
        targets: increasing; each is the minimum since its time of the replicas that were requested.
        ready: decreasing; each is the maximum since its time of the replicas that answered.
        worked: when the tier last had work; None: never.
    """

    needs: tuple[tuple[float, int], ...] = ()
    targets: tuple[tuple[float, int], ...] = ()
    ready: tuple[tuple[float, int], ...] = ()
    worked: float | None = None

    def was_idle(self, now: float, delay_s: float) -> bool:
        """Whether the tier has no work now and had none for `delay_s` seconds."""
        return self.worked is None or (now > self.worked and now - self.worked >= delay_s)


@dataclass(frozen=True, slots=True)
class Decision:
    """How many replicas a tier should have, and why.

    Attributes:
        denied: whether no more replicas than the present ones are available now.
    """

    replicas: int
    reason: str
    denied: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """Decisions about all tiers, by name, and the memory for the next decision."""

    decisions: Mapping[str, Decision]
    memory: Mapping[str, TierMemory] = field(default_factory=dict)


def decide(
    tiers: Sequence[TierState],
    demands: Sequence[Demand],
    memory: Mapping[str, TierMemory],
    now: float,
    options: ScalingOptions,
    chunk_s: float = MEAN_CHUNK_S,
) -> Plan:
    """Decide how many replicas each tier should have.

    Args:
        memory: the memory from the last decision; empty at first.
        now: seconds of a rising clock.
        chunk_s: mean seconds of audio per chunk.
    """
    known = {t.facts.name: _seen(t, memory.get(t.facts.name), now, options) for t in tiers}
    denied = _denied(tiers, known)
    limits = {t.facts.name: t.facts.max_replicas for t in tiers}
    backlogs = {t.facts.name: _backlog(t, options, chunk_s) for t in tiers}
    asked, loads = _needs(tiers, demands, limits, backlogs, options)
    needs, had = asked, limits
    wished = loads
    if denied:  # other tiers take the work of replicas that do not come
        there = {t.facts.name: min(t.ready, limits[t.facts.name]) for t in tiers}
        had = limits | {name: there[name] for name in denied}
        needs, loads = _needs(tiers, demands, had, backlogs, options)
        needs = {name: asked[name] if name in denied else n for name, n in needs.items()}
    roomier = replace(options, utilization=options.utilization * (1 - options.down_margin))
    keeps, _ = _needs(tiers, demands, had, backlogs, roomier)
    decisions, remembered = {}, {}
    for tier in tiers:
        name = tier.facts.name
        # The margin keeps existing replicas, but starts no new ones.
        keep = min(keeps[name], known[name].targets[-1][1])
        idle_s = min(loads.idle_s[name], wished.idle_s[name])
        seen = _worked(known[name], tier, now, idle_s)
        held = _held(seen, max(needs[name], keep), now, options)
        wanted = max(_wanted(held, now, options), tier.facts.min_replicas)
        target = min(wanted, limits[name])
        remembered[name] = replace(held, targets=_least(held.targets, now, target))
        reason = _reason(tier, loads.rate[name], needs[name], target, chunk_s)
        if name in denied:
            reason += f"; {tier.ready} {tier.facts.accelerator} to be had"
        decisions[name] = Decision(target, reason, name in denied)
    return Plan(decisions, remembered)


def _seen(
    tier: TierState, memory: TierMemory | None, now: float, options: ScalingOptions
) -> TierMemory:
    """Update the memory with the present replicas, and drop entries that are too old to tell if
    requested replicas come. A start that is only slow, or a machine that was lost a moment ago, is
    not a shortage."""
    if memory is None:
        # Assume that the present replicas are needed, so that a board that was lost and started
        # again removes none.
        there = ((now, tier.ready),)
        return TierMemory(there, there, there, worked=now if tier.ready else None)
    since = now - options.patience * max(tier.facts.cold_start_s, _GRACE_S)
    last = memory.targets[-1]
    return replace(
        memory,
        ready=_most([(at, n) for at, n in memory.ready if at > since], now, tier.ready),
        targets=tuple((at, n) for at, n in memory.targets if at > since) or (last,),
    )


def _denied(tiers: Sequence[TierState], known: Mapping[str, TierMemory]) -> set[str]:
    """Tiers that can get no more replicas now, because the requested replicas of the tier itself,
    or of another tier on the same kind of machine, did not come."""
    short = {name for name, seen in known.items() if seen.ready[0][1] < seen.targets[0][1]}
    machines = {t.facts.machine for t in tiers if t.facts.name in short} - {""}
    return short | {t.facts.name for t in tiers if t.facts.machine in machines}


def _most(pairs: Iterable[tuple[float, int]], now: float, n: int) -> tuple[tuple[float, int], ...]:
    """Add a pair to a decreasing sequence, and drop earlier pairs that are not greater."""
    return (*((at, before) for at, before in pairs if before > n), (now, n))


def _least(pairs: Iterable[tuple[float, int]], now: float, n: int) -> tuple[tuple[float, int], ...]:
    """Add a pair to an increasing sequence, and drop earlier pairs that are not less."""
    return (*((at, before) for at, before in pairs if before < n), (now, n))


def _backlog(tier: TierState, options: ScalingOptions, chunk_s: float) -> float:
    """Number of replicas that are needed to finish the waiting audio in time.

    The time allowed is at least a cold start: many replicas do the work at the same price as few,
    but each of them has to be started.
    """
    urgent_s = tier.waiting_s(chunk_s)
    drain_s = max(options.queue_wait_s, tier.facts.cold_start_s)
    batch_s = max(options.batch_wait_s, drain_s)
    return (urgent_s / drain_s + tier.batch_s / batch_s) / tier.rtfx


@dataclass(frozen=True, slots=True)
class _Loads:
    """The demands assigned to each tier: seconds of audio per second, and seconds since any of it
    arrived. `homeless` is the rate for which no tier has room."""

    rate: dict[str, float]
    idle_s: dict[str, float]
    homeless: float


def _needs(
    tiers: Sequence[TierState],
    demands: Sequence[Demand],
    limits: Mapping[str, int],
    backlogs: Mapping[str, float],
    options: ScalingOptions,
) -> tuple[dict[str, int], _Loads]:
    """Number of replicas and load of each tier. First each demand goes to the tiers with the lowest
    price per second of audio. Then replicas are given up if others have room for their work."""
    by_name = {t.facts.name: t for t in tiers}
    caps = dict(limits)
    loads = _assign(by_name, demands, caps, options)
    homeless = loads.homeless
    counts = _counts(by_name, loads.rate, backlogs, limits, options)
    for _ in range(_MAX_ROUNDS):
        before = counts
        for tier in sorted(tiers, key=lambda t: (-t.facts.usd_per_hour, t.facts.name)):
            name = tier.facts.name
            if counts[name] <= max(tier.facts.min_replicas, math.ceil(backlogs[name] - _EPSILON)):
                continue
            fewer = caps | {name: counts[name] - 1}
            tried = _assign(by_name, demands, fewer, options)
            tried_counts = _counts(by_name, tried.rate, backlogs, limits, options)
            serves = tried.homeless <= homeless + _EPSILON and tried_counts[name] <= fewer[name]
            if serves and _cost(by_name, tried_counts) < _cost(by_name, counts) - _EPSILON:
                caps, loads, counts = fewer, tried, tried_counts
        if counts == before:
            break
    return counts, loads


def _assign(
    tiers: Mapping[str, TierState],
    demands: Sequence[Demand],
    caps: Mapping[str, int],
    options: ScalingOptions,
) -> _Loads:
    """Assign demands to tiers, those with the fewest possible tiers first. What finds no room goes
    to the cheapest tier, where it will show as a queue."""
    loads, homeless = dict.fromkeys(tiers, 0.0), 0.0
    idle_s = dict.fromkeys(tiers, math.inf)

    def give(name: str, demand: Demand, rate: float) -> None:
        loads[name] += rate
        if rate > 0:
            idle_s[name] = min(idle_s[name], demand.idle_s)

    for demand in sorted(demands, key=lambda d: (len(d.tiers), -d.rate, d.tiers)):
        able = [tiers[name] for name in demand.tiers if name in tiers]
        able.sort(key=lambda t: (t.usd_per_audio_s, -t.facts.quality, t.facts.name))
        left = demand.rate
        for tier in able:
            name = tier.facts.name
            room = caps[name] * tier.rtfx * options.utilization - loads[name]
            taken = min(left, max(0.0, room))
            give(name, demand, taken)
            left -= taken
        if able and left > 0:
            give(able[0].facts.name, demand, left)
            homeless += left
    return _Loads(loads, idle_s, homeless)


def _counts(
    tiers: Mapping[str, TierState],
    loads: Mapping[str, float],
    backlogs: Mapping[str, float],
    limits: Mapping[str, int],
    options: ScalingOptions,
) -> dict[str, int]:
    counts = {}
    for name, tier in tiers.items():
        wanted = loads[name] / (tier.rtfx * options.utilization) + backlogs[name]
        n = max(math.ceil(wanted - _EPSILON), tier.facts.min_replicas)
        counts[name] = min(n, limits[name])
    return counts


def _cost(tiers: Mapping[str, TierState], counts: Mapping[str, int]) -> float:
    return sum(tiers[name].facts.usd_per_hour * n for name, n in counts.items())


def _worked(memory: TierMemory, tier: TierState, now: float, idle_s: float) -> TierMemory:
    """Update the time at which the tier last had work: now, if it has any, else when audio assigned
    to it last arrived. The time at which a replica was last needed would be too late, because a
    mean rate needs a replica for half a minute longer."""
    if tier.queued_s + tier.batch_s > 0:
        return replace(memory, worked=now)
    times = [at for at in (memory.worked, now - idle_s) if at is not None and math.isfinite(at)]
    return replace(memory, worked=max(times, default=None))


def _held(memory: TierMemory, need: int, now: float, options: ScalingOptions) -> TierMemory:
    young = [(at, n) for at, n in memory.needs if at > now - options.down_delay_s]
    return replace(memory, needs=_most(young, now, need))


def _wanted(memory: TierMemory, now: float, options: ScalingOptions) -> int:
    """The most replicas needed recently. If that is at most 1: 1 if the tier had work within
    `zero_delay_s`, else 0."""
    wanted = max(n for _, n in memory.needs)
    return wanted if wanted > 1 else int(not memory.was_idle(now, options.zero_delay_s))


def _reason(tier: TierState, load: float, need: int, target: int, chunk_s: float) -> str:
    waiting_s = tier.waiting_s(chunk_s, with_batch=True)
    text = f"{load:.1f} s/s of {tier.rtfx:.1f} a replica, {waiting_s:.0f} s waiting: {need} needed"
    return text if target <= need else f"{text}, {target} held"

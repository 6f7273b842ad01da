"""How many replicas each tier should have: one decision about all of them.

A pure function of what arrives, what waits and what replicas cost, which the simulator calls as
well. Work goes to the cheapest tier that can do it, as `router` sends it; a tier grows at once and
shrinks when it has not needed a replica for some time; replicas that a class of devices does not
give are still asked for, but their work is planned for elsewhere.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from deployments.fleet import MEAN_CHUNK_S, TierState

_EPSILON = 1e-9
_GRACE_S = 10.0
"""No replica comes sooner: what Serve and the board need to hear of each other."""
_MAX_ROUNDS = 4
"""Times that each tier may give up a replica to others with room: bounds the work."""


@dataclass(frozen=True, slots=True)
class ScalingOptions:
    """
    Args:
        utilization: share of a replica's speed that is planned with; the rest is for what comes
            unevenly.
        queue_wait_s: that chunks may wait for a slot.
        batch_wait_s: the same, of batch priority.
        down_margin: share of what is planned with that the others have to have left, before a
            replica goes: of a load of about a whole number of replicas, one would come and go.
        down_delay_s: a replica that was not needed for so long goes.
        zero_delay_s: a tier that had no work for so long goes to none.
        patience: replicas that were asked for all through so many of their cold starts, and did
            not come, cannot be had now.
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
    """Audio that arrives.

    Attributes:
        tiers: those that can do it.
        rate: seconds of audio a second, without that of batch priority.
        idle_s: since any of it came. A rate is a mean, and is there for some time after that.
    """

    tiers: tuple[str, ...]
    rate: float
    idle_s: float = 0.0


@dataclass(frozen=True, slots=True)
class TierMemory:
    """What the next decision has to know of the last ones: (when, replicas) pairs, of which those
    are kept that can still be the extreme of the time that counts.

    Attributes:
        needs: each less than the one before: the most that was needed since then, or of what there
            was is needed with the margin.
        targets: each more than the one before: the least that was asked for.
        ready: each less than the one before: the most that was there.
        worked: when it last had work; None: it never had.
    """

    needs: tuple[tuple[float, int], ...] = ()
    targets: tuple[tuple[float, int], ...] = ()
    ready: tuple[tuple[float, int], ...] = ()
    worked: float | None = None

    def was_idle(self, now: float, delay_s: float) -> bool:
        """Whether it had no work for so long, and has none now."""
        return self.worked is None or (now > self.worked and now - self.worked >= delay_s)


@dataclass(frozen=True, slots=True)
class Decision:
    """Replicas of a tier, and why.

    Attributes:
        denied: more than are there cannot be had now.
    """

    replicas: int
    reason: str
    denied: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """Decisions about all tiers, by name, and what to remember."""

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
    """
    Args:
        memory: of the last decision; empty at first.
        now: seconds, rising.
        chunk_s: audio of a chunk, on average.
    """
    known = {t.facts.name: _seen(t, memory.get(t.facts.name), now, options) for t in tiers}
    denied = _denied(tiers, known)
    limits = {t.facts.name: t.facts.max_replicas for t in tiers}
    backlogs = {t.facts.name: _backlog(t, options, chunk_s) for t in tiers}
    asked, loads = _needs(tiers, demands, limits, backlogs, options)
    needs, had = asked, limits
    wished = loads
    if denied:  # others do what those would do that do not come
        there = {t.facts.name: min(t.ready, limits[t.facts.name]) for t in tiers}
        had = limits | {name: there[name] for name in denied}
        needs, loads = _needs(tiers, demands, had, backlogs, options)
        needs = {name: asked[name] if name in denied else n for name, n in needs.items()}
    roomier = replace(options, utilization=options.utilization * (1 - options.down_margin))
    keeps, _ = _needs(tiers, demands, had, backlogs, roomier)
    decisions, remembered = {}, {}
    for tier in tiers:
        name = tier.facts.name
        # A margin keeps what there is; it starts nothing.
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
    """The memory with what is there now, and without what is too old to tell whether replicas come:
    a start that is only slow, or a machine that was lost a moment ago, is no shortage."""
    if memory is None:
        # What is there was needed: a board that was lost takes nobody's replicas away.
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
    """Tiers that get no more replicas: those that were asked for did not come, or those of another
    tier on the same machines."""
    short = {name for name, seen in known.items() if seen.ready[0][1] < seen.targets[0][1]}
    machines = {t.facts.machine for t in tiers if t.facts.name in short} - {""}
    return short | {t.facts.name for t in tiers if t.facts.machine in machines}


def _most(pairs: Iterable[tuple[float, int]], now: float, n: int) -> tuple[tuple[float, int], ...]:
    """With one more pair, and without those that a later one is not less than."""
    return (*((at, before) for at, before in pairs if before > n), (now, n))


def _least(pairs: Iterable[tuple[float, int]], now: float, n: int) -> tuple[tuple[float, int], ...]:
    """The same, of those that a later one is not more than."""
    return (*((at, before) for at, before in pairs if before < n), (now, n))


def _backlog(tier: TierState, options: ScalingOptions, chunk_s: float) -> float:
    """Replicas that bring what waits to its end. In no shorter time than one takes to come: the
    work costs the same by many as by few, but each has to be started."""
    urgent_s = tier.waiting_s(chunk_s)
    drain_s = max(options.queue_wait_s, tier.facts.cold_start_s)
    batch_s = max(options.batch_wait_s, drain_s)
    return (urgent_s / drain_s + tier.batch_s / batch_s) / tier.rtfx


@dataclass(frozen=True, slots=True)
class _Loads:
    """What demands come to, by tier: seconds of audio a second, and seconds since any of it came;
    and the rate that finds no room."""

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
    """Replicas and load of each tier: the cheapest by the second of work, and then without those
    replicas whose work others have room for."""
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
    """Demands with the fewest tiers to choose from choose first; what finds no room goes to the
    cheapest, whose queue then tells of it."""
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
    """With when it last had work: now, if it has any, else when what it does last came. Not when it
    was last needed, for a mean rate asks for a replica half a minute longer."""
    if tier.queued_s + tier.batch_s > 0:
        return replace(memory, worked=now)
    times = [at for at in (memory.worked, now - idle_s) if at is not None and math.isfinite(at)]
    return replace(memory, worked=max(times, default=None))


def _held(memory: TierMemory, need: int, now: float, options: ScalingOptions) -> TierMemory:
    young = [(at, n) for at, n in memory.needs if at > now - options.down_delay_s]
    return replace(memory, needs=_most(young, now, need))


def _wanted(memory: TierMemory, now: float, options: ScalingOptions) -> int:
    """The most that was needed lately; of the last one, whether there was work not long ago."""
    wanted = max(n for _, n in memory.needs)
    return wanted if wanted > 1 else int(not memory.was_idle(now, options.zero_delay_s))


def _reason(tier: TierState, load: float, need: int, target: int, chunk_s: float) -> str:
    waiting_s = tier.waiting_s(chunk_s, with_batch=True)
    text = f"{load:.1f} s/s of {tier.rtfx:.1f} a replica, {waiting_s:.0f} s waiting: {need} needed"
    return text if target <= need else f"{text}, {target} held"

"""A trace through a cluster, by a policy's decisions."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.simulation.cluster import Finished, SimChunk, SimCluster, SimTier, TierNow
from benchmarks.simulation.live import Lags, LiveLoad
from benchmarks.simulation.policies import CHUNK_S, Kind, Policy
from benchmarks.simulation.traces import Arrival
from deployments.fleet import Priority, TierState
from deployments.routing.arrivals import ArrivalRates, Arrivals

TICK_S = 1.0
"""Between reports, and between decisions: what is decided on is the last tick's."""
NODE_LINGER_S = 60.0
"""That a node is paid for after its replica has gone."""
_MOVED_A_TICK = 10_000
_SAMPLE_S = 60.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a day was like.

    Attributes:
        usd: of all replicas, from the moment they were asked for.
        usd_per_audio_hour: of the audio that came.
        device_hours: by class.
        late: share of the starts of chunks that had waited longer than the objective.
        wait_p50_s, wait_p99_s, mean_wait_s: of chunks that are not of batch priority.
        wer: of the text that was kept, weighed by audio.
        escalated: share of chunks that a better tier decoded again.
        samples: (seconds, replicas by tier), each minute.
    """

    policy: str
    usd: float
    usd_per_audio_hour: float
    device_hours: Mapping[str, float]
    late: float
    batch_late: float
    wait_p50_s: float
    wait_p99_s: float
    mean_wait_s: float
    wer: float
    escalated: float
    audio_hours: float
    n_chunks: int
    samples: tuple[tuple[float, Mapping[str, int]], ...]


class Run:
    """One policy over one trace.

    Args:
        objective_s, batch_objective_s: that a chunk may wait.
        begins_s: what comes before is done as all else, but not counted: a cluster that starts with
            nothing says little of the day.
        ends_s: when the trace ends; what is unfinished then is still done, and paid for.
        live: sessions beside it; their looks count among the waits and the costs, not as audio.

    Attributes:
        done_s: seconds of files' audio that were done before `ends_s`, by priority.
        changes: (seconds, tier, replicas) of each decision that differed from the one before.
    """

    def __init__(
        self,
        tiers: list[SimTier],
        policy: Policy,
        seed: int,
        begins_s: float,
        ends_s: float,
        objective_s: float = 5.0,
        batch_objective_s: float = 3600.0,
        node_linger_s: float = NODE_LINGER_S,
        live: LiveLoad | None = None,
    ) -> None:
        self.cluster = SimCluster(tiers, seed, node_linger_s, hears_s=TICK_S)
        self.policy = policy
        self._begins_s, self._ends_s = begins_s, ends_s
        self._objective_s = objective_s
        self._batch_objective_s = batch_objective_s
        self._best = max(tier.facts.quality for tier in tiers)
        self._rng = np.random.default_rng([seed, 2])
        self._doubts: list[float] = []
        self._arrivals: ArrivalRates[Kind] = ArrivalRates()
        self._firsts: dict[Kind, TierNow] = {}
        self._reported: tuple[list[TierState], dict[Kind, Arrivals]] = ([], {})
        self._errors = 0.0
        self._kept_s = 0.0
        self._n_chunks = 0
        self._n_escalated = 0
        self.changes: list[tuple[float, str, int]] = []
        self._samples: list[tuple[float, dict[str, int]]] = []
        self._live = live
        self.done_s = dict.fromkeys(Priority, 0.0)

    def play(self, trace: Iterable[Arrival], drains: bool = True) -> Outcome:
        """Let it all happen.

        Args:
            trace: from any time before `begins_s` on.
            drains: whether what is unfinished at the end of the trace is still done.
        """
        arrivals = iter(trace)
        coming = next(arrivals, None)
        first_s = coming.at_s if coming is not None else self._begins_s
        if self._live is not None:
            first_s = min(first_s, self._live.next_s)
        tick_s: float = math.floor(first_s)
        cluster = self.cluster
        for name, tier in cluster.tiers.items():
            cluster.begin(name, tier.spec.facts.min_replicas, tick_s)
        while True:
            arrival_s = coming.at_s if coming is not None else math.inf
            live_s = self._live.next_s if self._live is not None else math.inf
            event_s = cluster.next_s
            if min(arrival_s, live_s, event_s) >= tick_s:
                is_over = min(arrival_s, live_s) == math.inf and not self._has_work()
                if tick_s >= self._ends_s and (is_over or not drains):
                    break
                self._tick(tick_s)
                tick_s += TICK_S
            elif live_s <= min(arrival_s, event_s):
                self._look(live_s)
            elif arrival_s <= event_s:
                assert coming is not None
                self._arrive(coming)
                coming = next(arrivals, None)
            elif (finished := cluster.step()) is not None:
                self._finish(finished)
        cluster.close(max(cluster.now, self._ends_s))
        return self._outcome()

    def _has_work(self) -> bool:
        return any(tier.n_chunks for tier in self.cluster.tiers.values())

    def _arrive(self, arrival: Arrival) -> None:
        for audio_s in chunks_of(arrival.audio_s):
            self._n_chunks += 1
            chunk = SimChunk(audio_s, arrival.language, arrival.priority, arrival.at_s)
            if arrival.work_s is not None:
                chunk.work_s = arrival.work_s * audio_s / arrival.audio_s
            self._send(chunk, arrival.at_s)

    def _look(self, now: float) -> None:
        """Send the look of a live session that is due. A session stays with the tier that suited it
        when it began."""
        assert self._live is not None
        if (found := self._live.step()) is None:
            return
        session, look = found
        kind = Kind(look.language, look.priority, None)
        session.tier = session.tier or self.policy.choose(kind, self._states())
        self._n_chunks += 1
        self._arrivals.add(kind, look.audio_s)
        self.cluster.add(look, session.tier, now)

    def _send(self, chunk: SimChunk, now: float) -> None:
        kind = Kind(chunk.language, chunk.priority, chunk.above)
        if chunk.priority is not Priority.BATCH:
            self._arrivals.add(kind, chunk.audio_s)
        self._place(kind, chunk, now)

    def _place(self, kind: Kind, chunk: SimChunk, now: float) -> str:
        first = self._firsts.get(kind)
        if first is None:
            first = self.cluster.tiers[self.policy.first(kind, self._states())]
            self._firsts[kind] = first
        # What the policy would say, without asking it for each of millions.
        in_slots_s = first.ready * first.slots * self.policy.chunk_s
        is_idle = first.ready and first.queued_s + first.batch_s <= in_slots_s
        name = first.spec.facts.name if is_idle else self.policy.choose(kind, self._states())
        self.cluster.add(chunk, name, now)
        return name

    def _states(self) -> list[TierState]:
        return [tier.state for tier in self.cluster.tiers.values()]

    def _finish(self, finished: Finished) -> None:
        chunk, tier = finished.chunk, finished.tier
        if chunk.session is not None:
            assert self._live is not None
            self._live.answered(chunk.session, self.cluster.now)
            return
        facts = tier.spec.facts
        if self.policy.escalates and facts.quality < self._best and self._is_doubted(tier.spec):
            self._n_escalated += 1
            chunk.above = facts.quality
            self._send(chunk, self.cluster.now)
            return
        self._errors += tier.spec.wer * chunk.audio_s
        self._kept_s += chunk.audio_s
        if self.cluster.now <= self._ends_s:
            self.done_s[chunk.priority] += chunk.audio_s

    def _is_doubted(self, tier: SimTier) -> bool:
        if not self._doubts:
            self._doubts = self._rng.random(4096).tolist()
        return self._doubts.pop() < tier.doubted

    def _tick(self, now: float) -> None:
        self.cluster.now = now
        if now == self._begins_s:
            self.cluster.reset()
            self._errors = self._kept_s = 0.0
            self._n_chunks = self._n_escalated = 0
            self.done_s = dict.fromkeys(Priority, 0.0)
            if self._live is not None:
                self._live.lags = Lags()
        states, arrivals = self._reported
        self._reported = self._states(), self._arrivals.at(now)
        targets = self.policy.targets(states, arrivals, now) if states else {}
        for name, target in targets.items():
            if target != self.cluster.tiers[name].target:
                self.changes.append((now, name, target))
            if target != self.cluster.tiers[name].target or self._is_short(name):
                self.cluster.scale(name, target, now)
        for name, tier in self.cluster.tiers.items():
            tier.denied = name in self.policy.denied
        self._move(now)
        if now % _SAMPLE_S == 0:
            self._samples.append((now, {n: t.ready for n, t in self.cluster.tiers.items()}))

    def _is_short(self, name: str) -> bool:
        tier = self.cluster.tiers[name]
        return sum(not r.is_leaving for r in tier.replicas) < tier.target

    def _move(self, now: float) -> None:
        """Chunks that still wait go where they would be sent to now."""
        moved = 0
        for name in self.cluster.tiers:
            for chunk in self.cluster.take_back(name):
                moved += 1
                if chunk.session is not None:
                    self.cluster.add(chunk, name, now)
                    break
                kind = Kind(chunk.language, chunk.priority, chunk.above)
                if self._place(kind, chunk, now) == name or moved >= _MOVED_A_TICK:
                    break

    def _outcome(self) -> Outcome:
        tiers = self.cluster.tiers.values()
        usd = sum(t.replica_s / 3600 * t.spec.facts.usd_per_hour for t in tiers)
        hours: dict[str, float] = {}
        for tier in tiers:
            name = tier.spec.facts.accelerator
            hours[name] = hours.get(name, 0.0) + tier.replica_s / 3600
        waits = np.concatenate(
            [np.asarray(self.cluster.waits[p]) for p in Priority if p is not Priority.BATCH]
        )
        batch = np.asarray(self.cluster.waits[Priority.BATCH])
        return Outcome(
            policy=self.policy.name,
            usd=usd,
            usd_per_audio_hour=usd / (self._kept_s / 3600) if self._kept_s else math.nan,
            device_hours=hours,
            late=float((waits > self._objective_s).mean()),
            batch_late=float((batch > self._batch_objective_s).mean()) if len(batch) else 0.0,
            wait_p50_s=float(np.quantile(waits, 0.5)),
            wait_p99_s=float(np.quantile(waits, 0.99)),
            mean_wait_s=float(waits.mean()),
            wer=self._errors / self._kept_s if self._kept_s else math.nan,
            escalated=self._n_escalated / self._n_chunks,
            audio_hours=self._kept_s / 3600,
            n_chunks=self._n_chunks,
            samples=tuple(self._samples),
        )


def chunks_of(audio_s: float) -> Iterator[float]:
    """A file's audio in chunks of equal length, `CHUNK_S` or a little less or more."""
    n = max(1, round(audio_s / CHUNK_S))
    for _ in range(n):
        yield audio_s / n

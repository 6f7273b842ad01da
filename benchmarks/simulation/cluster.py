"""Tiers, replicas and chunks as discrete events: what the cluster would do, without decoding.

A replica decodes as many chunks at once as it has slots. If a step waits for memory, as on a GPU,
the speed of each chunk does not depend on their number (`flat` 1). If it waits for arithmetic, as
on a CPU, the chunks share the speed (`flat` 0). Chunks that find no slot wait in their tier's
queue, by priority, first come first served.
"""

import heapq
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from deployments.fleet import Priority, TierFacts, TierState

if TYPE_CHECKING:
    from benchmarks.simulation.live import Session

PRIORITIES = tuple(Priority)
LIVE_S = 5.0
"""So long after a look, somebody is taken to be speaking."""


@dataclass(frozen=True, slots=True)
class SimTier:
    """A tier's machine, in numbers.

    Attributes:
        rtfx: speed of a replica with all slots in use.
        flat: how little a step's time depends on the number of chunks, 0 to 1.
        wer: word error rate of its text.
        doubted: share of its chunks that look wrong.
        lost_per_hour: how often each replica's spot machine is taken back.
        stock: devices of its class available at a time; None: as many as are wanted.
        starts_after_s: how long a replica takes to start; None: what the policy expects.
        told_rtfx: the speed that the policy assumes for a replica; None: the real one.
        beside_live: slots of a replica that files may take while somebody speaks
            (`engine.scheduler`); None: all.
    """

    facts: TierFacts
    rtfx: float
    flat: float = 1.0
    wer: float = 0.1
    doubted: float = 0.0
    lost_per_hour: float = 0.0
    stock: Callable[[float], int] | None = None
    starts_after_s: float | None = None
    told_rtfx: float | None = None
    beside_live: int | None = None

    @property
    def start_s(self) -> float:
        expected_s = self.facts.cold_start_s
        return expected_s if self.starts_after_s is None else self.starts_after_s


class SimChunk:
    """A chunk of audio on its way.

    Attributes:
        came_s: when it joined its current queue, or was last sent to one.
        waited_s: time spent in earlier queues.
        above: a tier's quality must be higher than this.
        work_s: seconds of ordinary audio that would take as long.
        session: the live session that looks; None: it is of a file.
    """

    __slots__ = (
        "above",
        "audio_s",
        "came_s",
        "language",
        "priority",
        "session",
        "waited_s",
        "work_s",
    )

    def __init__(self, audio_s: float, language: str, priority: Priority, now: float) -> None:
        self.audio_s = self.work_s = audio_s
        self.language = language
        self.priority = priority
        self.came_s = now
        self.waited_s = 0.0
        self.above: int | None = None
        self.session: Session | None = None


@dataclass(eq=False, slots=True)
class _Replica:
    """`running` holds the chunks in its slots by number. The rest is for replicas whose speed
    depends on the number of chunks: `progress`, the seconds of audio that each slot has completed
    since the start, and a heap of the progress at which each chunk ends."""

    tier: "TierNow"
    began_s: float
    is_ready: bool = False
    is_leaving: bool = False
    place: int = -1
    running: dict[int, SimChunk] = field(default_factory=dict)
    heap: list[tuple[float, int]] = field(default_factory=list)
    progress: float = 0.0
    updated_s: float = 0.0
    next_event: int = -1


class _Free:
    """Replicas with a free slot; of two drawn at random the emptier one is taken, as in Serve."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._all: list[_Replica] = []
        self._rng = rng
        self._numbers: list[float] = []

    def __bool__(self) -> bool:
        return bool(self._all)

    def add(self, replica: _Replica) -> None:
        replica.place = len(self._all)
        self._all.append(replica)

    def discard(self, replica: _Replica) -> None:
        if replica.place < 0:
            return
        last = self._all.pop()
        if last is not replica:
            self._all[replica.place], last.place = last, replica.place
        replica.place = -1

    def choose(self) -> _Replica:
        n = len(self._all)
        if n == 1:
            return self._all[0]
        if len(self._numbers) < 2:  # many at once: one by one they cost more than all else
            self._numbers = self._rng.random(4096).tolist()
        first = self._all[int(self._numbers.pop() * n)]
        second = self._all[int(self._numbers.pop() * n)]
        return first if len(first.running) <= len(second.running) else second


class TierNow:
    """A tier while time passes.

    Attributes:
        replica_s: paid seconds of replicas that have gone.
        audio_s: seconds of audio that are done.
        n_chunks: chunks that wait or run.
        n_files: chunks of files in slots.
        looked_s: when the last look came.
    """

    def __init__(self, spec: SimTier, rng: np.random.Generator) -> None:
        self.spec = spec
        self.replicas: dict[_Replica, None] = {}
        self.free = _Free(rng)
        self.queues: dict[Priority, deque[SimChunk]] = {p: deque() for p in PRIORITIES}
        self.n_waiting = 0
        self.n_chunks = 0
        self.n_files = 0
        self.looked_s = float("-inf")
        self.queued_s = 0.0
        self.batch_s = 0.0
        self.target = 0
        self.ready = 0
        self.replica_s = 0.0
        self.audio_s = 0.0
        self.denied = False
        self.slots = spec.facts.slots
        self.is_flat = spec.flat == 1.0
        self.rtfx = spec.rtfx if spec.told_rtfx is None else spec.told_rtfx
        self.slot_speed = spec.rtfx / self.slots

    @property
    def state(self) -> TierState:
        queued_s, batch_s = max(0.0, self.queued_s), max(0.0, self.batch_s)
        return TierState(self.spec.facts, self.rtfx, queued_s, batch_s, self.ready, self.denied)

    def next_queue(self, now: float) -> deque[SimChunk] | None:
        """The queue whose first chunk gets the next slot."""
        if not self.n_waiting:
            return None
        if self.queues[Priority.REALTIME]:
            return self.queues[Priority.REALTIME]
        most = self.spec.beside_live
        if most is not None and now - self.looked_s <= LIVE_S and self.n_files >= most * self.ready:
            return None
        return next(queue for queue in self.queues.values() if queue)

    def speed(self, n: int) -> float:
        """Seconds of audio per second for each of n chunks in a replica."""
        flat = self.spec.flat
        return self.slot_speed / (flat + (1 - flat) * n / self.slots)

    def count(self, chunk: SimChunk, sign: int) -> None:
        self.n_chunks += sign
        if chunk.priority is Priority.BATCH:
            self.batch_s += sign * chunk.audio_s
        else:
            self.queued_s += sign * chunk.audio_s
        if not self.n_chunks:  # removes the rounding errors of millions of sums
            self.queued_s = self.batch_s = 0.0


class Finished(NamedTuple):
    """A chunk whose tier has returned its text."""

    chunk: SimChunk
    tier: TierNow


_READY, _LOST, _DONE = range(3)


class SimCluster:
    """The machines. The caller gives the time, which only rises.

    Args:
        node_linger_s: how long a node is paid for after its replica has gone.
        hears_s: how often an ingress hears of replicas; a new one gets chunks only after that.

    Attributes:
        waits: seconds that each chunk waited for a slot, each time that it got one.
    """

    def __init__(
        self, tiers: list[SimTier], seed: int, node_linger_s: float, hears_s: float
    ) -> None:
        self._rng = np.random.default_rng([seed, 1])
        self.tiers = {tier.facts.name: TierNow(tier, self._rng) for tier in tiers}
        self.waits = {priority: array("f") for priority in PRIORITIES}
        self.now = 0.0
        self._linger_s = node_linger_s
        self._hears_s = hears_s
        self._events: list[tuple[float, int, int, _Replica]] = []
        self._last_id = 0

    @property
    def next_s(self) -> float:
        """The time of the next event."""
        return self._events[0][0] if self._events else float("inf")

    def add(self, chunk: SimChunk, tier: str, now: float) -> None:
        """Send a chunk to a tier."""
        self.now = now
        there = self.tiers[tier]
        there.count(chunk, 1)
        chunk.came_s = now
        if chunk.session is not None:
            there.looked_s = now
        there.queues[chunk.priority].append(chunk)
        there.n_waiting += 1
        self._fill(there)

    def take_back(self, tier: str) -> Iterator[SimChunk]:
        """Remove waiting chunks from a tier's queues, the least urgent and last ones first."""
        there = self.tiers[tier]
        for priority in reversed(PRIORITIES):
            while there.queues[priority]:
                chunk = there.queues[priority].pop()
                there.n_waiting -= 1
                chunk.waited_s += self.now - chunk.came_s
                there.count(chunk, -1)
                yield chunk

    def scale(self, tier: str, target: int, now: float) -> None:
        """Ask for a number of replicas; starting and stopping take time."""
        self.now = now
        there = self.tiers[tier]
        there.target = target
        staying = [r for r in there.replicas if not r.is_leaving]
        stock = there.spec.stock
        room = target if stock is None else min(target, stock(now))
        for _ in range(len(staying), room):
            replica = _Replica(there, now)
            there.replicas[replica] = None
            heard_s = self._hears_s * self._rng.random()
            self._push(now + there.spec.start_s + heard_s, _READY, replica)
        # First those that have not started yet, then the idlest.
        staying.sort(key=lambda r: (r.is_ready, len(r.running)))
        for replica in staying[: max(0, len(staying) - target)]:
            self._leave(replica)

    def begin(self, tier: str, n: int, now: float) -> None:
        """Start with replicas that are there from the beginning."""
        there = self.tiers[tier]
        there.target = n
        for _ in range(n):
            replica = _Replica(there, now)
            there.replicas[replica] = None
            self._push(now, _READY, replica)

    def step(self) -> Finished | None:
        """Process the next event."""
        self.now, number, kind, replica = heapq.heappop(self._events)
        if kind == _DONE:
            if replica.tier.is_flat:
                return self._finish(replica, number) if number in replica.running else None
            if number == replica.next_event:
                self._advance(replica)
                return self._finish(replica, heapq.heappop(replica.heap)[1])
        elif kind == _READY:
            self._ready(replica)
        else:
            self._lose(replica)
        return None

    def reset(self) -> None:
        """Count waits, costs and audio from now on."""
        self.waits = {priority: array("f") for priority in PRIORITIES}
        for tier in self.tiers.values():
            tier.replica_s = tier.audio_s = 0.0
            for replica in tier.replicas:
                replica.began_s = self.now

    def close(self, now: float) -> None:
        """Count the time of what still runs."""
        for tier in self.tiers.values():
            for replica in tier.replicas:
                tier.replica_s += now - replica.began_s

    def _ready(self, replica: _Replica) -> None:
        if replica.is_leaving or replica not in replica.tier.replicas:
            return
        tier = replica.tier
        replica.is_ready, replica.updated_s = True, self.now
        tier.ready += 1
        tier.free.add(replica)
        if tier.spec.lost_per_hour:
            lives_s = self._rng.exponential(3600 / tier.spec.lost_per_hour)
            self._push(self.now + lives_s, _LOST, replica)
        self._fill(tier)

    def _lose(self, replica: _Replica) -> None:
        """Lose a replica. Its chunks start again, before all others; Serve asks for another."""
        tier = replica.tier
        if replica not in tier.replicas:
            return
        chunks = list(replica.running.values())
        replica.next_event = -1
        replica.running.clear()
        self._remove(replica, linger_s=0.0)
        for chunk in chunks:
            tier.queues[chunk.priority].appendleft(chunk)
            tier.n_waiting += 1
            chunk.came_s = self.now
            tier.n_files -= chunk.session is None
        if not replica.is_leaving:
            self.scale(tier.spec.facts.name, tier.target, self.now)
        self._fill(tier)

    def _leave(self, replica: _Replica) -> None:
        replica.is_leaving = True
        tier = replica.tier
        if replica.is_ready:
            tier.ready -= 1
        tier.free.discard(replica)
        if not replica.running:
            self._remove(replica, self._linger_s)

    def _remove(self, replica: _Replica, linger_s: float) -> None:
        tier = replica.tier
        del tier.replicas[replica]
        tier.free.discard(replica)
        if replica.is_ready and not replica.is_leaving:
            tier.ready -= 1
        tier.replica_s += self.now - replica.began_s + linger_s

    def _fill(self, tier: TierNow) -> None:
        """Give waiting chunks the slots that are free."""
        while tier.free and (queue := tier.next_queue(self.now)) is not None:
            tier.n_waiting -= 1
            self._start(tier.free.choose(), queue.popleft())

    def _start(self, replica: _Replica, chunk: SimChunk) -> None:
        tier = replica.tier
        self.waits[chunk.priority].append(chunk.waited_s + self.now - chunk.came_s)
        chunk.waited_s = 0.0
        tier.n_files += chunk.session is None
        if tier.is_flat:
            took_s = chunk.work_s / tier.slot_speed
            replica.running[self._push(self.now + took_s, _DONE, replica)] = chunk
        else:
            self._advance(replica)
            self._last_id += 1
            replica.running[self._last_id] = chunk
            heapq.heappush(replica.heap, (replica.progress + chunk.work_s, self._last_id))
            self._schedule(replica)
        if len(replica.running) >= tier.slots:
            tier.free.discard(replica)

    def _finish(self, replica: _Replica, number: int) -> Finished:
        chunk = replica.running.pop(number)
        tier = replica.tier
        tier.count(chunk, -1)
        tier.n_files -= chunk.session is None
        tier.audio_s += chunk.audio_s
        if replica.is_leaving:
            if not replica.running:
                self._remove(replica, self._linger_s)
        elif len(replica.running) == tier.slots - 1:
            tier.free.add(replica)
        if not tier.is_flat:
            self._schedule(replica)
        if tier.n_waiting:
            self._fill(tier)
        return Finished(chunk, tier)

    def _advance(self, replica: _Replica) -> None:
        """Advance a replica's chunks to the present."""
        if n := len(replica.running):
            replica.progress += (self.now - replica.updated_s) * replica.tier.speed(n)
        replica.updated_s = self.now

    def _schedule(self, replica: _Replica) -> None:
        """Schedule the end of its next chunk, as things are now."""
        replica.next_event = -1
        if replica.running:
            left_s = max(0.0, replica.heap[0][0] - replica.progress)
            at_s = self.now + left_s / replica.tier.speed(len(replica.running))
            replica.next_event = self._push(at_s, _DONE, replica)

    def _push(self, at_s: float, kind: int, replica: _Replica) -> int:
        """Add an event; returns its number."""
        self._last_id += 1
        heapq.heappush(self._events, (at_s, self._last_id, kind, replica))
        return self._last_id

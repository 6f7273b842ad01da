"""Tiers, replicas and chunks as discrete events: what the cluster would do, without computing it.

A replica decodes as many chunks at once as it has slots. How fast each gets on depends on how many
there are: not at all where a step waits for memory, as on a GPU (`flat` 1), in proportion where it
waits for arithmetic, as on a CPU (`flat` 0). Chunks that find no slot wait in their tier's queue,
by priority, first come first served.
"""

import heapq
import itertools
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from deployments.fleet import Priority, TierFacts, TierState

PRIORITIES = tuple(Priority)


@dataclass(frozen=True, slots=True)
class SimTier:
    """A tier's machine, in numbers.

    Attributes:
        rtfx: of a replica with all slots in use.
        flat: how little a step's time depends on the number of chunks, 0 to 1.
        wer: of the text that it gives.
        doubted: share of its chunks that look wrong.
        lost_per_hour: of each replica: how often spot capacity is taken back.
        stock: devices of its class that can be had at a time; None: as many as are wanted.
    """

    facts: TierFacts
    rtfx: float
    flat: float = 1.0
    wer: float = 0.1
    doubted: float = 0.0
    lost_per_hour: float = 0.0
    stock: Callable[[float], int] | None = None


@dataclass(slots=True)
class SimChunk:
    """Audio on its way.

    Attributes:
        came_s: when it joined the queue that it is in, or was last sent to one.
        first_s: when it came first.
        above: quality that a tier must have more of.
    """

    audio_s: float
    language: str
    priority: Priority
    first_s: float
    came_s: float
    above: int | None = None
    waited_s: float = 0.0


@dataclass(eq=False, slots=True)
class _Replica:
    tier: "TierNow"
    began_s: float
    is_ready: bool = False
    is_leaving: bool = False
    running: dict[int, tuple[float, SimChunk]] = field(default_factory=dict)
    heap: list[tuple[float, int]] = field(default_factory=list)
    place: int = -1
    progress: float = 0.0
    updated_s: float = 0.0
    version: int = 0


class _Free:
    """Replicas with a free slot; two are drawn and the emptier one is taken, as Serve does it."""

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
        first, second = self._draw(), self._draw()
        return first if len(first.running) <= len(second.running) else second

    def _draw(self) -> _Replica:
        if not self._numbers:  # many at once: one by one they cost more than all else
            self._numbers = self._rng.random(4096).tolist()
        return self._all[int(self._numbers.pop() * len(self._all))]


class TierNow:
    """A tier while time passes.

    Attributes:
        replica_s: paid for by replicas that have gone.
        audio_s: done.
    """

    def __init__(self, spec: SimTier, rng: np.random.Generator) -> None:
        self.spec = spec
        self.replicas: dict[_Replica, None] = {}
        self.free = _Free(rng)
        self.queues: dict[Priority, deque[SimChunk]] = {p: deque() for p in PRIORITIES}
        self.queued_s = 0.0
        self.batch_s = 0.0
        self.target = 0
        self.ready = 0
        self.replica_s = 0.0
        self.audio_s = 0.0

    @property
    def state(self) -> TierState:
        return TierState(self.spec.facts, self.spec.rtfx, self.queued_s, self.batch_s, self.ready)

    def speed(self, n: int) -> float:
        """Seconds of audio a second of each of n chunks in a replica."""
        slots, flat = self.spec.facts.slots, self.spec.flat
        return self.spec.rtfx / slots / (flat + (1 - flat) * n / slots)

    def count(self, chunk: SimChunk, sign: int) -> None:
        if chunk.priority is Priority.BATCH:
            self.batch_s += sign * chunk.audio_s
        else:
            self.queued_s += sign * chunk.audio_s


@dataclass(frozen=True, slots=True)
class Finished:
    """A chunk whose tier has given its text."""

    chunk: SimChunk
    tier: TierNow


class SimCluster:
    """The machines. Time is given by who drives it, and only rises.

    Args:
        node_linger_s: that a node is paid for after its replica has gone.

    Attributes:
        waits: seconds that each chunk waited for its slot, each time that it got one.
    """

    def __init__(self, tiers: list[SimTier], seed: int, node_linger_s: float = 60.0) -> None:
        self._rng = np.random.default_rng([seed, 1])
        self.tiers = {tier.facts.name: TierNow(tier, self._rng) for tier in tiers}
        self.waits = {priority: array("f") for priority in PRIORITIES}
        self.now = 0.0
        self._linger_s = node_linger_s
        self._events: list[tuple[float, int, str, _Replica, int]] = []
        self._ids = itertools.count()

    @property
    def next_s(self) -> float:
        """When something happens next."""
        return self._events[0][0] if self._events else float("inf")

    def add(self, chunk: SimChunk, tier: str, now: float) -> None:
        """Send a chunk to a tier."""
        self.now = now
        there = self.tiers[tier]
        there.count(chunk, 1)
        chunk.came_s = now
        there.queues[chunk.priority].append(chunk)
        self._fill(there)

    def take_back(self, tier: str) -> Iterator[SimChunk]:
        """Remove waiting chunks from a tier's queues, the last first, of the least urgent first."""
        there = self.tiers[tier]
        for priority in reversed(PRIORITIES):
            while there.queues[priority]:
                chunk = there.queues[priority].pop()
                chunk.waited_s += self.now - chunk.came_s
                there.count(chunk, -1)
                yield chunk

    def scale(self, tier: str, target: int, now: float) -> None:
        """Ask for a number of replicas; those that start or stop take their time."""
        self.now = now
        there = self.tiers[tier]
        there.target = target
        staying = [r for r in there.replicas if not r.is_leaving]
        stock = there.spec.stock
        room = target if stock is None else min(target, stock(now))
        for _ in range(len(staying), room):
            replica = _Replica(there, now)
            there.replicas[replica] = None
            self._push(now + there.spec.facts.cold_start_s, "ready", replica)
        # Those that are not there yet first, then the idlest.
        staying.sort(key=lambda r: (r.is_ready, len(r.running)))
        for replica in staying[: max(0, len(staying) - target)]:
            self._leave(replica)

    def step(self) -> Finished | None:
        """Let the next thing happen."""
        self.now, _, kind, replica, version = heapq.heappop(self._events)
        if kind == "ready":
            self._ready(replica)
        elif kind == "lost":
            self._lose(replica)
        elif version == replica.version:
            return self._finish(replica)
        return None

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
            self._push(self.now + lives_s, "lost", replica)
        self._fill(tier)

    def _lose(self, replica: _Replica) -> None:
        """Its chunks begin anew, before all others; Serve asks for another replica at once."""
        tier = replica.tier
        if replica not in tier.replicas:
            return
        chunks = [chunk for _, chunk in replica.running.values()]
        replica.version += 1
        replica.running.clear()
        self._remove(replica, linger_s=0.0)
        for chunk in chunks:
            tier.queues[chunk.priority].appendleft(chunk)
            chunk.came_s = self.now
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
        while tier.free:
            queue = next((q for q in tier.queues.values() if q), None)
            if queue is None:
                return
            self._start(tier.free.choose(), queue.popleft())

    def _start(self, replica: _Replica, chunk: SimChunk) -> None:
        self._advance(replica)
        self.waits[chunk.priority].append(chunk.waited_s + self.now - chunk.came_s)
        chunk.waited_s = 0.0
        number = next(self._ids)
        ends = replica.progress + chunk.audio_s
        replica.running[number] = (ends, chunk)
        heapq.heappush(replica.heap, (ends, number))
        if len(replica.running) >= replica.tier.spec.facts.slots:
            replica.tier.free.discard(replica)
        self._schedule(replica)

    def _finish(self, replica: _Replica) -> Finished:
        self._advance(replica)
        _, number = heapq.heappop(replica.heap)
        _, chunk = replica.running.pop(number)
        tier = replica.tier
        tier.count(chunk, -1)
        tier.audio_s += chunk.audio_s
        if replica.is_leaving:
            if not replica.running:
                self._remove(replica, self._linger_s)
        elif len(replica.running) == tier.spec.facts.slots - 1:
            tier.free.add(replica)
        self._schedule(replica)
        self._fill(tier)
        return Finished(chunk, tier)

    def _advance(self, replica: _Replica) -> None:
        """Bring a replica's chunks to the present."""
        if n := len(replica.running):
            replica.progress += (self.now - replica.updated_s) * replica.tier.speed(n)
        replica.updated_s = self.now

    def _schedule(self, replica: _Replica) -> None:
        """When its next chunk will be done, as things are now."""
        replica.version += 1
        if not replica.running:
            return
        left = max(0.0, replica.heap[0][0] - replica.progress)
        at_s = self.now + left / replica.tier.speed(len(replica.running))
        self._push(at_s, "done", replica, replica.version)

    def _push(self, at_s: float, kind: str, replica: _Replica, version: int = 0) -> None:
        heapq.heappush(self._events, (at_s, next(self._ids), kind, replica, version))

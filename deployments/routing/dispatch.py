"""Decides to which tier, and when, an ingress sends each chunk.

A chunk for which its tier has no room is held here and not in a replica's queue. Thus it can still
go to a replica that starts later, or to another tier. Held chunks are sent in order of priority;
requests of equal priority take turns. The board tells what other ingresses do, a second late.
"""

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from deployments.errors import NoTierError, TierUnavailableError
from deployments.fleet import Priority, TierFacts, TierState
from deployments.messages import Chunk
from deployments.replicas.tier_client import Decoded, TierClient
from deployments.reports import IngressReport, Snapshot
from deployments.routing.held_queue import Held, HeldQueue
from deployments.routing.router import Ask, candidates, route

logger = logging.getLogger("ray.serve")

_LOOKAHEAD = 2.0
"""Slots that the chunks sent to a tier need, as a multiple of those it has. With 2, the next batch
is already in the replicas when one ends."""
_MAX_MOVED = 500
"""Most held chunks whose tier is chosen again after one snapshot."""
_EMPTY_SNAPSHOTS = 3
"""A tier without replicas in this many consecutive snapshots has lost all of them."""
_DOWN_S = 60.0
"""A tier that could not be started is not chosen for this long."""


class Dispatcher:
    """Sends chunks to tiers.

    Args:
        tiers: clients of all tiers, by name.
        facts: facts of all tiers, used until the board has answered.
        expected_rtfx: expected speed of each tier's replicas, used until the board has answered.
    """

    def __init__(
        self,
        tiers: Mapping[str, TierClient],
        facts: Sequence[TierFacts],
        expected_rtfx: Mapping[str, float],
    ) -> None:
        self._clients = dict(tiers)
        self._snapshot = Snapshot(())
        self.configure(facts, expected_rtfx)
        self._heard: IngressReport = IngressReport()
        self._held = {name: HeldQueue() for name in tiers}
        self._sent: dict[str, set[Held]] = {name: set() for name in tiers}
        self._n_sent: dict[str, Counter[Priority]] = {name: Counter() for name in tiers}
        self._queued_s = dict.fromkeys(tiers, 0.0)
        self._batch_s = dict.fromkeys(tiers, 0.0)
        self._arrived_s: dict[tuple[str, ...], float] = {}
        self._n_chunks, self._chunks_s = 0, 0.0
        self._done_s: dict[str, float] = {}
        self._down_until: dict[str, float] = {}
        # Number of consecutive snapshots without a replica, by tier.
        self._n_empty = dict.fromkeys(tiers, 0)

    def configure(self, facts: Sequence[TierFacts], expected_rtfx: Mapping[str, float]) -> None:
        """Take other facts of the same tiers. What is known of their state stays. Until the board
        has told of a tier, assume that all replicas that always run are ready."""
        known = {state.facts.name: state for state in self._snapshot.tiers}
        states = tuple(
            replace(known[f.name], facts=f)
            if f.name in known
            else TierState(f, expected_rtfx[f.name], ready=f.min_replicas)
            for f in facts
        )
        self._snapshot = replace(self._snapshot, tiers=states)

    def n_held(self, tier: str) -> int:
        """Number of chunks that are held for a tier."""
        return len(self._held[tier])

    async def decode(self, chunk: Chunk, ask: Ask) -> Decoded:
        """Decode a chunk on the tier that suits it. Cancelling this call stops the decoding.

        Raises:
            NoTierError, TierUnavailableError: as in `choose`.
            ChunkLostError, RequestError, TierUnavailableError: as in `TierClient.decode`.
        """
        held = Held(
            replace(chunk, adapter=ask.adapter), ask, asyncio.get_running_loop().create_future()
        )
        self._count_arrival(held)
        self._place(held)
        try:
            return await held.done
        finally:
            self._withdraw(held)
            self._pump(held.tier)

    def all_states(self) -> list[TierState]:
        """The current state of all tiers, including those that could not be started."""
        return [self._state(tier) for tier in self._snapshot.tiers]

    def choose(self, ask: Ask) -> str:
        """The tier that a chunk would go to now.

        Raises:
            NoTierError: no tier can do what is asked.
            TierUnavailableError: the tiers that can do it could not be started. For a chunk that
                already has a text, also if none of them has or can get a replica.
        """
        states = self.states()
        if ask.tier is not None:  # a caller that names a tier waits for it
            states = list(self._snapshot.tiers)
        try:
            found = route(ask, states, self._snapshot.chunk_s)
        except NoTierError:
            away = route(ask, self._snapshot.tiers).tier  # raises if no tier can do it
            raise TierUnavailableError(f"the tier {away!r} cannot be started") from None
        if ask.above is not None and math.isinf(found.wait_s):
            raise TierUnavailableError(f"the tier {found.tier!r} cannot be had")
        return found.tier

    def report(self) -> IngressReport:
        """The next report to the board. Counts of arrivals start again at zero."""
        report = IngressReport(
            dict(self._queued_s),
            dict(self._batch_s),
            self._arrived_s,
            self._n_chunks,
            self._chunks_s,
            self._done_s,
        )
        self._arrived_s, self._n_chunks, self._chunks_s, self._done_s = {}, 0, 0.0, {}
        return report

    def hear(self, snapshot: Snapshot, told: IngressReport) -> None:
        """Take the board's answer to the report `told`, and dispatch held chunks again."""
        self._snapshot, self._heard = self._completed(snapshot), told
        self._move()
        for name in self._held:
            self._pump(name)

    def states(self) -> list[TierState]:
        """The tiers that may be chosen now: the board's state, with the changes made here since."""
        now = time.monotonic()
        return [self._state(t) for t in self._snapshot.tiers if not self._is_down(t, now)]

    def _completed(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot, restricted to the tiers of this ingress. The board of a newer deployment
        may know other tiers, while this ingress only finishes its work. A board that has just
        started may not have heard from all replicas, so until then the previous counts are
        minima."""
        told = {tier.facts.name: tier for tier in snapshot.tiers}
        tiers = []
        for before in self._snapshot.tiers:
            name = before.facts.name
            now = told.get(name, replace(before, ready=0))
            if not snapshot.settled:
                now = replace(now, ready=max(now.ready, before.ready))
            self._n_empty[name] = 0 if now.ready else self._n_empty[name] + 1
            tiers.append(now)
        return replace(snapshot, tiers=tuple(tiers))

    def _state(self, tier: TierState) -> TierState:
        name = tier.facts.name
        queued_s = tier.queued_s + self._queued_s[name] - self._heard.queued_s.get(name, 0.0)
        batch_s = tier.batch_s + self._batch_s[name] - self._heard.batch_s.get(name, 0.0)
        return replace(tier, queued_s=max(0.0, queued_s), batch_s=max(0.0, batch_s))

    def _is_down(self, tier: TierState, now: float) -> bool:
        return self._down_until.get(tier.facts.name, 0.0) > now

    def _count_arrival(self, held: Held) -> None:
        self._n_chunks += held.n_slots
        self._chunks_s += held.work_s
        if held.ask.priority is not Priority.BATCH:
            able = tuple(t.facts.name for t in candidates(held.ask, self._snapshot.tiers))
            self._arrived_s[able] = self._arrived_s.get(able, 0.0) + held.work_s

    def _place(self, held: Held) -> None:
        held.tier = self.choose(held.ask)
        self._count(held, held.tier, 1)
        self._held[held.tier].put(held)
        self._pump(held.tier)

    def _count(self, held: Held, tier: str, sign: int) -> None:
        amounts = self._batch_s if held.ask.priority is Priority.BATCH else self._queued_s
        amounts[tier] = max(0.0, amounts[tier] + sign * held.work_s)

    def _room(self, name: str, priority: Priority) -> int:
        """Number of slots for which chunks of a priority may still be sent to a tier. Chunks of
        lower priority that were sent do not count, because replicas also give their slots by
        priority. A tier without replicas gets one batch, for the first replica that starts."""
        state = next(t for t in self._snapshot.tiers if t.facts.name == name)
        slots = state.facts.slots
        capacity = state.ready * slots * _LOOKAHEAD
        others_s = max(0.0, state.queued_s - self._heard.queued_s.get(name, 0.0))
        if priority is Priority.BATCH:
            others_s += max(0.0, state.batch_s - self._heard.batch_s.get(name, 0.0))
        others = others_s / self._snapshot.chunk_s
        share = max(capacity / self._snapshot.n_ingresses, capacity - others)
        sent = sum(n for p, n in self._n_sent[name].items() if p.rank <= priority.rank)
        return max(slots, round(share)) - sent

    def _pump(self, name: str) -> None:
        """Send held chunks for which there is room."""
        queue = self._held[name]
        if not len(queue):
            return
        room = {priority: self._room(name, priority) for priority in Priority}
        while (held := queue.pop(lambda priority: room[priority] > 0)) is not None:
            self._sent[name].add(held)
            self._n_sent[name][held.ask.priority] += held.n_slots
            held.sent_s = time.monotonic()
            held.sending = asyncio.create_task(self._send(held, name))
            for priority in Priority:
                if priority.rank >= held.ask.priority.rank:
                    room[priority] -= held.n_slots

    async def _send(self, held: Held, name: str) -> None:
        try:
            decoded = await self._clients[name].decode(held.chunk)
        except TierUnavailableError as error:
            self._unsend(held, name)
            self._go_elsewhere(held, name, error)
        except BaseException as error:  # passed to the waiter; a cancelled call has none
            self._unsend(held, name)
            if isinstance(error, asyncio.CancelledError):
                raise
            if not held.done.done():
                held.done.set_exception(error)
        else:
            self._unsend(held, name)
            self._done_s[name] = self._done_s.get(name, 0.0) + held.chunk.duration_s
            if not held.done.done():
                held.done.set_result(replace(decoded, held_s=held.sent_s - held.came_s))

    def _unsend(self, held: Held, name: str) -> None:
        if held in self._sent[name]:
            self._sent[name].discard(held)
            self._n_sent[name][held.ask.priority] -= held.n_slots
            self._count(held, name, -1)

    def _go_elsewhere(self, held: Held, name: str, error: TierUnavailableError) -> None:
        self._down_until[name] = time.monotonic() + _DOWN_S
        if held.done.done():
            return
        if held.ask.tier is None:
            try:
                self._place(held)
            except (NoTierError, TierUnavailableError):
                held.done.set_exception(error)
            return
        held.done.set_exception(error)

    def _withdraw(self, held: Held) -> None:
        """Remove or cancel a chunk, because nobody waits for it any more or it moves."""
        if self._held[held.tier].remove(held):
            self._count(held, held.tier, -1)
        elif held.sending is not None and not held.sending.done():
            self._unsend(held, held.tier)
            held.sending.cancel()

    def _move(self) -> None:
        """Choose the tier again for held chunks, and for chunks that were sent to a tier that has
        lost all its replicas."""
        n_looked = 0
        moved: list[Held] = []
        for name in self._held:
            stayed: set[Ask] = set()
            for held in self._held[name].last_first():
                if n_looked >= _MAX_MOVED:
                    break
                if held.ask in stayed:
                    continue  # earlier chunks with the same needs wait less, so they stay too
                n_looked += 1
                if self._moved(held, name):
                    moved.append(held)
                else:
                    stayed.add(held.ask)
            if self._n_empty[name] >= _EMPTY_SNAPSHOTS:
                sent = sorted(self._sent[name], key=lambda held: held.came_s, reverse=True)
                moved += [held for held in sent if self._moved(held, name)]
        for held in reversed(moved):  # restores the order within a file
            self._held[held.tier].put(held)

    def _moved(self, held: Held, name: str) -> bool:
        """Whether a chunk moves to another tier. If so, it is counted there already, and the caller
        must queue it there."""
        if held.ask.tier is not None:
            return False
        self._count(held, name, -1)  # its own audio is not a queue in front of it
        try:
            there = self.choose(held.ask)
        except (NoTierError, TierUnavailableError):
            there = name  # stay: its present tier will raise the error
        finally:
            self._count(held, name, 1)
        if there == name:
            return False
        self._withdraw(held)
        held.sending = None
        held.tier = there
        self._count(held, there, 1)
        return True

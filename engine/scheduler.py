"""Which waiting request gets the next free slot. No tensors, no model, no clock of its own.

One queue, ordered by priority, then by fair share of audio seconds between groups, then by arrival.
While a group gets no slot, the priority of its next request rises, so that no group starves. Fair
share is start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996): the group that got the least
goes first, and a group that comes late starts level with the others instead of ahead of them.
"""

import heapq
from dataclasses import dataclass, field

from engine.request import URGENT, Request

_URGENT_S = 5.0
"""So long after the last urgent request, more are expected: somebody may be speaking."""


@dataclass(order=True, slots=True)
class Waiting:
    """A queued request; ordered within its group by priority, then arrival."""

    priority: int
    arrival: int
    request: Request = field(compare=False)
    arrived_s: float = field(compare=False)


@dataclass(slots=True)
class _Group:
    """A file's waiting requests, the audio seconds that the group has got (virtual time), and when
    it last got some."""

    virtual_s: float
    served_s: float = float("-inf")
    waiting: list[Waiting] = field(default_factory=list)
    n_running: int = 0


class Scheduler:
    """Slots and the queue for them.

    Args:
        n_slots: texts that may be decoded at once.
        aging_s: each time a group gets no slot for so many seconds, the priority of its next
            request rises by a step.
        n_sets: slot `s` is in set `s % n_sets`; a request's slots are in one set.
        n_beside_urgent: slots that other requests may take while there are urgent ones, running,
            waiting or a moment ago; None: as many as are free. Where the texts of a step share its
            arithmetic, a full batch would slow down whoever is urgent.
    """

    def __init__(
        self, n_slots: int, aging_s: float, n_sets: int = 1, n_beside_urgent: int | None = None
    ) -> None:
        self.n_slots = n_slots
        self.aging_s = aging_s
        self._free: list[list[int]] = [
            list(range(first, n_slots, n_sets)) for first in range(n_sets)
        ]
        self._groups: dict[str, _Group] = {}
        self._running: dict[tuple[int, ...], tuple[str, bool]] = {}
        self._n_beside_urgent = n_slots if n_beside_urgent is None else n_beside_urgent
        self._urgent_s = float("-inf")
        self._arrivals = 0
        self._virtual_s = 0.0

    @property
    def n_waiting(self) -> int:
        return sum(len(group.waiting) for group in self._groups.values())

    @property
    def n_running(self) -> int:
        return len(self._running)

    def add(self, request: Request, now_s: float) -> None:
        group = self._groups.setdefault(request.group, _Group(self._virtual_s))
        if not group.waiting:
            group.virtual_s = max(group.virtual_s, self._virtual_s)
        heapq.heappush(group.waiting, Waiting(request.priority, self._arrivals, request, now_s))
        self._arrivals += 1
        if _is_urgent(request):
            self._urgent_s = now_s

    def remove(self, request_id: str) -> bool:
        """Take a waiting request out of the queue; False if it is not in it."""
        for name, group in self._groups.items():
            kept = [item for item in group.waiting if item.request.request_id != request_id]
            if len(kept) < len(group.waiting):
                heapq.heapify(kept)
                group.waiting = kept
                self._drop_if_empty(name)
                return True
        return False

    @property
    def n_used(self) -> int:
        """Slots that running sequences have."""
        return sum(map(len, self._running))

    @property
    def most_slots(self) -> int:
        """Slots that a request may take."""
        return self.n_slots // len(self._free)

    def admit(self, now_s: float, limit: int) -> list[tuple[tuple[int, ...], Waiting]]:
        """Give free slots to waiting requests: (slots, request), at most `limit` of them.

        The lowest slots are given first, which keeps the decoded batch small. Where there are too
        few for the next request, nobody overtakes it.
        """
        admitted: list[tuple[tuple[int, ...], Waiting]] = []
        while len(admitted) < limit:
            name = self._next_group(now_s, self._has_room_for_others(now_s))
            if name is None:
                break
            slots = self._take_slots(self._groups[name].waiting[0].request.options.n_texts)
            if slots is None:
                break
            admitted.append((slots, self._take(name, slots, now_s)))
        return admitted

    def free(self, slots: tuple[int, ...]) -> None:
        """Return the slots of a sequence that ended."""
        name, _ = self._running.pop(slots)
        self._groups[name].n_running -= 1
        for slot in slots:
            heapq.heappush(self._free[slot % len(self._free)], slot)
        self._drop_if_empty(name)

    def audit(self) -> None:
        """Check that every slot is either free or belongs to one sequence."""
        used = [slot for slots in self._running for slot in slots]
        free = [slot for each in self._free for slot in each]
        assert sorted([*free, *used]) == list(range(self.n_slots))
        running = sum(group.n_running for group in self._groups.values())
        assert running == len(self._running)

    def _take_slots(self, n: int) -> tuple[int, ...] | None:
        """The lowest `n` free slots of a set."""
        fitting = [free for free in self._free if len(free) >= n]
        if not fitting:
            return None
        free = min(fitting, key=lambda each: heapq.nsmallest(n, each)[-1])
        return tuple(heapq.heappop(free) for _ in range(n))

    def _has_room_for_others(self, now_s: float) -> bool:
        """Whether requests that are not urgent may take another slot."""
        if now_s - self._urgent_s > _URGENT_S and not any(u for _, u in self._running.values()):
            return True
        others = sum(len(slots) for slots, (_, urgent) in self._running.items() if not urgent)
        return others < self._n_beside_urgent

    def _next_group(self, now_s: float, others: bool) -> str | None:
        """
        Args:
            others: whether requests that are not urgent come into question.
        """
        candidates = [
            (name, group)
            for name, group in self._groups.items()
            if group.waiting and (others or _is_urgent(group.waiting[0].request))
        ]
        if not candidates:
            return None

        def key(item: tuple[str, _Group]) -> tuple[int, float, int]:
            head = item[1].waiting[0]
            # The group's age counts. With the request's, a long file's backlog would go before any
            # newcomer; without any, endless newcomers would keep out a group that had its share.
            unserved_s = now_s - max(head.arrived_s, item[1].served_s)
            aged = head.priority - int(unserved_s / self.aging_s)
            return aged, item[1].virtual_s, head.arrival

        return min(candidates, key=key)[0]

    def _take(self, name: str, slots: tuple[int, ...], now_s: float) -> Waiting:
        group = self._groups[name]
        item = heapq.heappop(group.waiting)
        self._virtual_s = max(self._virtual_s, group.virtual_s)
        group.virtual_s += item.request.duration_s
        group.served_s = now_s
        group.n_running += 1
        self._running[slots] = name, _is_urgent(item.request)
        return item

    def _drop_if_empty(self, name: str) -> None:
        group = self._groups[name]
        if not group.waiting and not group.n_running:
            del self._groups[name]


def _is_urgent(request: Request) -> bool:
    return request.priority in URGENT

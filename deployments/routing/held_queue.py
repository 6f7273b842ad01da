"""An ingress's unfinished chunks, and the order in which held chunks are sent."""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from deployments.fleet import Priority
from deployments.messages import Chunk
from deployments.replicas.tier_client import Decoded
from deployments.routing.router import Ask

_AGING_S = 30.0
"""A priority rises by one step when none of its chunks was taken for this long, as in the engine's
queue."""


@dataclass(eq=False, slots=True)
class Held:
    """An unfinished chunk.

    Attributes:
        done: gets the chunk's result or error.
        tier: the tier that the chunk is held for or was sent to.
        sending: the call to the tier, once the chunk was sent.
        came_s, sent_s: when the chunk came and when it was last sent, by the monotonic clock.
    """

    chunk: Chunk
    ask: Ask
    done: "asyncio.Future[Decoded]"
    tier: str = ""
    sending: "asyncio.Task[None] | None" = None
    came_s: float = field(default_factory=time.monotonic)
    sent_s: float = 0.0

    @property
    def work_s(self) -> float:
        """Seconds of audio, counted once for each slot."""
        return self.chunk.duration_s * self.n_slots

    @property
    def n_slots(self) -> int:
        """Slots that the chunk takes in a replica: one for each text that is decoded side by
        side."""
        return self.chunk.options.n_texts


class HeldQueue:
    """Held chunks of one tier, in order of priority. A priority rises while none of its chunks is
    taken, so none starves. Within a priority, requests take turns."""

    def __init__(self) -> None:
        self._turns: dict[Priority, OrderedDict[str, deque[Held]]] = {
            priority: OrderedDict() for priority in Priority
        }
        self._unserved_since = dict.fromkeys(Priority, 0.0)
        self._n = 0

    def __len__(self) -> int:
        return self._n

    def put(self, held: Held) -> None:
        turns = self._turns[held.ask.priority]
        if not turns:
            self._unserved_since[held.ask.priority] = time.monotonic()
        turns.setdefault(held.chunk.request_id, deque()).append(held)
        self._n += 1

    def pop(self, may: Callable[[Priority], bool] = lambda priority: True) -> Held | None:
        """Take the next chunk whose priority satisfies `may`; None if there is none."""
        now = time.monotonic()

        def aged(priority: Priority) -> tuple[int, int]:
            steps = int((now - self._unserved_since[priority]) / _AGING_S)
            return priority.rank - steps, priority.rank

        waiting = [p for p, turns in self._turns.items() if turns and may(p)]
        if not waiting:
            return None
        chosen = min(waiting, key=aged)
        self._unserved_since[chosen] = now
        turns = self._turns[chosen]
        request, chunks = turns.popitem(last=False)
        held = chunks.popleft()
        if chunks:
            turns[request] = chunks  # at the end, so that other requests come first
        self._n -= 1
        return held

    def remove(self, held: Held) -> bool:
        turns = self._turns[held.ask.priority]
        chunks = turns.get(held.chunk.request_id)
        if chunks is None or held not in chunks:
            return False
        chunks.remove(held)
        if not chunks:
            del turns[held.chunk.request_id]
        self._n -= 1
        return True

    def last_first(self) -> Iterator[Held]:
        """All held chunks in reverse order. The queue may change during the iteration."""
        for turns in reversed(self._turns.values()):
            for chunks in reversed(list(turns.values())):
                yield from reversed(list(chunks))

"""Whose turn it is among chunks that wait in an ingress."""

import asyncio
from dataclasses import replace

import pytest

from deployments.fleet import Priority
from deployments.replicas.tier_client import Decoded
from deployments.routing.held_queue import Held, HeldQueue
from tests.deployments.routing.test_dispatch import EN, chunk


def held(index: int, request: str, priority: Priority = Priority.INTERACTIVE) -> Held:
    loop = asyncio.new_event_loop()
    future: asyncio.Future[Decoded] = loop.create_future()
    loop.close()
    return Held(chunk(index, request), replace(EN, priority=priority), future)


def keys_of(queue: HeldQueue) -> list[str]:
    found = []
    while (taken := queue.pop()) is not None:
        found.append(taken.chunk.key)
    return found


def test_requests_take_turns_and_priorities_go_first() -> None:
    queue = HeldQueue()
    for index in range(3):
        queue.put(held(index, "a"))
    queue.put(held(0, "b"))
    queue.put(held(0, "c", Priority.BATCH))
    queue.put(held(0, "d", Priority.REALTIME))
    gone = held(9, "a")
    queue.put(gone)
    assert [h.chunk.key for h in queue.last_first()][0] == "c/0/0"
    assert queue.remove(gone) and not queue.remove(gone)
    assert keys_of(queue) == ["d/0/0", "a/0/0", "b/0/0", "a/1/0", "a/2/0", "c/0/0"]


def test_a_priority_that_gets_nothing_rises(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch work is 20 steps of 30 s behind: then one of it goes, and it is last again."""
    clock = [1000.0]
    monkeypatch.setattr("deployments.routing.held_queue.time.monotonic", lambda: clock[0])
    queue = HeldQueue()
    for index in range(2):
        queue.put(held(index, "night", Priority.BATCH))
    for index in range(4):
        queue.put(held(index, "day"))
    taken = []
    for clock[0] in (1000.0, 1620.0, 1640.0, 1641.0, 2260.0, 2280.0):
        assert (next_one := queue.pop()) is not None
        taken.append(next_one.chunk.key)
    assert taken == ["day/0/0", "day/1/0", "night/0/0", "day/2/0", "day/3/0", "night/1/0"]

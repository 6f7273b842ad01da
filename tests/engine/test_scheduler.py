"""The queue and the slots, without a model."""

import random

import numpy as np

from engine import DecodingOptions, Request
from engine.scheduler import Scheduler

SECOND = 16_000


def request(
    name: str, group: str = "", priority: int = 0, seconds: float = 1.0, n_slots: int = 1
) -> Request:
    pcm = np.zeros(int(seconds * SECOND), np.int16)
    options = DecodingOptions(beam_size=n_slots)
    return Request(name, pcm, options, priority=priority, group=group)


def order(scheduler: Scheduler, now_s: float = 0.0) -> list[str]:
    """The order in which one slot serves all that waits."""
    served = []
    while scheduler.n_waiting:
        for slot, item in scheduler.admit(now_s, 1):
            served.append(item.request.request_id)
            scheduler.free(slot)
    return served


def test_first_come_first_served_within_a_group() -> None:
    scheduler = Scheduler(1, 30.0)
    for name in "abc":
        scheduler.add(request(name), 0.0)
    assert order(scheduler) == ["a", "b", "c"]


def test_a_late_short_file_does_not_wait_for_a_long_one() -> None:
    scheduler = Scheduler(1, 30.0)
    for index in range(20):
        scheduler.add(request(f"long-{index}", "long", seconds=30), 0.0)
    for slot, _ in scheduler.admit(0.0, 1):
        scheduler.free(slot)
    scheduler.add(request("short", "short", seconds=3), 0.1)
    assert order(scheduler).index("short") <= 1


def test_groups_share_by_seconds_of_audio_not_by_chunks() -> None:
    scheduler = Scheduler(1, 30.0)
    for index in range(30):
        scheduler.add(request(f"a{index}", "a", seconds=30), 0.0)
        scheduler.add(request(f"b{index}", "b", seconds=10), 0.0)
    first = order(scheduler)[:20]
    a, b = (sum(name.startswith(letter) for name in first) for letter in "ab")
    assert (a, b) == (5, 15)


def test_a_group_that_paused_gets_no_credit_for_the_pause() -> None:
    """`b` decodes one long chunk and has nothing waiting, while `a` is served eight times."""
    scheduler = Scheduler(2, 1e9)
    scheduler.add(request("b0", "b"), 0.0)
    scheduler.admit(0.0, 1)
    for index in range(14):
        scheduler.add(request(f"a{index}", "a"), 0.0)
    for _ in range(8):
        ((slot, _),) = scheduler.admit(0.0, 1)
        scheduler.free(slot)
    for index in range(1, 9):
        scheduler.add(request(f"b{index}", "b"), 0.0)
    assert sum(name.startswith("b") for name in order(scheduler)[:6]) == 3


def test_lower_priority_value_goes_first() -> None:
    scheduler = Scheduler(1, 30.0)
    scheduler.add(request("batch", "x", priority=2), 0.0)
    scheduler.add(request("realtime", "y", priority=0), 0.0)
    assert order(scheduler) == ["realtime", "batch"]


def test_a_backlog_older_than_the_aging_does_not_go_before_a_newcomer() -> None:
    scheduler = Scheduler(1, 30.0)
    for index in range(100):
        for group in "abc":
            scheduler.add(request(f"{group}{index}", group, seconds=30), 0.0)
    for now_s in range(0, 60, 2):  # all are served, a chunk each two seconds
        for slot, _ in scheduler.admit(float(now_s), 1):
            scheduler.free(slot)
    scheduler.add(request("clip", "d", seconds=3), 60.0)
    assert order(scheduler, now_s=60.0).index("clip") <= 3


def test_a_low_priority_is_served_now_and_then_however_long_its_queue() -> None:
    scheduler = Scheduler(1, 10.0)
    for index in range(50):
        scheduler.add(request(f"batch{index}", "batch", priority=1), 0.0)
    served = []
    for now_s in range(100):
        scheduler.add(request(f"live{now_s}", f"live{now_s}"), float(now_s))
        for slot, item in scheduler.admit(float(now_s), 1):
            served.append(item.request.group)
            scheduler.free(slot)
    assert 5 <= served.count("batch") <= 11, "one in about ten seconds"


def test_waiting_raises_priority() -> None:
    scheduler = Scheduler(1, 10.0)
    scheduler.add(request("old batch", "x", priority=2), 0.0)
    scheduler.add(request("new realtime", "y", priority=0), 35.0)
    assert order(scheduler, now_s=35.0) == ["old batch", "new realtime"]


def test_admission_is_bounded_and_takes_the_lowest_slots() -> None:
    scheduler = Scheduler(8, 30.0)
    for index in range(10):
        scheduler.add(request(str(index)), 0.0)
    assert [slots for slots, _ in scheduler.admit(0.0, 3)] == [(0,), (1,), (2,)]
    scheduler.free((1,))
    assert [slots for slots, _ in scheduler.admit(0.0, 3)] == [(1,), (3,), (4,)]


def test_several_slots_are_of_one_set_and_nobody_overtakes_who_waits_for_them() -> None:
    scheduler = Scheduler(8, 30.0, n_sets=2)
    for name, n_slots in (("a", 1), ("b", 3), ("c", 3), ("d", 1)):
        scheduler.add(request(name, n_slots=n_slots), 0.0)
    admitted = {item.request.request_id: slots for slots, item in scheduler.admit(0.0, 9)}
    assert admitted == {"a": (0,), "b": (1, 3, 5), "c": (2, 4, 6), "d": (7,)}
    scheduler.free((7,))
    scheduler.add(request("e", n_slots=2), 0.0)
    scheduler.add(request("f"), 0.0)
    assert scheduler.admit(0.0, 9) == []
    scheduler.free((0,))
    assert scheduler.admit(0.0, 9) == [], "one of each set"
    scheduler.free((2, 4, 6))
    assert [slots for slots, _ in scheduler.admit(0.0, 9)] == [(0, 2), (4,)]


def test_slots_are_never_lost_nor_given_twice() -> None:
    rng = random.Random(5)
    scheduler = Scheduler(6, 30.0, n_sets=2)
    running: dict[tuple[int, ...], str] = {}
    waiting: set[str] = set()
    for step in range(3_000):
        action = rng.random()
        if action < 0.45:
            name = f"r{step}"
            group, n_slots = f"g{rng.randrange(4)}", rng.randrange(1, 4)
            scheduler.add(request(name, group, rng.randrange(3), 0.1, n_slots), step)
            waiting.add(name)
        elif action < 0.55 and waiting:
            name = rng.choice(sorted(waiting))
            assert scheduler.remove(name)
            waiting.discard(name)
        elif action < 0.8:
            for slots, item in scheduler.admit(step, 4):
                assert len({slot % 2 for slot in slots}) == 1
                assert len(slots) == item.request.options.beam_size
                running[slots] = item.request.request_id
                waiting.discard(item.request.request_id)
        elif running:
            slots = rng.choice(sorted(running))
            del running[slots]
            scheduler.free(slots)
        scheduler.audit()
        assert scheduler.n_waiting == len(waiting) and scheduler.n_running == len(running)
    assert not scheduler.remove("never there")


def test_beside_urgent_requests_others_take_few_slots() -> None:
    scheduler = Scheduler(8, 30.0, n_beside_urgent=2)
    for index in range(20):
        scheduler.add(request(f"file-{index}", "file", priority=20), 0.0)
    full = [slots for slots, _ in scheduler.admit(0.0, 8)]
    assert len(full) == 8, "nobody is urgent"
    scheduler.add(request("look", "live", priority=-4), 1.0)
    scheduler.free(full.pop())
    ((look, item),) = scheduler.admit(1.0, 8)
    assert item.request.request_id == "look"
    while len(full) > 1:
        scheduler.free(full.pop())
    assert len(scheduler.admit(1.5, 8)) == 1, "two of the file beside the look"
    scheduler.free(look)
    assert scheduler.admit(4.0, 8) == [], "another look is expected"
    assert len(scheduler.admit(7.0, 8)) == 6, "nobody speaks any more"
    scheduler.audit()


def test_who_has_waited_for_long_does_not_stand_before_urgent_requests() -> None:
    scheduler = Scheduler(8, 1.0, n_beside_urgent=1)
    scheduler.add(request("file-0", "file", priority=20), 0.0)
    scheduler.add(request("file-1", "file", priority=20), 0.0)
    (first,) = scheduler.admit(0.0, 1)
    scheduler.add(request("look", "live", priority=-4), 100.0)
    ((_, item),) = scheduler.admit(100.0, 8)
    assert item.request.request_id == "look"
    scheduler.free(first[0])
    ((_, item),) = scheduler.admit(100.0, 8)
    assert item.request.request_id == "file-1", "there is always room for one"


def test_probes_take_no_slots_from_others() -> None:
    scheduler = Scheduler(8, 30.0, n_beside_urgent=1)
    scheduler.add(request("probe", "probe", priority=-1000), 0.0)
    for index in range(20):
        scheduler.add(request(f"file-{index}", "file", priority=20), 0.0)
    assert len(scheduler.admit(0.0, 8)) == 8

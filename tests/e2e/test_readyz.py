"""What load balancers see that ask `/readyz`, each at its own interval."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx2
import pytest

from tests.support.cluster import Cluster
from tests.support.load import load

pytestmark = pytest.mark.chaos
WATCH_S = float(os.environ.get("MURMUR_TEST_WATCH_S", "300"))
INTERVALS_S = (1.0, 10.0, 30.0, 60.0)
SEEN_WITHIN_S = 15.0
BACK_WITHIN_S = 120.0
N_CLIENTS = 30
"""More than the replica has slots: all of them are in use, and work waits."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    cluster = Cluster({"tiers": [{"name": "base", "model": "demo:base"}]})
    yield cluster
    cluster.stop()


@dataclass(frozen=True, slots=True)
class Answer:
    """What one was told, when, and how long it took."""

    interval_s: float
    asked: float
    took_s: float
    status: int


@contextmanager
def asked_at_intervals(cluster: Cluster) -> Iterator[list[Answer]]:
    """The answers to askers of each interval, who ask until the context ends."""
    answers: list[Answer] = []
    end = threading.Event()

    def ask(interval_s: float) -> None:
        while not end.is_set():
            asked = time.monotonic()
            status = httpx2.get(f"{cluster.url}/readyz", timeout=30).status_code
            answers.append(Answer(interval_s, asked, time.monotonic() - asked, status))
            end.wait(max(interval_s - (time.monotonic() - asked), 0))

    threads = [threading.Thread(target=ask, args=(interval_s,)) for interval_s in INTERVALS_S]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        end.set()
        for thread in threads:
            thread.join()


def told(answers: list[Answer]) -> str:
    """For a person that reads the test's output."""
    lines = []
    for interval_s in INTERVALS_S:
        of = [answer for answer in answers if answer.interval_s == interval_s]
        slowest = max(answer.took_s for answer in of)
        ready = sum(answer.status == 200 for answer in of)
        lines.append(f"every {interval_s:g} s: {ready} of {len(of)} ready, {slowest:.2f} s at most")
    return "\n".join(lines)


def test_idle_it_is_ready_whoever_asks(cluster: Cluster) -> None:
    with asked_at_intervals(cluster) as answers:
        time.sleep(WATCH_S)
    print(told(answers))
    assert {answer.status for answer in answers} == {200}


def test_full_it_is_ready_whoever_asks(cluster: Cluster) -> None:
    with load(cluster.url, "base", N_CLIENTS) as under_way, asked_at_intervals(cluster) as answers:
        time.sleep(WATCH_S)
        n_done = len(under_way.outcomes)
    print(told(answers), f"{n_done} requests", sep="\n")
    assert {answer.status for answer in answers} == {200}
    assert n_done and not under_way.wrong


def test_a_dead_engine_is_seen_and_so_is_its_successor(cluster: Cluster) -> None:
    with asked_at_intervals(cluster) as answers:
        time.sleep(2)
        killed = time.monotonic()
        cluster.kill("base")
        deadline = killed + BACK_WITHIN_S
        while not any(a.status == 503 for a in answers) and time.monotonic() < deadline:
            time.sleep(0.1)
        while answers[-1].status == 503 and time.monotonic() < deadline:
            time.sleep(0.1)
    away = [answer.asked - killed for answer in answers if answer.status == 503]
    print(f"not ready from {min(away):.1f} to {max(away):.1f} s after the death")
    assert min(away) <= SEEN_WITHIN_S
    assert answers[-1].status == 200 and cluster.processes("base")

"""Live sessions while the server is updated, and while replicas are killed."""

import os
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import yaml

from deployments.live.events import Completed, Event
from deployments.live.options import LiveOptions
from serve.client import connect
from tests.e2e.conftest import KEY
from tests.e2e.test_live import socket_of, speech
from tests.support.cluster import Cluster
from tests.support.live_text import is_right

N_KILLS = int(os.environ.get("MURMUR_TEST_KILLS", "3"))
OPTIONS = LiveOptions(model="tiny.en", rate=16_000)
SETTINGS = {
    "tiers": [
        {"name": "tiny.en", "model": "demo:tiny.en", "min_replicas": 2, "max_replicas": 2},
    ]
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster whose parts these tests replace."""
    cluster = Cluster(SETTINGS)
    yield cluster
    cluster.stop()


def in_real_time(seconds: float) -> Iterator[np.ndarray]:
    """The clip between pauses, over and over, as it would be spoken."""
    pcm, began, given = speech(16_000), time.monotonic(), 0
    while given < seconds * 16_000:
        for start in range(0, len(pcm), 1_600):
            block = pcm[start : start + 1_600]
            given += len(block)
            time.sleep(max(0.0, began + given / 16_000 - time.monotonic()))
            yield block


def turns(events: list[Event]) -> list[str]:
    """The texts of turns in which somebody spoke."""
    return [event.text for event in events if isinstance(event, Completed) and event.text]


@pytest.mark.more
def test_an_update_moves_sessions(cluster: Cluster) -> None:
    """The ingress is replaced while somebody speaks; the client goes on with the next one."""
    heard: list[Event] = []

    def listen() -> None:
        with connect(cluster.url) as client:
            heard.extend(client.live(in_real_time(40), OPTIONS))

    listener = threading.Thread(target=listen)
    listener.start()
    time.sleep(8)
    (before,) = cluster.processes("Ingress")
    settings = yaml.safe_load(cluster.settings.read_text(encoding="utf-8"))
    # Of this alone an ingress cannot be told; it stops before the next one starts.
    changed = {**settings, "ingress": {"cpus": 0.01}}
    cluster.settings.write_text(yaml.safe_dump(changed), encoding="utf-8")
    assert cluster.murmur("up", cluster.settings, timeout_s=240).returncode == 0
    assert not before.is_running(), "nobody waits until the session ends by itself"
    listener.join(timeout=240)
    assert not listener.is_alive()
    texts = turns(heard)
    assert len(texts) == 5 and all(map(is_right, texts)), "\n".join(texts)


@pytest.mark.chaos
def test_replicas_that_are_killed_cost_no_word(cluster: Cluster) -> None:
    chance = random.Random(5)
    seconds = 10.0 * (N_KILLS + 1)

    def listen(index: int) -> list[str]:
        time.sleep(index * 0.4)
        with connect(cluster.url) as client:
            return turns(list(client.live(in_real_time(seconds), OPTIONS)))

    with ThreadPoolExecutor(8) as threads:
        heard = [threads.submit(listen, index) for index in range(8)]
        for _ in range(N_KILLS):
            time.sleep(chance.uniform(6, 12))
            if replicas := cluster.processes("tiny_en"):
                chance.choice(replicas).kill()
        texts = [each.result() for each in heard]
    n_turns = -(-int(seconds * 16_000) // len(speech(16_000)))
    for each in texts:
        assert len(each) == n_turns and all(map(is_right, each)), each


@pytest.mark.more
def test_through_haproxy() -> None:
    """Sockets, close codes and too large frames pass the production proxy alike."""
    cluster = Cluster({**SETTINGS, "http": {"haproxy": True}, "auth": {"api_keys": [KEY]}})
    try:
        with connect(cluster.url, KEY) as client:
            (text,) = turns(list(client.live(in_real_time(8), OPTIONS)))
        assert is_right(text)
        with socket_of(cluster) as socket:
            socket.get()
            socket.socket.send("x" * 20_000_000)
            assert socket.closed() == 1009
        with socket_of(cluster, key="sk-wrong") as socket:
            assert socket.closed() == 3000
    finally:
        cluster.stop()

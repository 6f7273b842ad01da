"""Live sessions while the server is updated, and while replicas are killed."""

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
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
from tests.support.live_text import Difference, difference, is_right

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


class Listener:
    """Hears one session in real time.

    Attributes:
        texts: of turns in which somebody spoke.
        lags: when each of these was told, by the clock, and how long after its end, in seconds.
    """

    def __init__(self, url: str, seconds: float) -> None:
        self.texts: list[str] = []
        self.lags: list[tuple[float, float]] = []
        began = time.monotonic()
        with connect(url) as client:
            for event in client.live(in_real_time(seconds), OPTIONS):
                if isinstance(event, Completed) and event.text:
                    now = time.monotonic()
                    self.texts.append(event.text)
                    self.lags.append((now, now - began - event.end_s))


@pytest.mark.chaos
def test_replicas_that_are_killed_cost_no_word(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    """How late text is depends on the machine: it is printed, of turns that were told within 5 s of
    a kill and of all others, and of the same sessions before that, which nobody disturbs. The last
    ten seconds are undisturbed, too."""
    chance, seconds = random.Random(5), 10.0 * (N_KILLS + 2)
    kills: list[float] = []

    def kill() -> None:
        while len(kills) < N_KILLS:
            time.sleep(chance.uniform(6, 12))
            if replicas := cluster.processes("tiny_en"):
                chance.choice(replicas).kill()
                kills.append(time.monotonic())

    undisturbed = listen_together(cluster.url, max(40.0, seconds / 3), lambda: None)
    disturbed = listen_together(cluster.url, seconds, kill)
    with capsys.disabled():
        print()
        for listeners, there in ((undisturbed, []), (disturbed, kills)):
            print(summary(there, listeners))
    n_turns = -(-int(seconds * 16_000) // len(speech(16_000)))
    assert [len(each.texts) for each in disturbed] == [n_turns] * len(disturbed)
    wrong = [
        f"{text!r}, {min(abs(at - kill) for kill in kills):.1f} s from a kill"
        for each in disturbed
        for text, (at, _) in zip(each.texts, each.lags, strict=True)
        if not is_whole(difference(text))
    ]
    assert not wrong


def is_whole(found: Difference) -> bool:
    """No word is lost or put in; one or two may be misheard, as in `is_right`."""
    return found.lost == found.put_in == 0 and found.misheard <= 2


def listen_together(url: str, seconds: float, meanwhile: Callable[[], None]) -> list[Listener]:
    """Eight sessions, which begin one after another."""

    def listen(index: int) -> Listener:
        time.sleep(index * 0.4)
        return Listener(url, seconds)

    with ThreadPoolExecutor(8) as threads:
        heard = [threads.submit(listen, index) for index in range(8)]
        meanwhile()
        return [each.result() for each in heard]


def summary(kills: list[float], listeners: list[Listener]) -> str:
    """What became of words, and how late turns were told, in seconds: median, 95th percentile and
    most."""
    texts = [text for each in listeners for text in each.texts]
    lags = [lag for each in listeners for lag in each.lags]
    lost, put_in, misheard = map(sum, zip(*map(difference, texts), strict=True))
    parts = [
        f"{len(kills)} kills, {len(texts)} turns; words lost {lost}, put in {put_in}, "
        f"misheard {misheard}"
    ]
    near = [lag for at, lag in lags if any(0.0 <= at - kill <= 5.0 for kill in kills)]
    far = [lag for at, lag in lags if not any(0.0 <= at - kill <= 5.0 for kill in kills)]
    for name, found in (("within 5 s of a kill", near), ("later", far)):
        if found:
            p50, p95 = np.quantile(found, [0.5, 0.95])
            parts.append(f"{name} {p50:.2f} / {p95:.2f} / {max(found):.2f} ({len(found)})")
    return "; ".join(parts)


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

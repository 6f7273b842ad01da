"""Tiers on nodes of two GPU classes, which are but labels: where their replicas lie, how many there
are, and what happens when a class is gone. Over HTTP, on real models; every answer is checked."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.e2e.conftest import CLIP, write_speech
from tests.e2e.test_routing import SAID
from tests.support.cluster import Cluster
from tests.support.fleet import ask, cluster_state, models, tier_state, wait_for_replicas
from tests.support.nodes import Nodes

pytestmark = pytest.mark.chaos
# Of models that compute on two cores of this machine, not on the GPUs that the labels name.
CHEAP: dict[str, Any] = {
    "spot": False,
    "name": "tiny.en",
    "model": "demo:tiny.en",
    "accelerator": "T4",
    "max_replicas": 2,
    "batch_size": 2,
    "rtfx": 20,
    "cold_start_s": 5,
}
DEAR: dict[str, Any] = {
    "name": "base",
    "model": "demo:base",
    "accelerator": "A100",
    "min_replicas": 0,
    "max_replicas": 2,
    "batch_size": 4,
    "rtfx": 20,
    "cold_start_s": 600,  # as the settings have it: nobody shall go there out of impatience
}


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    nodes = Nodes(["T4", "A100"])
    yield nodes
    nodes.stop()


@pytest.fixture(scope="module")
def fleet(nodes: Nodes) -> Iterator[Cluster]:
    settings = {"tiers": [CHEAP, DEAR], "autoscaling": {"down_delay_s": 5, "zero_delay_s": 15}}
    cluster = Cluster(settings, "tests.e2e.without_gpus:build", nodes=nodes)
    yield cluster
    cluster.stop()


def wait_until_lost(fleet: Cluster, tier: str) -> None:
    """Until the rest of the cluster knows. Who asks what is going away with the node is cut off."""
    deadline = time.monotonic() + 60
    while True:
        try:
            if tier_state(fleet, tier)["replicas"] == 0:
                return
        except httpx2.TransportError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.5)


def classes_of(fleet: Cluster, tier: str) -> list[str | None]:
    """The accelerator of each replica's node."""
    classes = fleet.classes()
    return [classes[node] for node in fleet.nodes_of(f"ServeReplica:murmur:{tier}")]


def test_a_burst_brings_replicas_of_the_cheap_class_and_they_go_again(
    fleet: Cluster, tmp_path: Path
) -> None:
    wait_for_replicas(fleet, "tiny.en", 1)
    speech = write_speech(tmp_path / "speech.wav", 150)
    alone = ask(fleet, speech, model="auto", language="en", quality="fast")
    wait_for_replicas(fleet, "tiny.en", 1)  # if that was a burst to it
    with ThreadPoolExecutor(6) as threads:
        # By its name: what is more than two replicas can do would wake the dear tier.
        answers = [threads.submit(ask, fleet, speech, model="tiny.en") for _ in range(6)]
        wait_for_replicas(fleet, "tiny.en", 2)
        assert classes_of(fleet, "tiny_en") == ["T4", "T4"]
        for answer in answers:
            assert models(answer.result()) == {"tiny.en"}
            assert answer.result()["text"] == alone["text"]
    wait_for_replicas(fleet, "tiny.en", 1)
    changes = [d["replicas"] for d in cluster_state(fleet)["decisions"] if d["tier"] == "tiny.en"]
    assert changes[:2] == [1, 2], "the newest first"
    assert tier_state(fleet, "base")["replicas"] == 0, "nobody needed the dear one"


def test_a_tier_at_zero_answers_after_a_cold_start(fleet: Cluster) -> None:
    assert tier_state(fleet, "base")["replicas"] == 0
    body = ask(fleet, CLIP, model="auto", language="en", quality="best")
    assert models(body) == {"base"} and SAID in body["text"]
    assert classes_of(fleet, "base") == ["A100"]
    assert classes_of(fleet, "tiny_en") == ["T4"]
    wait_for_replicas(fleet, "base", 0)


def test_with_the_cheap_class_gone_the_load_moves(fleet: Cluster, nodes: Nodes) -> None:
    """Nothing but the dear class is left, which is asleep: it wakes for work that it would not get
    otherwise."""
    (node,) = fleet.nodes_of("ServeReplica:murmur:tiny_en")
    nodes.remove(node)
    wait_until_lost(fleet, "tiny.en")
    body = ask(fleet, CLIP, model="auto", language="en", quality="fast")
    assert models(body) == {"base"} and SAID in body["text"]
    cheap = tier_state(fleet, "tiny.en")
    assert cheap["denied"] and cheap["replicas"] == 0 and cheap["wait_s"] is None
    assert cheap["reason"].endswith("0 T4 to be had")
    assert tier_state(fleet, "base")["replicas"] == 1
    again = ask(fleet, CLIP, model="auto", language="en", quality="fast")
    assert models(again) == {"base"} and SAID in again["text"]

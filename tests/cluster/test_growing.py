"""The types of machines of the cluster files under Ray's own autoscaler: a tier's backlog brings a
node of its class up, and idleness takes it down. Over HTTP, on real models; nodes are logical."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.conftest import CLIP, write_speech
from tests.e2e.test_routing import SAID
from tests.support.cluster import Cluster
from tests.support.fleet import ask, models, tier_state, wait_for_replicas
from tests.support.growing_nodes import GrowingNodes

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).parents[2]
FILES = ["cluster.yaml", "cluster.gcp.yaml"]
IDLE_S = 15.0
COMMON: dict[str, Any] = {"min_replicas": 0, "max_replicas": 2, "batch_size": 2, "rtfx": 20}
# Placed as the tiers of those clusters, computing on this machine's CPU.
CHEAP = {"name": "tiny.en", "model": "demo:tiny.en", "accelerator": "T4", "spot": True, **COMMON}
DEAR = {"name": "base", "model": "demo:base", "accelerator": "L4", "spot": False, **COMMON}


@pytest.fixture(scope="module", params=FILES)
def nodes(request: pytest.FixtureRequest) -> Iterator[GrowingNodes]:
    content = yaml.safe_load((ROOT / request.param).read_text(encoding="utf-8"))
    types = content["available_node_types"]
    workers = {n: t for n, t in types.items() if n != content["head_node_type"]}
    nodes = GrowingNodes(workers, IDLE_S)
    yield nodes
    nodes.stop()


@pytest.fixture(scope="module")
def fleet(nodes: GrowingNodes) -> Iterator[Cluster]:
    settings = {
        "tiers": [CHEAP, DEAR],
        "autoscaling": {"down_delay_s": 5, "zero_delay_s": 10},
    }
    cluster = Cluster(settings, "tests.e2e.without_gpus:build", nodes=nodes)
    yield cluster
    cluster.stop()


def wait_for_machines(fleet: Cluster, wanted: list[tuple[str, str]]) -> None:
    deadline = time.monotonic() + 180
    while fleet.machines() != wanted:
        assert time.monotonic() < deadline, fleet.machines()
        time.sleep(1.0)


def test_a_backlog_brings_nodes_of_its_class_and_idleness_takes_them_down(
    fleet: Cluster, tmp_path: Path
) -> None:
    assert fleet.machines() == [], "no tier needs one"
    # By its name, now and in the burst: what `auto` has no room for would go to the other tier.
    body = ask(fleet, CLIP, model="tiny.en")
    assert models(body) == {"tiny.en"} and SAID in body["text"]
    assert fleet.machines() == [("T4", "spot")]
    speech = write_speech(tmp_path / "speech.wav", 150)
    with ThreadPoolExecutor(6) as threads:
        answers = [threads.submit(ask, fleet, speech, model="tiny.en") for _ in range(6)]
        wait_for_replicas(fleet, "tiny.en", 2, 180)
        assert set(fleet.machines()) == {("T4", "spot")}
        texts = {answer.result()["text"] for answer in answers}
    assert len(texts) == 1
    wait_for_machines(fleet, [])
    assert tier_state(fleet, "base")["replicas"] == 0


def test_each_tier_gets_nodes_of_its_own_class(fleet: Cluster) -> None:
    body = ask(fleet, CLIP, model="auto", language="en", quality="best")
    assert models(body) == {"base"} and SAID in body["text"]
    assert fleet.machines() == [("L4", "on-demand")]
    wait_for_machines(fleet, [])

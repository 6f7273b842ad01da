"""Gangs in Ray Serve: side by side, on nodes of two classes, and with ranks and nodes that die."""

import os
import random
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
import yaml

from tests.e2e.conftest import write_speech
from tests.support.cluster import Cluster
from tests.support.nodes import Nodes

pytestmark = pytest.mark.chaos
N_KILLS = int(os.environ.get("MURMUR_TEST_KILLS", "2"))
SILENT_S = 5.0
SPLIT: dict[str, Any] = {
    "name": "split",
    "model": "demo:tiny.en",
    "precision": "float32",
    "tensor_parallel": 2,
    "pipeline_parallel": 2,
    "shard_silent_s": SILENT_S,
}
PLAIN = {"name": "plain", "model": "demo:tiny.en", "precision": "float32"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A tier of one process, one of a gang, and one of two gangs."""
    pair = {**SPLIT, "name": "pair", "min_replicas": 2, "max_replicas": 2}
    cluster = Cluster({"tiers": [PLAIN, SPLIT, pair]})
    yield cluster
    cluster.stop()


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_speech(tmp_path_factory.mktemp("five") / "five.wav", 300).read_bytes()


def transcribe(cluster: Cluster, content: bytes, model: str = "split") -> dict[str, Any]:
    answer = httpx2.post(
        f"{cluster.url}/v1/audio/transcriptions",
        data={"model": model, "response_format": "verbose_json"},
        files={"file": ("a.wav", content)},
        timeout=300,
    )
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


def words(result: dict[str, Any]) -> list[tuple[Any, ...]]:
    """All but what rounding may change."""
    segments = result["segments"]
    return [(s["start"], s["end"], s["text"], tuple(s["tokens"])) for s in segments]


def test_a_gang_gives_the_transcript_of_one_process(cluster: Cluster, content: bytes) -> None:
    whole = transcribe(cluster, content, "plain")
    assert len(whole["segments"]) > 30
    assert words(transcribe(cluster, content, "split")) == words(whole)
    before = {shard.pid: sum(shard.cpu_times()[:2]) for shard in cluster.shards()}
    assert len(before) == 12
    assert words(transcribe(cluster, content, "pair")) == words(whole)
    worked = [s for s in cluster.shards() if sum(s.cpu_times()[:2]) - before[s.pid] > 1.0]
    assert len(worked) == 8, "both gangs have worked"


def test_a_rank_that_dies_costs_nothing_but_time(cluster: Cluster, content: bytes) -> None:
    began = time.monotonic()
    whole = transcribe(cluster, content)
    took_s = time.monotonic() - began
    chance = random.Random(11)
    for kill in range(N_KILLS):
        doomed = chance.choice(gang_of(cluster, "split"))
        with ThreadPoolExecutor(1) as threads:
            answer = threads.submit(transcribe, cluster, content)
            time.sleep(chance.uniform(0.1, 0.8) * took_s)
            doomed.kill()
            result = answer.result()
        assert words(result) == words(whole), f"kill {kill}"
        check_whole(cluster)
    assert sum(record["retried"] for record in cluster.records()) > 0, "kills came too late"


def test_a_rank_that_hangs_is_replaced_with_its_gang(cluster: Cluster, content: bytes) -> None:
    whole = transcribe(cluster, content)
    before = gang_of(cluster, "split")
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(transcribe, cluster, content)
        time.sleep(2)
        before[2].send_signal(signal.SIGSTOP)
        began = time.monotonic()
        psutil.wait_procs(before[:2], timeout=60)
        noticed_s = time.monotonic() - began
        assert words(answer.result()) == words(whole)
    assert SILENT_S * 0.5 < noticed_s < SILENT_S + 3
    check_whole(cluster)
    assert not any(process.is_running() for process in before)


def test_an_idle_gang_that_loses_a_rank_is_replaced(cluster: Cluster) -> None:
    before = gang_of(cluster, "split")
    before[3].kill()
    _, alive = psutil.wait_procs(before, timeout=10)
    assert not alive
    check_whole(cluster)
    assert not set(before) & set(cluster.shards())


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_leader_that_dies_or_hangs_takes_its_ranks_along(
    how: signal.Signals, cluster: Cluster, content: bytes
) -> None:
    whole = transcribe(cluster, content)
    before = gang_of(cluster, "split")
    (leader,) = cluster.processes("split")
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(transcribe, cluster, content)
        time.sleep(2)
        leader.send_signal(how)
        _, alive = psutil.wait_procs(before, timeout=SILENT_S + 10)
        assert not alive
        if how == signal.SIGSTOP:  # as the kernel does, or an operator
            leader.kill()
        assert words(answer.result()) == words(whole)
    check_whole(cluster)


def gang_of(cluster: Cluster, deployment: str) -> list[psutil.Process]:
    """The ranks whose lines end at the deployment's only replica."""
    (leader,) = cluster.processes(deployment)
    ports = {c.laddr.port for c in leader.net_connections("tcp") if c.status == "ESTABLISHED"}
    found = [
        shard
        for shard in cluster.shards()
        if any(c.raddr and c.raddr.port in ports for c in shard.net_connections("tcp"))
    ]
    assert len(found) == 4
    return found


def check_whole(cluster: Cluster) -> None:
    """All gangs are there again, and nothing of those before."""
    cluster.wait_for("split", 1)
    deadline = time.monotonic() + 15
    while len(cluster.shards()) != 12 or len(cluster.placement_groups()) != 3:
        assert time.monotonic() < deadline, (cluster.shards(), cluster.placement_groups())
        time.sleep(0.5)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    nodes = Nodes(["L4", "H100", "H100"])
    yield nodes
    nodes.stop()


def test_ranks_of_a_layer_may_lie_on_several_nodes(nodes: Nodes, content: bytes) -> None:
    """Three that share each layer, on nodes of two GPUs."""
    mesh = {"tensor_parallel": 3, "pipeline_parallel": 1, "allow_cross_node_tp": True}
    tier = {**SPLIT, **mesh, "accelerator": "H100"}
    cluster = Cluster({"tiers": [PLAIN, tier]}, "tests.e2e.without_gpus:build", nodes=nodes)
    try:
        classes, lie_on = cluster.classes(), cluster.nodes_of("Shard")
        assert len(lie_on) == 3 and len(set(lie_on)) == 2
        assert {classes[node] for node in lie_on} == {"H100"}
        assert words(transcribe(cluster, content)) == words(transcribe(cluster, content, "plain"))
    finally:
        cluster.murmur("down")


def test_stages_lie_on_their_classes_and_outlive_a_node(nodes: Nodes, content: bytes) -> None:
    tier = {**SPLIT, "stage_accelerators": ["L4", "H100"], "stage_layers": [5, 3]}
    cluster = Cluster({"tiers": [PLAIN, tier]}, "tests.e2e.without_gpus:build", nodes=nodes)
    try:
        whole = transcribe(cluster, content, "plain")
        (group,) = cluster.placement_groups()
        first, second = (group["nodes"][index] for index in ("0", "1"))
        classes = cluster.classes()
        assert (classes[first], classes[second]) == ("L4", "H100")
        assert sorted(cluster.nodes_of("Shard")) == sorted([first, first, second, second])
        with ThreadPoolExecutor(1) as threads:
            answer = threads.submit(transcribe, cluster, content)
            time.sleep(3)
            nodes.remove(second)
            assert words(answer.result()) == words(whole)
        (group,) = [g for g in cluster.placement_groups() if g["state"] == "CREATED"]
        assert group["nodes"]["1"] not in (first, second)
        assert classes[group["nodes"]["1"]] == "H100"
    finally:
        cluster.murmur("down")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tensor_parallel": 3}, "stage 1 of 2 needs 3 L4 GPUs on one node; the widest"),
        ({"min_replicas": 2, "max_replicas": 2}, "4 L4 GPUs are needed for 2 replicas of 2"),
        ({"stage_accelerators": ["L4", "T4"]}, "stage 2 of 2 needs 2 T4 GPUs, but no node has any"),
    ],
)
def test_what_cannot_be_placed_is_said_at_once(
    changes: dict[str, Any], message: str, nodes: Nodes, tmp_path: Path
) -> None:
    tier = {**SPLIT, "stage_accelerators": ["L4", "H100"], **changes}
    (tmp_path / "m.yaml").write_text(yaml.safe_dump({"tiers": [tier]}))
    done = murmur_up(nodes, tmp_path / "m.yaml")
    assert done.returncode == 1 and message in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tensor_parallel": 7}, "tensor_parallel must be 1 to 6, the model's number of heads"),
        (
            {"pipeline_parallel": 9, "tensor_parallel": 1},
            "pipeline_parallel must be 1 to 8, the model's number of layers",
        ),
        ({"stage_layers": [4, 5]}, "9 in all; the model has 8"),
    ],
)
def test_what_cannot_be_split_is_said_by_the_status(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        Cluster({"tiers": [{**SPLIT, **changes}]})


def murmur_up(nodes: Nodes, settings: Path) -> Any:
    import subprocess
    import sys

    return subprocess.run(
        [sys.executable, "-m", "serve.commands.cli", "up", str(settings)],
        env={**os.environ, **nodes.environment},
        capture_output=True,
        text=True,
        timeout=120,
    )

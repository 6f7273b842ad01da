"""`ray up` to `ray down` with the repository's own cluster file, on hosts made of namespaces.

The tests are one story: each begins where the one before it ends.
"""

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import write_speech
from tests.support.host_cluster import HEAD, WORKERS, HostCluster
from tests.support.hosts import wait_for
from tests.support.load import CLIPS, WORDS, Load, load, post

pytestmark = pytest.mark.cluster
MODEL, TIER = "tiny.en", "tiny_en"
JOIN_TIMEOUT_S = 600.0


def settings(n_ingresses: int, **tier: Any) -> dict[str, Any]:
    """A replica of the tier fills a worker, so that each worker has one."""
    shape = {"cpus": 2, "min_replicas": 2, "max_replicas": 2}
    return {
        "tiers": [{"name": MODEL, "model": "demo:tiny.en", **shape, **tier}],
        "ingress": {"replicas": n_ingresses, "labels": {"murmur/role": "ingress"}},
    }


@pytest.fixture(scope="module")
def cluster() -> Iterator[HostCluster]:
    cluster = HostCluster(settings(n_ingresses=1))
    try:
        yield cluster
    finally:
        cluster.close()


def addresses(cluster: HostCluster) -> set[str]:
    return {cluster.hosts[name].address for name in WORKERS}


def wait_for_answers(running: Load, n: int) -> None:
    before = len(running.outcomes)
    wait_for(lambda: len(running.outcomes) >= before + n, f"{n} answers")


def test_serve_starts_with_the_head(cluster: HostCluster) -> None:
    cluster.up()
    for clip in CLIPS:
        outcome = post(cluster.url, clip, MODEL)
        assert outcome.words == WORDS[clip.name], outcome
    assert set(cluster.replicas(TIER).values()) == addresses(cluster)
    assert set(cluster.replicas("Ingress").values()) < addresses(cluster)


def test_commands_reach_the_head(cluster: HostCluster) -> None:
    said = cluster.launcher.ray("exec", "murmur status --address auto")
    assert MODEL in said and "running" in said.lower(), said


def test_a_worker_without_power_costs_its_chunks_a_second_run(
    cluster: HostCluster, tmp_path: Path
) -> None:
    long = write_speech(tmp_path / "long.wav", 150)
    undisturbed = post(cluster.url, long, MODEL)
    assert undisturbed.words, undisturbed.error
    (ingress,) = cluster.replicas("Ingress").values()
    lost = next(h for h in cluster.hosts if h.name in WORKERS and h.address != ingress)
    with load(cluster.url, MODEL) as running, ThreadPoolExecutor(1) as threads:
        wait_for_answers(running, 5)
        future = threads.submit(post, cluster.url, long, MODEL)
        wait_for_answers(running, 2)
        lost.cut_power()
        assert future.result().words == undisturbed.words, future.result().error
        wait_for_answers(running, 5)
    assert not running.wrong and not running.failed
    assert sum(record["retried"] for record in cluster.records()) > 0
    assert lost.address not in cluster.replicas(TIER).values()

    lost.switch_on()
    with load(cluster.url, MODEL, n_threads=1) as running:
        wait_for(
            lambda: lost.address in cluster.replicas(TIER).values(),
            f"a replica on {lost.name}",
            JOIN_TIMEOUT_S,
        )
    assert not running.wrong and not running.failed


def test_other_settings_fail_no_request(cluster: HostCluster) -> None:
    cluster.deploy(settings(n_ingresses=2))
    wait_for(lambda: len(cluster.replicas("Ingress")) == 2, "another ingress")
    before = cluster.replicas(TIER)
    with load(cluster.url, MODEL) as running:
        wait_for_answers(running, 5)
        cluster.deploy(settings(n_ingresses=2, batch_size=8))
        wait_for(
            lambda: len(set(cluster.replicas(TIER)) - set(before)) == 2,
            "new replicas",
            JOIN_TIMEOUT_S,
        )
        cluster.wait_until_running()
        wait_for_answers(running, 5)
    assert not running.wrong and not running.failed


def check_head_comes_back(cluster: HostCluster, end_head: Callable[[], None]) -> None:
    """Workers' proxies answer without a head, and the next one finds all replicas."""
    before = cluster.replicas(TIER)
    worker = f"http://{cluster.hosts[WORKERS[0]].address}:8000"
    with load(worker, MODEL, n_threads=1) as running:
        wait_for_answers(running, 3)
        end_head()
        wait_for_answers(running, 5)
        cluster.restart_head()
        wait_for_answers(running, 5)
    assert not running.wrong and not running.failed
    assert cluster.replicas(TIER) == before
    outcome = post(cluster.url, CLIPS[0], MODEL)
    assert outcome.words == WORDS[CLIPS[0].name], outcome


def test_a_head_that_starts_again_finds_all(cluster: HostCluster) -> None:
    def end_head() -> None:
        for process in cluster.hosts[HEAD].processes():
            process.send_signal(signal.SIGKILL)

    check_head_comes_back(cluster, end_head)


def test_ray_down_leaves_no_process(cluster: HostCluster) -> None:
    cluster.launcher.ray("down", "-y")
    began = time.monotonic()
    try:
        wait_for(lambda: not any(h.processes() for h in cluster.hosts), "the end of all processes")
    except AssertionError:
        pytest.fail(str({host.name: host.processes() for host in cluster.hosts}))
    print(f"no process left after {time.monotonic() - began:.0f} s")

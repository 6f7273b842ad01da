"""A head that loses its power, and another at its address that knows all from Redis, as under
KubeRay with `k8s/components/redis`: the files of Ray's session are gone."""

import pytest

from tests.cluster.test_ray_up import MODEL, TIER, settings, wait_for_answers
from tests.support.host_cluster import HEAD, WORKERS, HostCluster
from tests.support.load import CLIPS, WORDS, load, post

pytestmark = pytest.mark.cluster


def test_a_head_that_is_replaced_finds_all() -> None:
    cluster = HostCluster(settings(n_ingresses=1), redis=True)
    try:
        cluster.up()
        assert cluster.redis is not None and cluster.redis.n_keys()
        before, head = cluster.replicas(TIER), cluster.hosts[HEAD]
        worker = f"http://{cluster.hosts[WORKERS[0]].address}:8000"
        with load(worker, MODEL, n_threads=1) as running:
            wait_for_answers(running, 3)
            head.cut_power()
            wait_for_answers(running, 5)
            head.switch_on()
            cluster.launcher.ray("up", "-y", "--restart-only")
            cluster.wait_until_running()
            wait_for_answers(running, 5)
        assert not running.wrong and not running.failed
        assert cluster.replicas(TIER) == before
        outcome = post(cluster.url, CLIPS[0], MODEL)
        assert outcome.words == WORDS[CLIPS[0].name], outcome
    finally:
        cluster.close()

"""A head that loses its power, and another at its address that knows all from Redis, as under
KubeRay with `k8s/components/redis`: the files of Ray's session are gone."""

import pytest

from tests.cluster.test_ray_up import check_head_comes_back, settings
from tests.support.host_cluster import HEAD, HostCluster

pytestmark = pytest.mark.cluster


def test_a_head_that_is_replaced_finds_all() -> None:
    cluster = HostCluster(settings(n_ingresses=1), redis=True)
    try:
        cluster.up()
        assert cluster.redis is not None and cluster.redis.n_keys()
        check_head_comes_back(cluster, cluster.hosts[HEAD].cut_power)
    finally:
        cluster.close()

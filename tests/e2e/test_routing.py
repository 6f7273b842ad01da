"""Requests that leave the choice of the model to the cluster, over HTTP, on real models."""

from collections.abc import Iterator

import httpx2
import pytest

from serve.settings.config import OPENAI_MODELS
from tests.e2e.conftest import CLIP
from tests.support.cluster import Cluster
from tests.support.fleet import ask, cluster_state, models, tier_state, wait_for_replicas

pytestmark = pytest.mark.more  # a cluster of its own

SAID = "then leisure to consider"


@pytest.fixture(scope="module")
def fleet() -> Iterator[Cluster]:
    """tiny.en, which may sleep, and base, which never does."""
    cluster = Cluster(
        {
            "tiers": [
                {
                    "name": "tiny.en",
                    "model": "demo:tiny.en",
                    "min_replicas": 0,
                    "max_replicas": 2,
                    "batch_size": 2,
                    "cold_start_s": 10,
                },
                {"name": "base", "model": "demo:base", "batch_size": 4},
            ],
            "aliases": {"whisper-1": "auto"},
            "autoscaling": {"down_delay_s": 3, "zero_delay_s": 6},
        }
    )
    yield cluster
    cluster.stop()


def test_the_choice_is_the_clusters(fleet: Cluster) -> None:
    """With tiny.en asleep an interactive request goes to base; English of batch priority can wait
    for the cheaper one."""
    wait_for_replicas(fleet, "base", 1)
    assert tier_state(fleet, "tiny.en")["replicas"] == 0
    body = ask(fleet, CLIP, model="auto", language="en", quality="fast")
    assert models(body) == {"base"} and SAID in body["text"]
    patient = ask(fleet, CLIP, model="whisper-1", language="en", quality="fast", priority="batch")
    assert models(patient) == {"tiny.en"} and SAID in patient["text"]
    assert patient["murmur"]["usd"] > 0
    named = ask(fleet, CLIP, model="tiny.en")
    assert models(named) == {"tiny.en"} and SAID in named["text"]
    french = ask(fleet, CLIP, model="auto", language="fr", quality="fast", priority="batch")
    assert models(french) == {"base"}


@pytest.mark.chaos  # it takes a while until there was no work for long enough
def test_a_tier_without_work_goes_to_sleep(fleet: Cluster) -> None:
    assert models(ask(fleet, CLIP, model="tiny.en")) == {"tiny.en"}
    wait_for_replicas(fleet, "tiny.en", 0)
    decisions = cluster_state(fleet)["decisions"]
    assert [(d["before"], d["replicas"]) for d in decisions if d["tier"] == "tiny.en"][0] == (1, 0)


def test_what_no_tier_can_do_is_refused(fleet: Cluster) -> None:
    with CLIP.open("rb") as file:
        answer = httpx2.post(
            f"{fleet.url}/v1/audio/transcriptions",
            files={"file": file},
            data={"model": "auto", "language": "xx"},
            timeout=30,
        )
    assert answer.status_code == 400
    assert "unsupported language 'xx'" in answer.json()["error"]["message"]


def test_the_models_have_auto(fleet: Cluster) -> None:
    names = [model["id"] for model in httpx2.get(f"{fleet.url}/v1/models").json()["data"]]
    assert names == ["tiny.en", "base", "auto", *OPENAI_MODELS]

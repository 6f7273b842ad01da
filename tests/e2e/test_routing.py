"""Requests that leave the choice of the model to the cluster, over HTTP, on real models."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.e2e.conftest import CLIP
from tests.support.cluster import Cluster

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


def ask(fleet: Cluster, audio: Path, **fields: str) -> dict[str, Any]:
    with audio.open("rb") as file:
        answer = httpx2.post(
            f"{fleet.url}/v1/audio/transcriptions",
            files={"file": file},
            data={"response_format": "verbose_json", **fields},
            timeout=120,
        )
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def tier(fleet: Cluster, name: str) -> dict[str, Any]:
    cluster = httpx2.get(f"{fleet.url}/v1/cluster", timeout=30).json()
    found: dict[str, Any] = next(t for t in cluster["tiers"] if t["name"] == name)
    return found


def wait_for(fleet: Cluster, name: str, replicas: int, timeout_s: float = 90.0) -> None:
    deadline = time.monotonic() + timeout_s
    while tier(fleet, name)["replicas"] != replicas:
        assert time.monotonic() < deadline, tier(fleet, name)
        time.sleep(0.5)


def models(body: dict[str, Any]) -> set[str]:
    return set(body["murmur"]["segment_models"])


def test_the_choice_is_the_clusters(fleet: Cluster) -> None:
    """With tiny.en asleep an interactive request goes to base; English of batch priority can wait
    for the cheaper one."""
    wait_for(fleet, "base", 1)
    assert tier(fleet, "tiny.en")["replicas"] == 0
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
    wait_for(fleet, "tiny.en", 0)
    decisions = httpx2.get(f"{fleet.url}/v1/cluster", timeout=30).json()["decisions"]
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
    assert names == ["tiny.en", "base", "auto", "whisper-1"]

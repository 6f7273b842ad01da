"""A model and two of its adapters in one replica, asked over HTTP at once."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from deployments.local import FileDone, Job, LocalTranscriber
from engine import Checkpoint, Engine, EngineConfig, open_checkpoint
from tests.conftest import DATA
from tests.support.adapters import merged, with_adapters, write_adapter
from tests.support.cluster import Cluster

pytestmark = pytest.mark.more  # a cluster of its own

CLIP = DATA / "librivox-0930.wav"
NAMES = ("tiny.en", "names", "accent")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base, folder = open_checkpoint("demo:tiny.en"), tmp_path_factory.mktemp("adapters")
    return {
        "names": write_adapter(base, folder / "names", seed=1, strength=0.35 / 1.5),
        "accent": write_adapter(
            base, folder / "accent", 2, rank=16, layers=("q_proj", "v_proj"), strength=0.35
        ),
    }


@pytest.fixture(scope="module")
def adapted(folders: dict[str, Path]) -> Iterator[Cluster]:
    tier = {
        "name": "tiny.en",
        "model": "demo:tiny.en",
        "precision": "float32",
        "adapters": {name: str(folder) for name, folder in folders.items()},
    }
    cluster = Cluster({"tiers": [tier], "aliases": {"whisper-1": "accent"}})
    yield cluster
    cluster.stop()


def ask(cluster: Cluster, model: str) -> Any:
    with CLIP.open("rb") as file:
        answer = httpx2.post(
            f"{cluster.url}/v1/audio/transcriptions",
            data={"model": model, "response_format": "verbose_json", "language": "en"},
            files={"file": file},
            timeout=120,
        )
    assert answer.status_code == 200, answer.text
    return answer.json()


def expected(checkpoint: Checkpoint) -> str:
    """What a process of its own makes of the clip with the model."""
    events = LocalTranscriber(Engine(checkpoint, EngineConfig())).run([Job("clip", str(CLIP))])
    return next(event.transcript.text for event in events if isinstance(event, FileDone))


def test_one_replica_serves_the_base_and_its_adapters(
    adapted: Cluster, folders: dict[str, Path]
) -> None:
    with ThreadPoolExecutor(6) as callers:
        answers = list(callers.map(lambda name: ask(adapted, name), NAMES * 2))
    together = with_adapters("demo:tiny.en", folders)
    texts = [
        expected(open_checkpoint("demo:tiny.en")),
        *(expected(merged(together, name)) for name in NAMES[1:]),
    ]
    assert len(set(texts)) == 3  # else the comparison would say nothing
    assert [answer["text"] for answer in answers] == texts * 2
    assert [answer["murmur"]["segment_models"] for answer in answers[:3]] == [[n] for n in NAMES]
    assert all(answer["murmur"]["usd"] > 0 for answer in answers)
    assert ask(adapted, "whisper-1")["text"] == texts[2]
    (tier,) = httpx2.get(f"{adapted.url}/v1/cluster").json()["tiers"]
    assert (tier["name"], tier["replicas"], sorted(tier["adapters"])) == (
        "tiny.en",
        1,
        sorted(NAMES[1:]),
    )
    models = httpx2.get(f"{adapted.url}/v1/models").json()["data"]
    assert {*NAMES, "auto", "whisper-1"} <= {model["id"] for model in models}

"""A model over four processes, behind HTTP: the words of one process."""

import json
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.e2e.conftest import write_speech
from tests.support.cluster import Cluster

pytestmark = pytest.mark.more  # a cluster of its own

TIER = {
    "name": "split",
    "model": "demo:tiny.en",
    "precision": "float32",
    "tensor_parallel": 2,
    "pipeline_parallel": 2,
    "batch_size": 6,
}


@pytest.fixture(scope="module")
def gang() -> Iterator[Cluster]:
    cluster = Cluster({"tiers": [TIER]})
    yield cluster
    cluster.stop()


def test_a_gang_gives_the_transcript_of_one_process(gang: Cluster, tmp_path: Path) -> None:
    path = write_speech(tmp_path / "speech.wav", 60)
    done = gang.murmur(
        *("transcribe", path, "--context", "1", "--threads", "1", "--precision", "float32"),
        *("--format", "verbose_json"),
    )
    expected = json.loads(done.stdout)
    with openai.OpenAI(base_url=f"{gang.url}/v1", api_key="none", max_retries=0) as client:
        got = client.audio.transcriptions.create(
            model="split", file=path, response_format="verbose_json"
        )
    assert len(gang.shards()) == 4
    assert got.segments is not None and len(got.segments) > 5
    for segment, theirs in zip(got.segments, expected["segments"], strict=True):
        assert segment.tokens == theirs["tokens"]
        assert (segment.start, segment.end) == (theirs["start"], theirs["end"])
        assert abs(segment.avg_logprob - theirs["avg_logprob"]) < 1e-3

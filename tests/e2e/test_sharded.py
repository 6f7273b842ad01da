"""A model over four processes, behind HTTP: the words of one process."""

import json
from pathlib import Path

import openai

from tests.e2e.conftest import write_speech
from tests.support.cluster import Cluster


def test_a_gang_gives_the_transcript_of_one_process(
    cluster: Cluster, client: openai.OpenAI, tmp_path: Path
) -> None:
    path = write_speech(tmp_path / "speech.wav", 60)
    done = cluster.murmur(
        *("transcribe", path, "--context", "1", "--threads", "1", "--precision", "float32"),
        *("--format", "verbose_json"),
    )
    expected = json.loads(done.stdout)
    got = client.audio.transcriptions.create(
        model="split", file=path, response_format="verbose_json"
    )
    assert len(cluster.shards()) == 4
    assert got.segments is not None and len(got.segments) > 5
    for segment, theirs in zip(got.segments, expected["segments"], strict=True):
        assert segment.tokens == theirs["tokens"]
        assert (segment.start, segment.end) == (theirs["start"], theirs["end"])
        assert abs(segment.avg_logprob - theirs["avg_logprob"]) < 1e-3

"""A model over four processes, behind HTTP: the words of one process."""

import json
from pathlib import Path

import openai

from tests.support.cluster import Cluster


def test_a_gang_gives_the_transcript_of_one_process(
    cluster: Cluster, client: openai.OpenAI, long_file: Path
) -> None:
    done = cluster.murmur(
        *("transcribe", long_file, "--context", "1", "--threads", "1", "--precision", "float32"),
        *("--format", "verbose_json"),
    )
    expected = json.loads(done.stdout)
    got = client.audio.transcriptions.create(
        model="split", file=long_file, response_format="verbose_json"
    )
    assert len(cluster.shards()) == 4
    assert got.segments is not None and len(got.segments) > 15
    for segment, theirs in zip(got.segments, expected["segments"], strict=True):
        assert segment.tokens == theirs["tokens"]
        assert (segment.start, segment.end) == (theirs["start"], theirs["end"])
        assert abs(segment.avg_logprob - theirs["avg_logprob"]) < 1e-3

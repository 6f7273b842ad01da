"""One real cluster for most tests: Ray, Serve, real weights, on this machine."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import openai
import pytest
import soundfile

from tests.conftest import DATA, read_pcm
from tests.support.cluster import Cluster

CLIP = DATA / "librivox-0870.wav"
LONG_S = 90
KEY = "sk-test-0123456789"


SETTINGS: dict[str, Any] = {
    "tiers": [
        {"name": "tiny.en", "model": "demo:tiny.en", "min_replicas": 2, "max_replicas": 2},
        {"name": "base", "model": "demo:base"},
    ],
    "limits": {"max_upload_mb": 30, "max_duration_s": 1800},
    "auth": {"api_keys": [KEY]},
}


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Two tiers: tiny.en twice, and base."""
    cluster = Cluster(SETTINGS)
    try:
        # `murmur up` has returned, so that whoever comes first is served.
        assert httpx2.get(f"{cluster.url}/readyz").status_code == 200
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def client(cluster: Cluster) -> Iterator[openai.OpenAI]:
    """OpenAI's own client. It does not retry, so that every error shows."""
    with openai.OpenAI(base_url=f"{cluster.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture(scope="session")
def long_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Speech of several chunks, with pauses: the committed clips, three times."""
    return write_speech(tmp_path_factory.mktemp("long") / "long.wav", LONG_S)


def write_speech(path: Path, duration_s: float) -> Path:
    """The committed clips over and over, with pauses of a second and one of three at the end."""
    clips = [read_pcm(clip) for clip in sorted(DATA.glob("librivox-*.wav"))]
    pause = np.zeros(16_000, np.int16)
    once = np.concatenate([*(part for clip in clips for part in (clip, pause)), pause, pause])
    times = -(-round(duration_s * 16_000) // len(once))
    soundfile.write(path, np.tile(once, times)[: round(duration_s * 16_000)], 16_000)
    return path

"""Replicas and ingresses that die, chunks that kill, callers that leave, and too many of them."""

import json
import os
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import soundfile

from tests.conftest import read_pcm
from tests.e2e.conftest import CLIP, write_speech
from tests.e2e.faulty import POISON, SLOW
from tests.support.cluster import Cluster

pytestmark = pytest.mark.chaos
N_KILLS = int(os.environ.get("MURMUR_TEST_KILLS", "2"))
DEADLINE_S = 25.0
PATH = "/v1/audio/transcriptions"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    tier = {"name": "tiny.en", "model": "demo:tiny.en", "min_replicas": 2, "max_replicas": 2}
    limits = {"max_requests": 4, "max_queued_audio_s": 700, "deadline_s": DEADLINE_S}
    cluster = Cluster({"tiers": [tier], "limits": limits}, "tests.e2e.faulty:build")
    yield cluster
    cluster.stop()


@pytest.fixture(scope="module")
def ten_minutes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_speech(tmp_path_factory.mktemp("ten") / "ten.wav", 600)


def post(
    cluster: Cluster, content: bytes, request_id: str = "", timeout_s: float = 120, **fields: Any
) -> httpx2.Response:
    return httpx2.post(
        f"{cluster.url}{PATH}",
        headers={"x-request-id": request_id} if request_id else {},
        data={"model": "tiny.en", "response_format": "verbose_json", **fields},
        files={"file": ("a.wav", content)},
        timeout=timeout_s,
    )


def marked(path: Path, tmp_path: Path, sample: int, at_s: float) -> bytes:
    """A file with one sample changed, in the middle of speech."""
    pcm = read_pcm(path).copy()
    assert POISON > pcm.max() and SLOW < pcm.min()
    near = slice(round(at_s * 16_000), round((at_s + 5) * 16_000))
    pcm[near.start + int(np.argmax(np.abs(pcm[near].astype(np.int32))))] = sample
    soundfile.write(tmp_path / "marked.wav", pcm, 16_000)
    return (tmp_path / "marked.wav").read_bytes()


def said(answer: httpx2.Response) -> dict[str, Any]:
    """All but what it took."""
    body: dict[str, Any] = answer.json()
    assert body.pop("murmur")["models"][0]["device_s"] > 0
    return body


def error_of(answer: httpx2.Response) -> dict[str, Any]:
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "Traceback" not in answer.text and "/tmp/" not in answer.text
    return error


def test_a_stream_speaks_while_its_only_chunk_is_held_up(cluster: Cluster, tmp_path: Path) -> None:
    with httpx2.stream(
        "POST",
        f"{cluster.url}{PATH}",
        data={"model": "tiny.en", "stream": "true"},
        files={"file": ("a.wav", marked(CLIP, tmp_path, SLOW, 1.0))},
        timeout=DEADLINE_S,
    ) as answer:
        assert answer.status_code == 200
        assert next(answer.iter_lines()) == ": waiting"


def test_a_replica_that_dies_costs_nothing_but_its_chunks(
    cluster: Cluster, ten_minutes: Path
) -> None:
    content = ten_minutes.read_bytes()
    began = time.monotonic()
    whole = post(cluster, content, "undisturbed")
    took_s = time.monotonic() - began
    undisturbed = next(r for r in cluster.records() if r["id"] == "undisturbed")
    assert undisturbed["retried"] == 0 and len(said(whole)["segments"]) > 60
    chance = random.Random(7)
    n_retried = 0
    for kill in range(N_KILLS):
        with ThreadPoolExecutor(1) as threads:
            future = threads.submit(post, cluster, content, f"kill-{kill}")
            time.sleep(chance.uniform(0.15, 0.9) * took_s)
            cluster.kill("tiny_en", chance.randrange(2))
            answer = future.result()
        assert answer.status_code == 200, answer.text
        assert said(answer) == said(whole)
        record = next(r for r in cluster.records() if r["id"] == f"kill-{kill}")
        assert record["chunks"] == undisturbed["chunks"], "each counts once"
        # Chunks are shared evenly, so that one replica has about half of what is under way.
        assert record["retried"] <= 0.75 * record["chunks"]
        n_retried += record["retried"]
        cluster.wait_for("tiny_en", 2)
    assert n_retried > 0, "no chunk was lost: the kills came too late"


def test_a_chunk_that_kills_fails_alone(
    cluster: Cluster, ten_minutes: Path, tmp_path: Path
) -> None:
    innocent = write_speech(tmp_path / "innocent.wav", 150).read_bytes()
    text = post(cluster, innocent).json()["text"]
    poisoned = marked(write_speech(tmp_path / "p.wav", 120), tmp_path, POISON, 60)
    before = {process.pid for process in cluster.processes("tiny_en")}
    with ThreadPoolExecutor(3) as threads:
        guilty = threads.submit(post, cluster, poisoned, "guilty")
        others = [threads.submit(post, cluster, innocent, f"beside-{i}") for i in range(2)]
        error = error_of(guilty.result())
        assert guilty.result().status_code == 500 and error["code"] == "chunk_failed"
        assert guilty.result().headers["x-should-retry"] == "false"
        assert "2 replicas failed at it" in error["message"]
        start_s, end_s = (float(word) for word in error["message"].split() if is_number(word))
        assert start_s <= 65 and end_s >= 60
        for other in others:
            assert other.result().status_code == 200
            assert other.result().json()["text"] == text
    cluster.wait_for("tiny_en", 2)
    after = {process.pid for process in cluster.processes("tiny_en")}
    assert len(after) == 2 and 1 <= len(before - after) <= 2, "no more than two replicas died"
    assert post(cluster, innocent).json()["text"] == text


def is_number(word: str) -> bool:
    return word.replace(".", "", 1).isdigit() and "." in word


def test_an_ingress_that_dies_is_a_clean_error_and_then_replaced(
    cluster: Cluster, ten_minutes: Path
) -> None:
    content = ten_minutes.read_bytes()
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(post, cluster, content)
        time.sleep(2)
        cluster.kill("Ingress")
        try:
            answer = future.result()
        except httpx2.HTTPError:
            pass  # the connection broke
        else:
            assert answer.status_code >= 500
            assert "Traceback" not in answer.text and ".py" not in answer.text, answer.text
    cluster.wait_for("Ingress", 1)
    retried = post(cluster, content)
    assert retried.status_code == 200 and len(retried.json()["segments"]) > 60


def test_a_request_has_a_deadline(cluster: Cluster, tmp_path: Path) -> None:
    began = time.monotonic()
    answer = post(cluster, marked(CLIP, tmp_path, SLOW, 1))
    assert answer.status_code == 504 and error_of(answer)["code"] == "deadline_exceeded"
    assert time.monotonic() - began >= DEADLINE_S


def test_too_many_requests_are_refused_with_a_time_to_come_back(
    cluster: Cluster, tmp_path: Path
) -> None:
    slow = marked(CLIP, tmp_path, SLOW, 1)
    with ThreadPoolExecutor(4) as threads:
        held = [threads.submit(post, cluster, slow, timeout_s=6) for _ in range(4)]
        time.sleep(2)
        answer = post(cluster, CLIP.read_bytes())
        assert answer.status_code == 429 and error_of(answer)["code"] == "overloaded"
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert answer.headers["x-request-id"]
        assert httpx2.get(f"{cluster.url}/healthz").status_code == 200
    for future in held:
        assert isinstance(future.exception(), httpx2.ReadTimeout)
    # They left, so there is room again.
    deadline = time.monotonic() + 10
    while post(cluster, CLIP.read_bytes()).status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_too_much_audio_is_refused_as_soon_as_its_length_is_known(
    cluster: Cluster, ten_minutes: Path
) -> None:
    with ThreadPoolExecutor(2) as threads:
        content = ten_minutes.read_bytes()
        first = threads.submit(post, cluster, content)
        time.sleep(1.0)
        assert post(cluster, CLIP.read_bytes()).status_code == 200, "there is room for seconds"
        second = post(cluster, content)
        assert second.status_code == 429 and "audio" in error_of(second)["message"]
        assert first.result().status_code == 200


def test_a_caller_that_leaves_stops_its_chunks(cluster: Cluster, tmp_path: Path) -> None:
    slow = marked(CLIP, tmp_path, SLOW, 1)
    for stream in ("false", "true"):
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.post(
                f"{cluster.url}{PATH}",
                headers={"x-request-id": f"left-{stream}"},
                data={"model": "tiny.en", "stream": stream},
                files={"file": ("a.wav", slow)},
                timeout=httpx2.Timeout(10, read=3),
            )
    deadline = time.monotonic() + 10
    while True:
        left = {r["id"]: r for r in cluster.records() if r["id"].startswith("left-")}
        if len(left) == 2:
            break
        assert time.monotonic() < deadline, "the requests go on without their callers"
        time.sleep(0.2)
    assert {record["outcome"] for record in left.values()} == {"cancelled"}
    assert all(record["took_s"] < 10 for record in left.values())


def test_a_stream_that_is_left_in_the_middle_is_stopped(cluster: Cluster, tmp_path: Path) -> None:
    slow = marked(write_speech(tmp_path / "s.wav", 120), tmp_path, SLOW, 110)
    with httpx2.stream(
        "POST",
        f"{cluster.url}{PATH}",
        headers={"x-request-id": "left-in-the-middle"},
        data={"model": "tiny.en", "stream": "true"},
        files={"file": ("a.wav", slow)},
        timeout=60,
    ) as answer:
        first = next(line for line in answer.iter_lines() if line.startswith("data:"))
        assert json.loads(first[5:])["type"] == "transcript.text.delta"
    deadline = time.monotonic() + 10
    while not (left := [r for r in cluster.records() if r["id"] == "left-in-the-middle"]):
        assert time.monotonic() < deadline, "the request goes on without its caller"
        time.sleep(0.2)
    assert left[0]["outcome"] == "cancelled"
    assert left[0]["took_s"] < DEADLINE_S - 5

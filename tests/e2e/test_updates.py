"""Updates under load: what is told, what is replaced, what is refused and what is taken back."""

import select
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from engine import resolve_model
from serve.commands.exit_codes import EXIT_FAILED, EXIT_ROLLED_BACK
from tests.e2e.conftest import CLIP, KEY, SETTINGS
from tests.e2e.faulty import UNABLE
from tests.support.cluster import Cluster
from tests.support.load import CLIPS, load, post

DEPLOYMENTS = ("Ingress", "Board", "tiny_en", "base")
TIERS: dict[str, dict[str, Any]] = {
    "tiny.en": {"model": "demo:tiny.en"},
    "base": {"model": "demo:base"},
}


def settings(base: dict[str, Any] | None = None, **sections: Any) -> dict[str, Any]:
    tiers = {**TIERS, "base": {**TIERS["base"], **(base or {})}}
    return {"tiers": [{"name": name, **tier} for name, tier in tiers.items()], **sections}


def with_base(**changed: Any) -> dict[str, Any]:
    """The settings of the common cluster, with others for its second tier."""
    tiny, base = SETTINGS["tiers"]
    return {**SETTINGS, "tiers": [tiny, {**base, **changed}]}


def pids(cluster: Cluster) -> dict[str, set[int]]:
    return {name: {p.pid for p in cluster.processes(name)} for name in DEPLOYMENTS}


def replaced(before: dict[str, set[int]], cluster: Cluster) -> set[str]:
    after = pids(cluster)
    return {name for name in DEPLOYMENTS if before[name] != after[name]}


def wait_until(is_so: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, "too late"
        time.sleep(0.5)


def ask(cluster: Cluster, key: str = KEY, model: str = "base") -> httpx2.Response:
    return httpx2.post(
        f"{cluster.url}/v1/audio/transcriptions",
        headers={"authorization": f"Bearer {key}"},
        data={"model": model},
        files={"file": (CLIP.name, CLIP.read_bytes())},
        timeout=120,
    )


def test_limits_keys_and_aliases_reach_the_running_ingress(cluster: Cluster) -> None:
    before = pids(cluster)
    changed = {
        **SETTINGS,
        "limits": {**SETTINGS["limits"], "max_upload_mb": 0.1},
        "auth": {"api_keys": ["sk-another"]},
        "aliases": {"mine": "base"},
    }
    try:
        done = cluster.up(changed)
        assert done.returncode == 0, done.stderr
        (line,) = (line for line in done.stderr.splitlines() if ": told: " in line)
        assert line.startswith("murmur: Ingress: told: ")
        assert "limits.max_upload_mb 30.0 -> 0.1" in line and "api_keys" in line
        assert "sk-" not in done.stderr
        assert ask(cluster).status_code == 401
        assert ask(cluster, "sk-another").status_code == 413
        headers = {"authorization": "Bearer sk-another"}
        names = httpx2.get(f"{cluster.url}/v1/models", headers=headers).json()["data"]
        assert "mine" in [model["id"] for model in names]
    finally:
        assert cluster.up(SETTINGS).returncode == 0
    assert ask(cluster).status_code == 200
    assert replaced(before, cluster) == set()


def test_what_cannot_work_is_refused_before_anything_stops(
    cluster: Cluster, tmp_path: Path
) -> None:
    before = pids(cluster)
    cut = tmp_path / "cut"
    shutil.copytree(resolve_model("demo:base"), cut)
    weights = cut / "model.bin"
    with weights.open("r+b") as file:
        file.truncate(weights.stat().st_size // 2)
    for model, said in (
        (tmp_path / "bas", "there is no such folder"),
        (cut, "model.bin: not a CTranslate2 model file"),
    ):
        done = cluster.up(with_base(model=str(model), quality=2))
        assert done.returncode == EXIT_FAILED
        (line,) = (line for line in done.stderr.splitlines() if "looking at" not in line)
        assert line.startswith("murmur: tier base: ") and said in line
    assert replaced(before, cluster) == set()
    assert ask(cluster).status_code == 200


def test_a_dry_run_says_what_would_change_and_changes_nothing(cluster: Cluster) -> None:
    before = pids(cluster)
    done = cluster.up(with_base(batch_size=8, quality=5), dry_run=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "base: replaced: batch_size 24 -> 8" in lines
    assert any(line.startswith("Ingress: told: ") for line in lines)
    assert not any(line.startswith("tiny_en") for line in lines)
    assert replaced(before, cluster) == set()


@pytest.fixture(scope="module")
def own() -> Iterator[Cluster]:
    """A cluster whose replicas may be unable to start."""
    cluster = Cluster(settings(), "tests.e2e.faulty:build")
    yield cluster
    cluster.stop()


@pytest.mark.more
def test_settings_that_need_no_engine_keep_all_processes(own: Cluster) -> None:
    before = pids(own)
    done = own.up(
        settings(
            {"quality": 1, "usd_per_hour": 3.0, "languages": ["en"]},
            aliases={"mine": "base"},
            routing={"quality": "best"},
            slo={"queue_wait_s": 3.0},
            autoscaling={"down_delay_s": 1.0},
            log_level="DEBUG",
        )
    )
    assert done.returncode == 0, done.stderr
    assert post(own.url, CLIP, "mine").words
    tiers = httpx2.get(f"{own.url}/v1/cluster").json()["tiers"]
    assert [t["usd_per_hour"] for t in tiers if t["name"] == "base"] == [3.0]
    assert '"levelname": "DEBUG"' in own.logs()
    assert replaced(before, own) == set()
    assert own.up(settings({"max_replicas": 2, "min_replicas": 2})).returncode == 0
    own.wait_for("base", 2)
    assert before["base"] < pids(own)["base"]
    assert own.up(settings()).returncode == 0
    own.wait_for("base", 1)


@pytest.mark.more
def test_a_model_is_tried_in_the_shadow_then_in_the_place_of_another(own: Cluster) -> None:
    """And taken back. No process is replaced for any of it."""
    before = pids(own)

    def counted() -> dict[str, Any]:
        (canary,) = httpx2.get(f"{own.url}/v1/cluster").json()["canaries"]
        return dict(canary)

    def update(**canary: Any) -> None:
        rules = {"canary": {"base": {"to": "tiny.en", "share": 1.0, **canary}} if canary else {}}
        done = own.up(settings(routing=rules))
        assert done.returncode == 0, done.stderr

    def models(**fields: str) -> list[str]:
        with CLIP.open("rb") as file:
            form = {"model": "base", "response_format": "verbose_json", "language": "en", **fields}
            url = f"{own.url}/v1/audio/transcriptions"
            answer = httpx2.post(url, data=form, files={"file": file}, timeout=60).json()
        return [model["model"] for model in answer["murmur"]["models"]]

    update(shadow=True)
    assert models() == ["base"]
    wait_until(lambda: counted()["n_chunks"] == 1)
    found = counted()
    assert (found["of"], found["to"], found["shadow"]) == ("base", "tiny.en", True)
    assert found["n_requests"] == 1 and found["n_failed"] == 0
    assert found["n_words"] > 15 and found["n_changed"] < 5
    update(shadow=False)
    assert models() == ["tiny.en"]
    assert models(language="") == ["base"], "nobody knows that it is English"
    wait_until(lambda: counted()["n_requests"] == 1)
    assert "canary tiny.en for base: 1 of requests" in own.murmur("status").stdout
    update()
    assert models() == ["base"]
    assert httpx2.get(f"{own.url}/v1/cluster").json()["canaries"] == []
    assert replaced(before, own) == set()


@pytest.mark.more
def test_nothing_fails_through_good_and_bad_updates(own: Cluster) -> None:
    """Three callers without a pause: another engine, another limit, a model that is not there, and
    a replica that does not start, which is taken back."""
    before = pids(own)
    with (
        load(own.url, "tiny.en", 1) as tiny,
        load(own.url, "base", 1) as base,
        load(own.url, "auto", 1) as auto,
    ):
        done = own.up(settings({"batch_size": 8}))
        assert done.returncode == 0, done.stderr
        assert replaced(before, own) == {"base"}
        good = pids(own)
        limits = {"max_requests": 200}
        assert own.up(settings({"batch_size": 8}, limits=limits)).returncode == 0
        assert own.up(settings({"model": "./missing", "quality": 2})).returncode == EXIT_FAILED
        done = own.up(settings({"batch_size": UNABLE}))
        assert done.returncode == EXIT_ROLLED_BACK, done.stderr
        assert "this replica does not start" in done.stderr
        assert "the settings that worked last are back" in done.stderr.splitlines()[-1]
        assert replaced(good, own) == set()
    for requests in (tiny, base, auto):
        assert requests.outcomes and requests.failed == []
    assert tiny.wrong == base.wrong == []
    assert len({outcome.clip for outcome in base.outcomes}) == len(CLIPS)


@pytest.mark.more
def test_a_failure_can_be_kept_and_the_last_good_settings_come_back_later(
    own: Cluster,
) -> None:
    assert own.up(settings()).returncode == 0
    done = own.up(settings({"batch_size": UNABLE}), rollback=False)
    assert done.returncode == EXIT_FAILED and "does not start" in done.stderr
    assert own.murmur("status").returncode == 1
    done = own.up(settings({"batch_size": UNABLE, "max_length": 228}))
    assert done.returncode == EXIT_ROLLED_BACK, done.stderr
    assert own.murmur("status").returncode == 0
    assert post(own.url, CLIP, "base").words


@pytest.mark.more
def test_readiness_is_told_at_once_and_sees_a_dead_engine(own: Cluster) -> None:
    """Whoever asks: here after a pause of half a minute in which nobody did."""
    assert own.up(settings()).returncode == 0
    time.sleep(30)
    began = time.monotonic()
    answer = httpx2.get(f"{own.url}/readyz")
    assert answer.json()["tiers"] == {"tiny.en": True, "base": True}
    assert time.monotonic() - began < 2
    own.kill("base")
    killed = time.monotonic()
    while httpx2.get(f"{own.url}/readyz").json()["tiers"]["base"]:
        assert time.monotonic() - killed < 15
        time.sleep(0.2)
    own.wait_for("base", 1)
    deadline = time.monotonic() + 30
    while not httpx2.get(f"{own.url}/readyz").json()["tiers"]["base"]:
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.more
def test_uploads_that_trickle_hold_nobody_up(own: Cluster) -> None:
    """They are not requests yet, and the oldest makes room where there are too many."""
    limits = {"max_requests": 2, "max_uploads": 5, "max_uploads_per_caller": 5}
    assert own.up(settings(limits=limits)).returncode == 0
    head = (
        "POST /v1/audio/transcriptions HTTP/1.1\r\nhost: here\r\ncontent-length: 100000\r\n"
        "content-type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
    )

    def begin(stack: ExitStack, n: int) -> list[socket.socket]:
        slow = []
        for _ in range(n):
            slow.append(stack.enter_context(socket.create_connection(("127.0.0.1", own.port))))
            slow[-1].sendall(head.encode())
        time.sleep(0.5)
        return slow

    with ExitStack() as stack:
        begin(stack, 4)
        assert post(own.url, CLIP, "base").words, "more than there may be requests"
    time.sleep(1)
    with ExitStack() as stack:
        slow = begin(stack, 5)
        assert post(own.url, CLIP, "base").error.startswith("429"), "none is old enough"
        time.sleep(3)  # now it is known that they are slow
        assert post(own.url, CLIP, "base").words
        # Which of them is the oldest depends on the proxy.
        (ended, *_), _, _ = select.select(slow, [], [], 10)
        assert ended.recv(100).startswith(b"HTTP/1.1 408")
    assert own.up(settings()).returncode == 0

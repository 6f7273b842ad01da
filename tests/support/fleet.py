"""Requests to a cluster of several tiers, and the state of its tiers."""

import time
from pathlib import Path
from typing import Any

import httpx2

from tests.support.cluster import Cluster


def ask(fleet: Cluster, audio: Path, **fields: str) -> dict[str, Any]:
    """Transcribe a file; returns the verbose answer."""
    with audio.open("rb") as file:
        answer = httpx2.post(
            f"{fleet.url}/v1/audio/transcriptions",
            files={"file": file},
            data={"response_format": "verbose_json", **fields},
            timeout=180,
        )
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def models(body: dict[str, Any]) -> set[str]:
    """The models that produced an answer's text."""
    return set(body["murmur"]["segment_models"])


def cluster_state(fleet: Cluster) -> dict[str, Any]:
    state: dict[str, Any] = httpx2.get(f"{fleet.url}/v1/cluster", timeout=30).json()
    return state


def tier_state(fleet: Cluster, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(t for t in cluster_state(fleet)["tiers"] if t["name"] == name)
    return found


def wait_for_replicas(fleet: Cluster, name: str, n: int, timeout_s: float = 90.0) -> None:
    """Wait until exactly `n` of a tier's replicas answer."""
    deadline = time.monotonic() + timeout_s
    while tier_state(fleet, name)["replicas"] != n:
        assert time.monotonic() < deadline, tier_state(fleet, name)
        time.sleep(0.5)

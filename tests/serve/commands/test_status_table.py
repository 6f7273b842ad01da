"""`murmur status` as a person sees it."""

from typing import Any

from serve.commands.status_table import status_table
from serve.commands.tables import plain

APPLICATION: dict[str, Any] = {
    "status": "RUNNING",
    "message": "",
    "deployments": {
        "tiny_en": {"status": "UPSCALING", "replicas": {"running": 1}, "message": ""},
        "large": {"status": "HEALTHY", "replicas": {}, "message": ""},
    },
}
TIER: dict[str, Any] = {
    "name": "tiny.en",
    "adapters": ["names", "accent"],
    "accelerator": "T4",
    "replicas": 1,
    "target_replicas": 3,
    "denied": False,
    "min_replicas": 1,
    "max_replicas": 8,
    "slots": 24,
    "slots_in_use": 20,
    "queued_audio_s": 312.4,
    "wait_s": 2.16,
    "rtfx": 400.6,
    "rtfx_measured": True,
    "usd_per_hour": 0.5,
    "usd_per_audio_hour": 0.00125,
    "reason": "600.0 s/s of 400.0 a replica, 312 s waiting: 3 needed",
}
CLUSTER: dict[str, Any] = {
    "tiers": [
        TIER,
        {
            **TIER,
            "name": "large",
            "adapters": [],
            "accelerator": "A100",
            "replicas": 0,
            "denied": True,
            "wait_s": None,
            "rtfx_measured": False,
            "reason": "",
        },
    ],
    "usd_per_hour": 0.5,
    "canaries": [],
    "autoscaler_faults": 0,
    "decisions": [
        {
            "at": f"2026-01-01T00:00:0{second}+00:00",
            "tier": "tiny.en",
            "before": second,
            "replicas": second + 1,
            "reason": "work",
        }
        for second in range(7)
    ],
}


def test_a_row_for_each_tier_and_why() -> None:
    text = plain(status_table("10.0.0.1:6379", APPLICATION, CLUSTER))
    assert text.splitlines() == [
        "murmur at 10.0.0.1:6379: RUNNING",
        "",
        "tier     on    status           replicas  slots  queued   wait  RTFx  $/h  $/audio h",
        "tiny.en  T4    upscaling      1/3 of 1-8  20/24   312 s  2.2 s   401  0.5    0.00125",
        "large    A100  cannot be had  0/3 of 1-8  20/24   312 s      -  ~401  0.5   ~0.00125",
        "",
        "tiny.en: 600.0 s/s of 400.0 a replica, 312 s waiting: 3 needed",
        "tiny.en also serves names, accent",
        "0.5 $/h in all; ~ planned, not measured yet",
        "",
        *(
            f"2026-01-01T00:00:0{second}+00:00 tiny.en: {second} -> {second + 1} replicas: work"
            for second in range(5)
        ),
    ]


def test_a_tier_that_has_what_it_wants_can_be_had() -> None:
    """It may have asked for more before, in vain."""
    satisfied = {**TIER, "denied": True, "target_replicas": 1}
    text = plain(status_table("a", APPLICATION, {**CLUSTER, "tiers": [satisfied]}))
    assert "cannot be had" not in text


def test_canaries_are_told() -> None:
    counts = {"n_requests": 31, "n_chunks": 40, "n_words": 1200, "n_changed": 30, "n_failed": 2}
    canary = {"of": "base", "to": "mine", "share": 0.05, "shadow": True, "n_skipped": 0, **counts}
    others = [{**canary, "shadow": False}, {**canary, "n_words": 0, "n_failed": 0}]
    text = plain(status_table("a", APPLICATION, {**CLUSTER, "canaries": [canary, *others]}))
    lines = [line for line in text.splitlines() if "base" in line]
    shadow = "shadow mine for base: 0.05 of requests, 31 so far; "
    assert lines == [
        f"{shadow}2.5% of 1,200 words differ (40 chunks, 2 failed)",
        "canary mine for base: 0.05 of requests, 31 so far",
        f"{shadow}no words (40 chunks)",
    ]


def test_faults_are_told() -> None:
    failing = {**CLUSTER, "autoscaler_faults": 3, "decisions": []}
    assert "the autoscaler failed 3 times" in plain(status_table("a", APPLICATION, failing))
    deployments = {"large": {"status": "UNHEALTHY", "replicas": {}, "message": "no GPU"}}
    sick = {"status": "UNHEALTHY", "message": "", "deployments": deployments}
    assert plain(status_table("a", sick, None)).splitlines() == [
        "murmur at a: UNHEALTHY",
        "large: no GPU",
        "large: unhealthy",
    ]

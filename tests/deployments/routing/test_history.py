"""The last hour in columns: what is counted when, and that it does not grow."""

import json
from dataclasses import replace

import pytest

from deployments.fleet import TierState
from deployments.replicas.placement import ACCELERATOR_LABEL, MARKET_LABEL, NodeResources
from deployments.routing.history import PERIOD_S, SPAN_S, History
from deployments.routing.nodes import by_kind
from tests.deployments.routing.test_router import BASE, TINY

NAMES = (TINY.name, BASE.name)


def state(ready: int = 1, queued_s: float = 0.0) -> TierState:
    return TierState(BASE, rtfx=200.0, queued_s=queued_s, ready=ready)


def sample(history: History, at: float, tier: TierState | None = None) -> None:
    tiny = TierState(TINY, rtfx=400.0, ready=1)
    history.sample(at, (tiny, tier or state()), {"base": 3}, {"base": 2}, 20.0)


def test_what_was_done_belongs_to_the_next_sample() -> None:
    history = History()
    sample(history, 100.0)
    history.hear({"base": 10.0}, {"ok": 1})
    history.hear({"base": 5.0, "tiny.en": 1.0}, {"ok": 1, "not_audio": 1})
    sample(history, 105.0, state(ready=2, queued_s=7.0))
    told = history.since(0.0)
    assert told["at"] == [100.0, 105.0]
    base = told["tiers"]["base"]
    assert base["done_s"] == [0.0, 15.0] and told["tiers"]["tiny.en"]["done_s"] == [0.0, 1.0]
    assert base["replicas"] == [1, 2] and base["target"] == [2, 2]
    assert base["slots_in_use"] == [3, 3] and base["slots"] == [BASE.slots, 2 * BASE.slots]
    assert base["queued_s"] == [0.0, 7.0]
    assert base["usd"] == [0.0, pytest.approx(5 * 2 * BASE.usd_per_hour / 3600, abs=1e-9)]
    assert told["outcomes"] == {"ok": 2, "not_audio": 1} and told["done_s"] == 16.0
    assert json.loads(json.dumps(told)) == told


def test_what_is_known_is_not_told_again_but_sums_are_of_the_hour() -> None:
    history = History()
    for at in (100.0, 105.0, 110.0):
        history.hear({"base": 1.0}, {"ok": 1})
        sample(history, at)
    told = history.since(105.0)
    assert told["at"] == [110.0] and told["done_s"] == 3.0 and told["outcomes"] == {"ok": 3}
    assert history.since(110.0)["tiers"]["base"]["rtfx"] == []


def test_an_hour_is_kept_and_no_more() -> None:
    history = History()
    for second in range(round(SPAN_S) + 600):
        if history.is_due(float(second)):
            history.hear({}, {"ok": 1})
            sample(history, float(second))
    times = history.since(-1.0)["at"]
    assert len(times) == SPAN_S / PERIOD_S
    assert times[-1] - times[0] == SPAN_S - PERIOD_S
    assert history.since(0.0)["outcomes"] == {"ok": len(times)}


def test_a_wait_without_end_is_none() -> None:
    history = History()
    sample(history, 0.0, replace(state(ready=0), denied=True))
    assert history.since(-1.0)["tiers"]["base"]["wait_s"] == [None]


def test_nodes_that_are_alike_are_one_group() -> None:
    spot = {ACCELERATOR_LABEL: "L4", MARKET_LABEL: "spot"}
    nodes = [
        NodeResources("a", {"CPU": 4.0, "GPU": 1.0}, spot),
        NodeResources("b", {"CPU": 8.0, "GPU": 2.0}, spot),
        NodeResources("c", {"CPU": 2.0}, {}),
        NodeResources("d", {"GPU": 1.0}, {}),
    ]
    assert by_kind(nodes) == [
        {"class": "L4", "market": "spot", "nodes": 2, "cpus": 12, "gpus": 3},
        {"class": "cpu", "market": "", "nodes": 1, "cpus": 2, "gpus": 0},
        {"class": "gpu", "market": "", "nodes": 1, "cpus": 0, "gpus": 1},
    ]

"""The view of the cluster, while it has work."""

import re
from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import Route, expect

from tests.e2e.conftest import KEY
from tests.page.actions import HEADERS, Upload, add
from tests.page.conftest import CLIP, Window
from tests.support.cluster import Cluster

pytestmark = pytest.mark.page


def test_it_shows_what_goes_on_and_stops_it(
    window: Window, cluster: Cluster, ten_minutes: Path
) -> None:
    page = window("/#cluster")
    tiers = page.locator("section", has=page.get_by_role("heading", name="Tiers", exact=True))
    expect(tiers.get_by_role("row", name=re.compile("tiny.en cpu 1 of 1"))).to_be_visible()
    expect(page.get_by_text("None.", exact=True)).to_be_visible()
    upload = Upload(cluster, ten_minutes, "base", "batch")
    other = Upload(cluster, CLIP, "tiny.en", "interactive")
    row = page.get_by_role("row", name=re.compile("base transcribe batch"))
    expect(row).to_contain_text("of 10:00", timeout=60_000)
    busy = tiers.get_by_role("row", name=re.compile(r"base cpu .* [1-9]\d* of 24"))
    expect(busy).to_be_visible(timeout=30_000)
    expect(page.locator(".plot canvas")).to_have_count(6)
    page.on("dialog", lambda dialog: dialog.accept())
    row.get_by_role("button", name="Stop").click()
    expect(row).to_be_hidden(timeout=30_000)
    upload.join(60)
    other.join(60)
    assert other.answer is not None and other.answer.status_code == 200
    assert upload.answer is not None
    assert (upload.answer.status_code, upload.answer.json()["error"]["code"]) == (410, "stopped")
    ended = page.locator("section", has=page.get_by_role("heading", name=re.compile("that ended")))
    expect(ended.get_by_role("row", name="stopped by hand 1")).to_be_visible(timeout=30_000)
    nodes = page.locator("section", has=page.get_by_role("heading", name="Nodes"))
    expect(nodes.get_by_role("row", name=re.compile("cpu – 1"))).to_be_visible(timeout=30_000)


def test_the_hour_is_told_in_columns(cluster: Cluster, window: Window) -> None:
    page = window()
    add(page, CLIP)
    page.wait_for_timeout(7000)  # a report, then a sample
    answer = httpx2.get(f"{cluster.url}/v1/cluster/history", headers=HEADERS).json()
    assert answer["done_s"] >= 7 and answer["usd"] > 0 and answer["outcomes"]["ok"] >= 1
    base = answer["tiers"]["base"]
    assert {len(column) for column in base.values()} == {len(answer["at"])}
    assert base["replicas"][-1] == 1 and sum(base["done_s"]) >= 7
    later = httpx2.get(
        f"{cluster.url}/v1/cluster/history?since={answer['at'][-2]}", headers=HEADERS
    ).json()
    assert answer["at"][-1] in later["at"] and len(later["at"]) < len(answer["at"])
    unknown = httpx2.delete(f"{cluster.url}/v1/cluster/requests/nobody", headers=HEADERS)
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "not_found")


def test_models_that_are_tried_and_adapters_are_shown(window: Window) -> None:
    page = window()
    tried = page.locator("section", has=page.get_by_role("heading", name="Models that are tried"))
    page.get_by_role("tab", name="Cluster").click()
    expect(page.get_by_role("row", name=re.compile("tiny.en cpu"))).to_be_visible()
    expect(tried).to_be_hidden()

    def add(route: Route) -> None:
        state = route.fetch().json()
        counts = {"n_requests": 31, "n_chunks": 40, "n_words": 1200, "n_changed": 30}
        more = {"shadow": True, "share": 0.05, "n_failed": 2, "n_skipped": 0}
        state["canaries"] = [{"of": "base", "to": "mine", **counts, **more}]
        state["tiers"][0]["adapters"] = ["names", "accent"]
        route.fulfill(json=state)

    page.route("**/v1/cluster", add)
    row = "mine base in its shadow, 5 % of requests 31 2.5 % of 1,200 2 of 42 pieces"
    expect(tried.get_by_role("row", name=row)).to_be_visible()
    expect(page.get_by_role("cell", name="tiny.en with names, accent")).to_be_visible()


def test_without_a_key_nothing_is_told(cluster: Cluster, window: Window) -> None:
    for method, path in (("GET", "/history"), ("GET", ""), ("DELETE", "/requests/a")):
        answer = httpx2.request(method, f"{cluster.url}/v1/cluster{path}")
        assert answer.status_code == 401
    page = window("/#cluster", key=False)
    expect(page.get_by_role("dialog")).to_be_visible()
    page.get_by_role("dialog").get_by_label("API key").fill(KEY)
    page.get_by_role("button", name="Use this key").click()
    expect(page.get_by_role("row", name=re.compile("tiny.en cpu"))).to_be_visible()


def test_a_body_that_is_the_audio(cluster: Cluster) -> None:
    """As `curl --data-binary` sends it."""
    form = {"content-type": "application/x-www-form-urlencoded"}
    answer = httpx2.post(
        f"{cluster.url}/transcribe", content=CLIP.read_bytes(), headers=HEADERS | form, timeout=60
    )
    assert list(answer.json()) == ["text"] and "Dashwood" in answer.json()["text"]

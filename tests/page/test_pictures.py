"""The pictures of the documents, made if MURMUR_PICTURES is set; else they go to a folder."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.page.actions import Upload, speak, transcribe_sample
from tests.page.conftest import PHONE, Window
from tests.support.cluster import Cluster

pytestmark = [pytest.mark.page, pytest.mark.more]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pictures_of_the_transcript(window: Window, scheme: str, pictures: Path) -> None:
    page = window(color_scheme=scheme, viewport={"width": 1280, "height": 720})
    transcribe_sample(page)
    page.screenshot(path=pictures / f"page-{scheme}.png")


def test_picture_on_a_phone(window: Window, pictures: Path) -> None:
    page = window(viewport=PHONE, is_mobile=True, has_touch=True, device_scale_factor=2)
    transcribe_sample(page)
    page.locator(".job-head").scroll_into_view_if_needed()
    page.screenshot(path=pictures / "page-phone.png")


def test_picture_of_live_speech(window: Window, pictures: Path) -> None:
    page = window("/#live", viewport={"width": 1280, "height": 620})
    speak(page)
    said = page.get_by_role("log")
    expect(said).to_contain_text("them", timeout=60_000)
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#view-live .state")).to_contain_text("Stopped", timeout=30_000)
    speak(page)  # the clip once more
    expect(page.locator("#view-live .state")).to_contain_text("Listening")
    page.locator(".partial .text").filter(has_text="leisure").wait_for(timeout=60_000)
    page.screenshot(path=pictures / "page-live.png")


def test_picture_of_the_cluster(
    window: Window, cluster: Cluster, ten_minutes: Path, pictures: Path
) -> None:
    page = window("/#cluster", viewport={"width": 1280, "height": 1080})
    first = Upload(cluster, ten_minutes, "base", "batch")
    first.join(120)
    uploads = [
        first,
        Upload(cluster, ten_minutes, "tiny.en", "interactive"),
        Upload(cluster, ten_minutes, "base", "batch"),
    ]
    expect(page.get_by_role("row", name=re.compile("base transcribe"))).to_be_visible()
    page.screenshot(path=pictures / "page-cluster.png")
    for upload in uploads:
        upload.join(120)
        assert upload.answer is not None and upload.answer.status_code == 200

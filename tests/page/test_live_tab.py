"""Live speech on the page: a microphone that plays a clip, on a real cluster."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import Page, Playwright, expect

from tests.page.actions import text_of
from tests.page.conftest import CHROMIUM, CLIP, WITH_KEY, Window
from tests.support.cluster import Cluster
from tests.support.live_text import is_right

pytestmark = pytest.mark.page
LATE = re.compile(r"English · text comes \d+\.\d s after the words")


def start(page: Page, model: str = "tiny.en") -> None:
    page.locator("#view-live").get_by_label("Model").select_option(model)
    page.get_by_role("button", name="Start", exact=True).click()


def live(page: Page) -> str:
    """What is final."""
    return " ".join(page.locator(".turns .text").all_inner_texts())


def expect_the_clip(page: Page) -> None:
    """The clip is over, and its text final."""
    expect(page.locator(".turns")).to_contain_text("them", timeout=30_000)
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#view-live .state")).to_contain_text("Stopped", timeout=30_000)
    assert is_right(live(page), n_wrong=3), live(page)


def test_text_comes_while_somebody_speaks(window: Window, tmp_path: Path) -> None:
    page = window("/#live")
    start(page)
    state = page.locator("#view-live .state")
    expect(state).to_contain_text("Listening")
    expect(page.get_by_role("tab", name="Live")).to_have_class("on")
    level = "() => document.querySelector('#view-live meter').value > 0.3"
    page.wait_for_function(level)
    expect(page.locator(".partial .text")).to_contain_text(re.compile(r"\w+ \w+"))
    early = page.locator(".partial .text").inner_text()
    expect(page.locator(".turns")).to_contain_text(early, timeout=30_000)
    expect(state).to_have_text(LATE, timeout=30_000)
    expect_the_clip(page)
    page.locator("#view-live summary", has_text="Download").click()
    for format, part in (("txt", "Dashwood"), ("srt", "-->"), ("json", '"probability"')):
        with page.expect_download() as downloading:
            page.locator(f'#view-live [data-format="{format}"]').click()
        downloading.value.save_as(tmp_path / "text")
        assert part in (tmp_path / "text").read_text(encoding="utf-8")
        page.locator("#view-live summary", has_text="Download").click()
    words = json.loads((tmp_path / "text").read_text(encoding="utf-8"))["words"]
    assert all(0 <= word["start"] <= word["end"] < 20 for word in words)
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Clear").click()
    assert live(page) == ""


def test_a_lost_connection_costs_no_word(window: Window) -> None:
    page = window("/#live")
    start(page)
    expect(page.locator(".partial .text")).to_contain_text(re.compile(r"\w+"), timeout=30_000)
    page.context.set_offline(True)
    expect(page.locator("#view-live .state")).to_contain_text("connection was lost")
    page.wait_for_timeout(2000)
    page.context.set_offline(False)
    expect(page.locator("#view-live .state")).to_contain_text("Listening")
    expect_the_clip(page)


def test_the_last_words_come_after_stop(window: Window) -> None:
    page = window("/#live")
    start(page)
    page.wait_for_timeout(3000)
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#view-live .state")).to_contain_text("Stopped", timeout=30_000)
    assert "Dashwood" in live(page)
    page.get_by_role("button", name="Start", exact=True).click()  # once more, below
    expect(page.locator(".turns .line")).to_have_count(2, timeout=30_000)
    first, second = page.locator(".turns .time").all_inner_texts()
    assert first < second


def test_a_key_that_is_not_accepted(window: Window) -> None:
    page = window("/#live")
    expect(page.locator("#view-live").get_by_label("Model")).to_be_visible()
    page.evaluate("sessionStorage.setItem('murmur-api-key', 'sk-wrong')")
    start(page)
    expect(page.get_by_role("dialog")).to_contain_text("not accepted")
    expect(page.locator("#view-live .recording")).to_be_hidden()


def test_a_language_that_the_model_does_not_have(window: Window) -> None:
    page = window("/#live")
    page.locator("#view-live").get_by_label("Language").fill("German")
    start(page)
    expect(page.locator("#view-live").get_by_role("alert").first).to_contain_text("language")
    expect(page.get_by_role("button", name="Start", exact=True)).to_be_visible()


@pytest.fixture
def limited(cluster: Cluster) -> Iterator[None]:
    """Undoes what a test changes of the settings."""
    before = yaml.safe_load(cluster.settings.read_text(encoding="utf-8"))
    yield
    assert cluster.up(before).returncode == 0


def test_a_server_that_is_full_and_one_without(
    window: Window, cluster: Cluster, limited: None
) -> None:
    settings = yaml.safe_load(cluster.settings.read_text(encoding="utf-8"))
    assert cluster.up({**settings, "limits": {"max_live_sessions": 1}}).returncode == 0
    first, second = window("/#live"), window("/#live")
    start(first)
    expect(first.locator("#view-live .state")).to_contain_text("Listening")
    start(second)
    fault = second.locator("#view-live").get_by_role("alert").first
    expect(fault).to_contain_text("1 live sessions are open")
    expect(fault).to_contain_text("as much work as it takes")
    first.get_by_role("button", name="Stop").click()
    assert cluster.up({**settings, "limits": {"max_live_sessions": 0}}).returncode == 0
    third = window("/#live")
    expect(third.get_by_role("tab", name="Cluster")).to_be_visible()
    expect(third.get_by_role("tab", name="Live")).to_be_hidden()
    expect(third.get_by_role("button", name="Choose files")).to_be_visible()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "No microphone was found"),
        (["--use-fake-device-for-media-stream"], "does not let this page use the microphone"),
    ],
)
def test_without_a_microphone(
    playwright: Playwright, cluster: Cluster, flags: list[str], words: str
) -> None:
    flags = [*flags, "--no-sandbox", "--deny-permission-prompts"]
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
    try:
        page = browser.new_page()
        page.add_init_script(WITH_KEY)
        page.goto(f"{cluster.url}/#live")
        start(page)
        expect(page.locator("#view-live").get_by_role("alert").first).to_contain_text(words)
    finally:
        browser.close()


def test_what_is_spoken_does_not_disturb_files(window: Window) -> None:
    """A file is transcribed while the microphone is heard."""
    page = window("/#live")
    start(page)
    page.get_by_role("tab", name="Transcribe").click()
    page.get_by_label("Audio or video files").set_input_files(str(CLIP))
    expect(page.locator(".jobs .job-state")).to_have_text(re.compile("Done"), timeout=60_000)
    assert "Dashwood" in text_of(page)
    page.get_by_role("tab", name="Live").click()
    expect_the_clip(page)

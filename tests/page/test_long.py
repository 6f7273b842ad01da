"""Six hours of text: scrolling, search and playing stay smooth."""

import re
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.page.long_server import LENGTH_S, N_SEGMENTS, long_server

pytestmark = [pytest.mark.page, pytest.mark.more]
LONGEST_MS = 100
_WATCH = """
window.tasks = [];
new PerformanceObserver((list) => {
    for (const {duration} of list.getEntries()) window.tasks.push([window.phase, duration]);
}).observe({type: "longtask"});
"""


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with long_server() as url:
        context = browser.new_context(viewport={"width": 1280, "height": 860})
        page = context.new_page()
        page.add_init_script(_WATCH)
        page.goto(url)
        expect(page.get_by_label("Model")).to_be_visible()
        yield page
        context.close()


def test_no_step_takes_long(page: Page, tmp_path: Path) -> None:
    """What is measured is how long the page's thread is busy at once (Long Tasks API), the answer
    to a file of six hours included."""
    phase(page, "stream")
    page.get_by_label("Audio or video files").set_input_files(silence(tmp_path / "six hours.wav"))
    expect(page.locator(".state")).to_contain_text("6 h in", timeout=60_000)
    expect(page.locator(".line")).to_have_count(N_SEGMENTS, timeout=30_000)
    expect(page.locator(".wave.drawn")).to_be_visible(timeout=30_000)
    phase(page, "scroll")
    page.mouse.move(800, 600)
    for _ in range(60):
        page.mouse.wheel(0, 1500)
        page.wait_for_timeout(25)
    phase(page, "search")
    page.get_by_label("Search the transcript").focus()
    page.keyboard.type("might have", delay=60)
    expect(page.locator(".count")).to_have_text(re.compile(r"^\d{3}$"), timeout=30_000)
    for _ in range(10):
        page.keyboard.press("Enter")
        page.wait_for_timeout(50)
    phase(page, "edit")
    page.locator(".line .text").nth(2500).dblclick()
    page.keyboard.type("and ")
    page.keyboard.press("Enter")
    phase(page, "play")
    page.locator(".line .text").nth(3000).click()
    page.wait_for_timeout(2000)
    tasks: list[tuple[str, float]] = page.evaluate("() => window.tasks")
    longest: dict[str, float] = {}
    for name, duration_ms in tasks:
        longest[name] = max(duration_ms, longest.get(name, 0.0))
    print("longest tasks in ms, none below 50 counts:", longest)
    assert not [each for each in tasks if each[1] >= LONGEST_MS], longest


def phase(page: Page, name: str) -> None:
    page.evaluate("(name) => { window.phase = name; }", name)


def silence(path: Path) -> Path:
    """A file of six hours that takes no room on the disk."""
    n = round(LENGTH_S * 16_000) * 2
    form = struct.pack("<HHIIHH", 1, 1, 16_000, 32_000, 2, 16)
    head = struct.pack("<4sI8sI16s4sI", b"RIFF", 36 + n, b"WAVEfmt ", 16, form, b"data", n)
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + n)
    return path

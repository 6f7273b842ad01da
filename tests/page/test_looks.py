"""Whether everybody can use the page, wide and narrow, light and dark."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.conftest import DATA
from tests.page.actions import add, choose_model, speak, transcribe_sample
from tests.page.conftest import PHONE, Window

pytestmark = pytest.mark.page
SERIOUS = ("serious", "critical")


def check_usable(page: Page) -> None:
    """axe-core finds nothing serious. It adds styles of its own, which the page's policy forbids:
    open the window with `bypass_csp`."""
    found = Axe().run(page).response["violations"]
    serious = [
        (rule["id"], rule["nodes"][0]["html"]) for rule in found if rule["impact"] in SERIOUS
    ]
    assert not serious


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", ["wide", "phone"])
def test_everybody_can_use_it(window: Window, size: str, scheme: str) -> None:
    phone = {"viewport": PHONE, "is_mobile": True, "has_touch": True}
    shape = phone if size == "phone" else {}
    page = window(color_scheme=scheme, bypass_csp=True, **shape)
    expect(page.get_by_label("Model")).to_be_visible()
    check_usable(page)
    page.get_by_text("More options").click()
    check_usable(page)
    page.get_by_text("More options").click()
    transcribe_sample(page)
    check_usable(page)
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    page.locator("summary", has_text="Download").click()
    check_usable(page)
    page.get_by_role("tab", name="Live").click()
    speak(page)
    check_usable(page)
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("tab", name="Cluster").click()
    expect(page.locator(".plot canvas")).to_have_count(6, timeout=30_000)
    check_usable(page)
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")


def test_keys_alone_do(window: Window) -> None:
    """From the top: to the tab, to its button, and the text is there."""
    page = window()
    expect(page.get_by_label("Model").first).to_be_visible()
    page.get_by_role("tab", name="Transcribe").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Live")).to_be_focused()
    start = page.get_by_role("button", name="Start", exact=True)
    expect(start).to_be_visible()
    for _ in range(6):
        page.keyboard.press("Tab")
        if start.evaluate("(button) => button === document.activeElement"):
            break
    page.keyboard.press("Enter")
    expect(page.locator("#said")).to_have_text("Listening", timeout=30_000)
    expect(page.get_by_role("log")).to_contain_text("Dashwood", timeout=60_000)
    page.keyboard.press("Enter")
    expect(page.locator("#said")).to_have_text("Stopped", timeout=30_000)


def test_what_fails_and_asks_is_usable(window: Window) -> None:
    page = window(key=False, bypass_csp=True)
    expect(page.get_by_role("dialog")).to_be_visible()
    check_usable(page)
    page = window(bypass_csp=True)
    choose_model(page, "tiny.en")
    page.get_by_label("Language", exact=True).fill("German")
    add(page, DATA / "librivox-0870.wav", wait=False)
    expect(page.get_by_role("alert").filter(has_text="Unsupported")).to_be_visible()
    check_usable(page)


def test_the_first_view_comes_at_once(window: Window) -> None:
    page = window()
    expect(page.get_by_label("Model")).to_be_visible()
    entry = "() => performance.getEntriesByName('first-contentful-paint')[0].startTime"
    assert page.evaluate(entry) < 1000
    sent = "() => performance.getEntriesByType('resource').reduce((n, r) => n + r.transferSize, 0)"
    assert page.evaluate(sent) < 300_000

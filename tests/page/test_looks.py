"""How the page looks and whether everybody can use it. Makes the pictures of the documents."""

from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.conftest import DATA
from tests.page.actions import DONE, add, choose_model, click_word
from tests.page.conftest import Window

pytestmark = pytest.mark.page
PHONE = {"width": 390, "height": 844}
SERIOUS = ("serious", "critical")


def check_usable(page: Page) -> None:
    """axe-core finds nothing serious. It adds styles of its own, which the page's policy forbids:
    open the window with `bypass_csp`."""
    found = Axe().run(page).response["violations"]
    serious = [
        (rule["id"], rule["nodes"][0]["html"]) for rule in found if rule["impact"] in SERIOUS
    ]
    assert not serious


def transcribed(page: Page) -> None:
    """The sample, with a word that is said and one that is found."""
    choose_model(page, "tiny.en")
    page.get_by_role("button", name="Try a sample").click()
    expect(page.locator(".state")).to_have_text(DONE, timeout=60_000)
    expect(page.locator(".wave.drawn")).to_be_visible()
    page.get_by_label("Search the transcript").fill("disposed")
    expect(page.locator(".count")).to_have_text("2")
    click_word(page, page.locator(".line").nth(3), "selfish")
    page.get_by_role("button", name="Pause").click()
    page.mouse.move(0, 0)


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
    transcribed(page)
    check_usable(page)
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    page.locator("summary", has_text="Download").click()
    check_usable(page)
    page.get_by_role("tab", name="Cluster").click()
    expect(page.locator(".plot canvas")).to_have_count(6, timeout=30_000)
    check_usable(page)
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")


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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pictures_of_the_transcript(window: Window, scheme: str, pictures: Path) -> None:
    page = window(color_scheme=scheme, viewport={"width": 1280, "height": 720})
    transcribed(page)
    page.screenshot(path=pictures / f"page-{scheme}.png")


def test_picture_on_a_phone(window: Window, pictures: Path) -> None:
    page = window(viewport=PHONE, is_mobile=True, has_touch=True, device_scale_factor=2)
    transcribed(page)
    page.locator(".job-head").scroll_into_view_if_needed()
    page.screenshot(path=pictures / "page-phone.png")

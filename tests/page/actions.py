"""What a person does on the page, and what it shows."""

import re
from pathlib import Path

from playwright.sync_api import Locator, Page, expect

DONE = re.compile(r"English .*\$")


def add(page: Page, *files: Path, wait: bool = True) -> None:
    """Choose files; waits until the first one is done."""
    expect(page.get_by_label("Model")).to_be_visible()
    page.get_by_label("Audio or video files").set_input_files([str(file) for file in files])
    if wait:
        expect(page.locator(".state")).to_have_text(DONE, timeout=60_000)


def choose_model(page: Page, name: str) -> None:
    page.get_by_label("Model").select_option(name)


def text_of(page: Page) -> str:
    return " ".join(page.locator(".line .text").all_inner_texts())


def words_of(text: str) -> str:
    return " ".join(re.findall(r"[a-z]+", text.lower()))


def click_word(page: Page, line: Locator, word: str) -> None:
    """Click in the middle of a word of a line."""
    line.locator(".text").evaluate("(text) => text.scrollIntoView({block: 'center'})")
    place = line.locator(".text").evaluate(
        """(text, word) => {
            const range = document.createRange();
            const at = text.textContent.indexOf(word);
            range.setStart(text.firstChild, at);
            range.setEnd(text.firstChild, at + word.length);
            const box = range.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2];
        }""",
        word,
    )
    page.mouse.click(*place)

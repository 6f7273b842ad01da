"""What a person does on the page, and what it shows."""

import re
import threading
from pathlib import Path

import httpx2
from playwright.sync_api import Locator, Page, expect

from tests.e2e.conftest import KEY
from tests.support.cluster import Cluster

HEADERS = {"authorization": f"Bearer {KEY}"}

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


def transcribe_sample(page: Page) -> None:
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


def speak(page: Page) -> None:
    """Live speech in the view Live, until some words are told."""
    page.locator("#view-live").get_by_label("Model").select_option("tiny.en")
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.locator(".partial .text")).to_contain_text(re.compile(r"\w+ \w+"), timeout=60_000)


class Upload(threading.Thread):
    """A file on its way, as any client sends it."""

    def __init__(self, cluster: Cluster, file: Path, model: str, priority: str) -> None:
        super().__init__()
        self._fields = {"model": model, "priority": priority}
        self._url = f"{cluster.url}/v1/audio/transcriptions"
        self._file = file
        self.answer: httpx2.Response | None = None
        self.start()

    def run(self) -> None:
        with self._file.open("rb") as file:
            self.answer = httpx2.post(
                self._url, data=self._fields, files={"file": file}, headers=HEADERS, timeout=300
            )

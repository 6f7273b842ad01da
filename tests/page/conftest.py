"""The page in Debian's Chromium, on a real cluster. Asked for without the browser, the tests fail.

Each test has a window of its own. Whatever it does, the window may neither break the page's policy,
nor ask another host, nor let a script's error pass.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import soundfile
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, sync_playwright

from tests.conftest import DATA, read_pcm
from tests.e2e.conftest import KEY, write_speech
from tests.support.cluster import Cluster

CHROMIUM = "/usr/bin/chromium"
PICTURES = Path(__file__).parents[2] / "docs" / "images"
CLIP = DATA / "librivox-0870.wav"
WIDE = {"width": 1280, "height": 860}
PHONE = {"width": 390, "height": 844}
_FLAGS = (
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
    "--no-sandbox",  # of which root has none
)
WITH_KEY = f"sessionStorage.setItem('murmur-api-key', '{KEY}')"
_WATCH_POLICY = """
addEventListener("securitypolicyviolation", (event) => {
    const {violatedDirective, blockedURI, sourceFile, lineNumber} = event;
    console.error(`policy: ${violatedDirective} ${blockedURI} ${sourceFile}:${lineNumber}`);
});
"""

Window = Callable[..., Page]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """tiny.en and base, with a key."""
    tiers = [
        {"name": "tiny.en", "model": "demo:tiny.en"},
        {"name": "base", "model": "demo:base"},
    ]
    cluster = Cluster({"tiers": tiers, "auth": {"api_keys": [KEY]}})
    try:
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as driver:
        yield driver


@pytest.fixture(scope="session")
def browser(playwright: Playwright, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert os.path.exists(CHROMIUM), "scripts/test-page installs the browser"
    spoken = tmp_path_factory.mktemp("microphone") / "said.wav"
    # The browser plays it from when it is asked for a microphone, whether anybody listens yet.
    silence = np.zeros(3 * 16_000 // 2, np.int16)
    pcm = np.repeat(np.concatenate([silence, read_pcm(CLIP)]), 3)  # the browser wants 48 kHz
    soundfile.write(spoken, pcm, 48_000)
    flags = [*_FLAGS, f"--use-file-for-fake-audio-capture={spoken}%noloop"]
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
    yield browser
    browser.close()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pictures go: to the documents if MURMUR_PICTURES is set."""
    return PICTURES if os.environ.get("MURMUR_PICTURES") else tmp_path_factory.mktemp("pictures")


@pytest.fixture
def window(browser: Browser, cluster: Cluster) -> Iterator[Window]:
    """Opens the page; `window(key=False)` without an API key, other arguments as Playwright's."""
    contexts: list[BrowserContext] = []
    faults: list[str] = []
    hosts: set[str] = set()

    def open_window(path: str = "/", key: bool = True, **options: object) -> Page:
        asked = {"viewport": WIDE, "device_scale_factor": 1, **options}
        context = browser.new_context(**asked)  # type: ignore[arg-type]
        contexts.append(context)
        if key:
            context.add_init_script(WITH_KEY)
        context.add_init_script(_WATCH_POLICY)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda said: _note(faults, said.type, said.text))
        page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
        page.goto(cluster.url + path)
        return page

    yield open_window
    for context in contexts:
        context.close()
    assert not faults
    assert hosts <= {urlsplit(cluster.url).netloc, ""}  # "" is a blob of the page's own


def _note(faults: list[str], kind: str, text: str) -> None:
    # An answer that is no success is a line of the console as well; tests look at what is said.
    if kind == "error" and "Failed to load resource" not in text:
        faults.append(text)


@pytest.fixture(scope="session")
def ten_minutes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_speech(tmp_path_factory.mktemp("long") / "ten minutes.wav", 600)

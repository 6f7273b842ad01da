"""Requests without a pause, and the outcome of each."""

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from tests.conftest import DATA

CLIPS = [path for path in sorted(DATA.glob("librivox-*.wav")) if "0880" not in path.name]
"""The clips that every model transcribes right; in the other, tiny.en mishears "ill-disposed"."""
WORDS: dict[str, str] = json.loads((DATA / "librivox.json").read_text(encoding="utf-8"))
_PATH = "/v1/audio/transcriptions"
_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request: the clip, and its words or what went wrong."""

    clip: str
    began: float
    words: str | None
    error: str

    @property
    def is_wrong(self) -> bool:
        """Whether there is an answer, but with other words than were said."""
        return self.words is not None and self.words != WORDS[self.clip]


class Load:
    """Threads that post the committed clips until told to stop."""

    def __init__(self, url: str, model: str, n_threads: int) -> None:
        self._url = url
        self._model = model
        self._outcomes: list[Outcome] = []
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(n_threads)]

    @property
    def outcomes(self) -> list[Outcome]:
        return list(self._outcomes)

    @property
    def failed(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.words is None]

    @property
    def wrong(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.is_wrong]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _run(self, first: int) -> None:
        n = first
        while not self._stopped.is_set():
            outcome = post(self._url, CLIPS[n % len(CLIPS)], self._model)
            self._outcomes.append(outcome)
            n += 1
            if outcome.words is None:
                time.sleep(0.5)


@contextmanager
def load(url: str, model: str, n_threads: int = 3) -> Iterator[Load]:
    """Send requests for as long as the block runs."""
    running = Load(url, model, n_threads)
    running.start()
    try:
        yield running
    finally:
        running.stop()


def post(url: str, clip: Path, model: str) -> Outcome:
    """Send one request, without retries."""
    began = time.monotonic()
    files = {"file": (clip.name, clip.read_bytes())}
    try:
        answer = httpx2.post(
            f"{url}{_PATH}", data={"model": model}, files=files, timeout=_TIMEOUT_S
        )
    except httpx2.TransportError as error:
        return Outcome(clip.name, began, None, repr(error))
    if answer.status_code != 200:
        return Outcome(clip.name, began, None, f"{answer.status_code}: {answer.text[:300]}")
    return Outcome(clip.name, began, spoken(answer.json()["text"]), "")


def spoken(text: str) -> str:
    """A text in the form of the clips' words: lower case, without punctuation."""
    words = re.sub(r"[^a-z' ]", " ", text.lower().replace("mr.", "mister")).split()
    return " ".join(words)

"""The real routes over an ingress that knows a transcript of six hours: for what pages take."""

import itertools
import json
import random
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from deployments.entrance.admission import Admission, Ticket
from deployments.entrance.ingress import Done
from deployments.entrance.remote import Work
from deployments.messages import Transcript, TranscriptSegment
from deployments.options import TranscribeOptions
from engine import Word
from serve.http.auth import Auth
from serve.http.routes import HttpIngress, build_api
from tests.conftest import DATA

N_SEGMENTS = 5000
LENGTH_S = 6 * 3600.0
_AT_ONCE = 50


def long_segments() -> tuple[TranscriptSegment, ...]:
    """Six hours of the clips' words, one in twelve of them unsure."""
    said = json.loads((DATA / "librivox.json").read_text(encoding="utf-8")).values()
    words = itertools.cycle(" ".join(said).split())
    chance = random.Random(0)
    each_s = LENGTH_S / N_SEGMENTS

    def segment(index: int) -> TranscriptSegment:
        n, start_s = chance.randint(4, 18), index * each_s
        step_s = each_s / n
        timed = tuple(
            Word(
                round(start_s + i * step_s, 2),
                round(start_s + (i + 1) * step_s, 2),
                f" {next(words)}",
                chance.choice((0.3, 0.9, *[0.95] * 10)),
            )
            for i in range(n)
        )
        text = "".join(word.text for word in timed)
        return TranscriptSegment(
            start_s, start_s + each_s, text, (), 0.0, -0.1, 1.0, 0.0, "base", words=timed
        )

    return tuple(segment(index) for index in range(N_SEGMENTS))


class LongIngress(HttpIngress):
    """Gives the long transcript for every file."""

    def __init__(self) -> None:
        self.admission = Admission(9, 9.0)
        self.tiers: Any = {"base": None}
        self.aliases = {"whisper-1": "base"}
        self._auth, self._max_upload_bytes = Auth(()), 10**9
        self._segments = long_segments()

    def account_refusal(self, outcome: str, request_id: str) -> None:
        """There are no metrics without Serve."""

    async def run(
        self,
        source: Any,
        options: TranscribeOptions,
        partial: bool = False,
        request_id: str = "",
        ticket: Ticket | None = None,
    ) -> AsyncGenerator[list[TranscriptSegment] | Done, None]:
        assert ticket is not None
        with ticket, source:
            for first in range(0, N_SEGMENTS, _AT_ONCE):
                yield list(self._segments[first : first + _AT_ONCE])
            text = "".join(segment.text for segment in self._segments)
            yield Done(Transcript(text, "en", LENGTH_S, options.task, self._segments), Work())


@contextmanager
def long_server() -> Iterator[str]:
    """Serve on a free port; gives the address."""
    config = uvicorn.Config(build_api(LongIngress()), port=0, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            thread.join(0.05)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()

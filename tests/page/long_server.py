"""The real routes over an ingress that knows a transcript of six hours: for what pages take."""

import itertools
import json
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from deployments.messages import TranscriptSegment
from engine import Word
from serve.http.routes import build_api
from tests.conftest import DATA
from tests.support.deaf import Deaf

N_SEGMENTS = 5000
LENGTH_S = 6 * 3600.0


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


@contextmanager
def long_server() -> Iterator[str]:
    """Serve on a free port; gives the address."""
    ingress = Deaf(
        long_segments(), duration_s=LENGTH_S, aliases={"whisper-1": "base"}, max_bytes=10**9
    )
    config = uvicorn.Config(build_api(ingress), port=0, log_level="warning")
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

"""Server-sent events: when they begin, and what is sent while there is no text."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np

from tests.field.answers import Answer
from tests.field.audio import DATA, five, say
from tests.field.case import MODEL, CallCase, Case, Seen, UnfitError, World
from tests.field.checks import Heard
from tests.field.clients import Http, field, multipart
from tests.field.media import write

_AT_ONCE_S = 5.0
_COMMENT_S = 12.0
_N_BEFORE = 6
_TIMES = 16
"""Half minutes in each of the files that go before."""
_CLIP = DATA / "librivox-0870.wav"


def _plain(world: World) -> Seen:
    """The deltas, joined, are the text."""
    with world.served().stream(_CLIP.read_bytes(), {"model": MODEL, "stream": "true"}) as answer:
        lines = [line for line in answer.iter_lines() if line.startswith("data:")]
    events = [json.loads(line[5:]) for line in lines if line != "data: [DONE]"]
    text = "".join(e["delta"] for e in events if e["type"] == "transcript.text.delta")
    faults = Heard(say("C").said, times=False).faults(Answer(200, text))
    if events[-1].get("text") != text:
        faults.append("the last event has another text")
    return Seen(text, tuple(faults))


def _no_audio(world: World) -> Seen:
    """An error at the file's beginning is answered with its own HTTP status."""
    words = b"These are words and no sound. " * 200
    answer = world.served().transcribe(words, {"model": MODEL, "stream": "true"})
    faults = () if answer.status == 400 else (f"status {answer.status}",)
    return Seen(answer.short(), faults)


def _waiting(world: World) -> Seen:
    http = world.served()
    fields = {"model": "base", "stream": "true", "priority": "batch"}
    began = time.monotonic()
    seen: dict[str, float] = {}

    def listen() -> None:
        with http.stream(_CLIP.read_bytes(), fields) as answer:
            seen["headers"] = time.monotonic() - began
            for line in answer.iter_lines():
                kind = "comment" if line.startswith(":") else "text" if line else ""
                if kind:
                    seen.setdefault(kind, time.monotonic() - began)
                if kind == "text":
                    return

    with _files_before(world, http):
        began = time.monotonic()
        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        listener.join(3 * _COMMENT_S)
        told = dict(seen)
    listener.join(120)
    if told.get("text", np.inf) < _COMMENT_S:
        raise UnfitError("the text came before there was anything to wait for")
    got = ", ".join(f"{name} after {s:.1f} s" for name, s in told.items()) or "nothing"
    faults = []
    if told.get("headers", np.inf) > _AT_ONCE_S:
        faults.append("the headers do not come at once")
    if told.get("comment", np.inf) > told.get("headers", 0.0) + _COMMENT_S:
        faults.append("no comment line")
    return Seen(got, tuple(faults))


@contextmanager
def _files_before(world: World, http: Http) -> Iterator[None]:
    """During the block, long files of a higher priority are decoded; then they are given up."""
    long = np.tile(np.append(five().samples, np.zeros(16_000)), _TIMES)
    content = write(world.folder / "before.wav", long).read_bytes()
    fields = [field("model", "base"), field("priority", "realtime")]
    file = ('Content-Disposition: form-data; name="file"; filename="a.wav"', content)
    body, boundary = multipart([*fields, file])
    with ExitStack() as connections:
        for _ in range(_N_BEFORE):
            connections.enter_context(http.begin(body, boundary))
        deadline = time.monotonic() + 60
        while _n_waiting(http) < _N_BEFORE and time.monotonic() < deadline:
            time.sleep(0.25)
        yield


def _n_waiting(http: Http) -> float:
    """An estimate of the files that wait, from the audio that the tiers have queued."""
    queued_s = sum(t["queued_audio_s"] for t in http.get("/v1/cluster").body["tiers"])
    return float(queued_s / (_TIMES * 10.0))


CASES: list[Case] = [
    CallCase("stream/deltas are the text", "the words, and the same in the last event", _plain),
    CallCase("stream/no audio", "400, not a stream", _no_audio),
    CallCase(
        "stream/behind six long files",
        f"headers at once, a comment line within {_COMMENT_S:g} s of them",
        _waiting,
    ),
]

"""A live session on one engine in this process."""

import time
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from deployments.live.events import Event
from deployments.live.look import Pass
from deployments.live.session import LiveSession
from deployments.live.stretch import Model
from deployments.messages import to_chunk_result, to_request
from engine import Engine, RequestError


class LocalLive:
    """Runs sessions on an engine, on the calling thread.

    Args:
        engine: must not be used elsewhere at the same time.
        in_real_time: audio does not wait for text.
    """

    def __init__(self, engine: Engine, in_real_time: bool = False) -> None:
        self._engine = engine
        self._in_real_time = in_real_time
        self._out: dict[str, tuple[LiveSession, Pass, float]] = {}

    @property
    def model(self) -> Model:
        return Model(self._engine.model_name, self._engine.tokenizer.vocabulary)

    @property
    def is_busy(self) -> bool:
        return self._engine.has_unfinished

    def step(self, sessions: Iterable[LiveSession]) -> Iterator[tuple[LiveSession, Event]]:
        """Send the passes that are due and advance the engine by a step.

        Yields:
            What the sessions say, with the session that says it.
        """
        for session in sessions:
            while (found := session.next_pass()) is not None:
                key = found.chunk.key
                try:
                    self._engine.add_request(to_request(found.chunk))
                except RequestError as error:
                    yield from ((session, event) for event in session.fail(found, error))
                    continue
                self._out[key] = (session, found, time.monotonic())
        if not self._engine.has_unfinished:
            return
        for key, (session, found, _) in list(self._out.items()):
            if not session.is_wanted(found):
                self._engine.abort(key)
                del self._out[key]
        for result in self._engine.step():
            owner = self._out.pop(result.request_id, None)
            if owner is not None:
                session, found, sent_at = owner
                heard = to_chunk_result(result, self._engine.model_name)
                took_s = time.monotonic() - sent_at if self._in_real_time else 0.0
                told = session.accept(found, heard, took_s)
                yield from ((session, event) for event in told)


def transcribe_at_once(
    live: LocalLive, session: LiveSession, blocks: Iterable[npt.NDArray[np.int16]]
) -> Iterator[Event]:
    """Run a session over audio that is there already; every block waits for the looks that the one
    before it made due."""
    for pcm in blocks:
        yield from session.append(pcm)
        yield from _steps(live, session)
    yield from session.finish()
    while not session.is_idle:
        yield from _steps(live, session)


def _steps(live: LocalLive, session: LiveSession) -> Iterator[Event]:
    """Take the steps of the looks that are due."""
    while True:
        yield from (event for _, event in live.step([session]))
        if not live.is_busy:
            return

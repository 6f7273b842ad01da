"""Live sessions of other Ray jobs: audio comes through a queue, and events go back as a stream."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import asdict
from typing import Any

import numpy as np
from pydantic import TypeAdapter
from ray.util.queue import Queue

from deployments.entrance.callers import Callers, RunEnd
from deployments.entrance.calls import Answers, parse_options
from deployments.entrance.live import LiveRun, Note
from deployments.entrance.live_sessions import LiveSessions, OpenSession
from deployments.errors import NotAudioError, OptionError
from deployments.live.events import Event
from deployments.live.options import LiveOptions
from deployments.live.session import EmptyBufferError

AudioQueue = Queue
LiveCallOptions = LiveOptions | Mapping[str, Any] | None
COMMIT, CLEAR = "commit", "clear"
_OPTIONS = TypeAdapter(LiveOptions)


async def live_call(
    sessions: LiveSessions, callers: Callers, audio: AudioQueue, options: LiveCallOptions
) -> AsyncGenerator[Event | dict[str, Any], None]:
    """Run a session of a handle call: see `Ingress.live`."""
    answers = Answers(plain=not isinstance(options, LiveOptions | None))
    with answers.errors():
        read = parse_options(options, LiveOptions, _OPTIONS)
        async with sessions.admitted(), sessions.open(read) as session:
            end = RunEnd(sessions.limits.max_session_s)
            events = _events(session, callers, read.caller, end, audio)
            async with aclosing(events):
                async for event in events:
                    yield live_dict(event) if answers.plain else event


def live_dict(event: Event) -> dict[str, Any]:
    """An event in Python's built-in types; an error is its message."""
    fields = asdict(event)
    if isinstance(error := fields.get("error"), Exception):
        fields["error"] = str(error)
    return {"type": type(event).__name__, **fields}


async def _events(
    session: OpenSession,
    callers: Callers,
    caller: str | None,
    end: RunEnd,
    audio: AudioQueue,
) -> AsyncGenerator[Event, None]:
    feeding = asyncio.ensure_future(_feed(session.run, audio))
    events = session.run.events()
    try:
        with callers.watch(caller, end):
            while True:
                async with end.step():
                    event = await _next(events, feeding)
                if event is None:
                    return
                if not isinstance(event, Note):
                    yield event
    except TimeoutError as error:
        raise end.error() from error
    finally:
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)
        await events.aclose()


async def _next(
    events: AsyncGenerator[Event | Note, None], feeding: "asyncio.Future[None]"
) -> Event | Note | None:
    """The next event; raises what ended the feeding."""
    step = asyncio.ensure_future(anext(events, None))
    try:
        if not feeding.done():
            both: set[asyncio.Future[Any]] = {step, feeding}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if feeding.done() and (error := feeding.exception()) is not None:
            raise error
        return await step
    finally:
        if not step.done():
            step.cancel()
            await asyncio.gather(step, return_exceptions=True)


async def _feed(run: LiveRun, audio: AudioQueue) -> None:
    """Give a session what the caller puts into the queue."""
    while True:
        piece = await audio.get_async()
        if piece is None:
            run.finish()
            return
        await _take(run, piece)


async def _take(run: LiveRun, piece: object) -> None:
    if isinstance(piece, np.ndarray):
        if piece.dtype != np.int16 or piece.ndim != 1 or run.format.encoding != "pcm16":
            raise NotAudioError("samples must be int16 of shape (n,), with the encoding pcm16")
        await run.append(piece.astype("<i2", copy=False).tobytes())
    elif isinstance(piece, bytes | bytearray | memoryview):
        await run.append(bytes(piece))
    elif piece == COMMIT:
        try:
            run.commit()
        except EmptyBufferError as error:
            raise OptionError(str(error), "audio") from error
    elif piece == CLEAR:
        run.clear()
    else:
        raise NotAudioError(f"a piece of audio is bytes or samples, not {type(piece).__name__}")

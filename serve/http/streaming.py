"""Answers with server-sent events. The headers leave once the request is accepted, and comment
lines fill long pauses."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.responses import StreamingResponse

from deployments.entrance.ingress import Done
from deployments.messages import TranscriptSegment
from serve.http.answers import EventStream, server_sent_event
from serve.http.errors import log_and_convert

PAUSE_S = 10.0
COMMENT = ": waiting\n\n"
"""A comment line, which clients of server-sent events skip."""
_UNBUFFERED = {"cache-control": "no-cache", "x-accel-buffering": "no"}
"""Headers that keep proxies from buffering events."""

Events = AsyncGenerator[list[TranscriptSegment] | Done, None]
_Event = TypeVar("_Event")


class _End:
    """Stands for the end of the events."""


async def stream_answer(
    events: Events,
    stream: EventStream,
    account: Callable[[Done], dict[str, Any]],
    request_id: str,
) -> StreamingResponse:
    """Answer once the beginning of the audio has been read, or after `PAUSE_S` at the latest.

    An error before that is answered with its own HTTP status.

    Args:
        account: returns the fields to add to OpenAI's in the last event.
    """
    spoken = with_pauses(events, PAUSE_S)
    first = await anext(spoken)

    def render(event: list[TranscriptSegment] | Done | None) -> str:
        if event is None:
            return COMMENT
        if isinstance(event, Done):
            return stream.done(event.transcript, account(event))
        return stream.segments(event)

    async def body() -> AsyncGenerator[str, None]:
        try:
            async with aclosing(spoken):
                yield stream.begin() + render(first)
                async for event in spoken:
                    yield render(event)
        except Exception as error:  # outermost handler; too late for a status, so send an event
            yield server_sent_event(log_and_convert(error, request_id).body)

    return StreamingResponse(body(), media_type="text/event-stream", headers=_UNBUFFERED)


async def with_pauses(
    events: AsyncGenerator[_Event, None], pause_s: float
) -> AsyncGenerator[_Event | None, None]:
    """Yield `events`, and None after every `pause_s` seconds without one.

    Closing this generator closes `events`.
    """
    step: asyncio.Future[_Event | _End] | None = None
    try:
        while True:
            step = step or asyncio.ensure_future(anext(events, _End()))
            await asyncio.wait({step}, timeout=pause_s)
            if not step.done():
                yield None
                continue
            event, step = step.result(), None
            if isinstance(event, _End):
                return
            yield event
    finally:
        if step is not None:
            step.cancel()
            await asyncio.gather(step, return_exceptions=True)
        await events.aclose()

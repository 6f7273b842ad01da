"""A run as server-sent events, which speaks as soon as the request is accepted and never falls
silent for long."""

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
"""What clients of server-sent events skip."""
_UNBUFFERED = {"cache-control": "no-cache", "x-accel-buffering": "no"}
"""What keeps proxies from holding events back."""

Events = AsyncGenerator[list[TranscriptSegment] | Done, None]
_Event = TypeVar("_Event")
_END = object()


async def stream_answer(
    events: Events,
    stream: EventStream,
    account: Callable[[Done], dict[str, Any]],
    request_id: str,
) -> StreamingResponse:
    """Answer when the beginning of the audio was read, so that an error until then has a status of
    its own; but not later than after `PAUSE_S`.

    Args:
        account: what goes beside OpenAI's fields of the last event.
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
        except Exception as error:  # the border of the process: the status is sent, so it is told
            yield server_sent_event(log_and_convert(error, request_id).body)

    return StreamingResponse(body(), media_type="text/event-stream", headers=_UNBUFFERED)


async def with_pauses(
    events: AsyncGenerator[_Event, None], pause_s: float
) -> AsyncGenerator[_Event | None, None]:
    """The events, and None whenever none came for `pause_s` seconds. Closing it closes them."""
    step: asyncio.Future[_Event | object] | None = None
    try:
        while True:
            step = step or asyncio.ensure_future(anext(events, _END))
            await asyncio.wait({step}, timeout=pause_s)
            if not step.done():
                yield None
                continue
            event, step = step.result(), None
            if event is _END:
                return
            yield event  # type: ignore[misc]  # no other object is of another type
    finally:
        if step is not None:
            step.cancel()
            await asyncio.gather(step, return_exceptions=True)
        await events.aclose()

"""A WebSocket of OpenAI's Realtime API: a client's events in, a session's events out."""

import asyncio
import base64
import binascii
import json
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from deployments.entrance.live import Note
from deployments.entrance.live_sessions import LiveSessions, OpenSession, is_draining
from deployments.errors import DeploymentError, OptionError, OverloadedError
from deployments.live.session import MIN_COMMIT_S, EmptyBufferError
from deployments.options import AUTO
from engine import RequestError
from serve.http.answers import TokenNames
from serve.http.errors import log_and_convert
from serve.http.realtime.config import SessionConfig, from_beta
from serve.http.realtime.errors import RealtimeError, body_of, error_body
from serve.http.realtime.rendering import Json, Rendering, event_of

logger = logging.getLogger("ray.serve")

MAX_AUDIO_BYTES = 15 * 1024 * 1024
"""Of one `input_audio_buffer.append`."""
_PERIOD_S = 1.0
_DRAIN_S = 10.0
"""A session of a replica that is to stop ends between two turns, and after this time anyhow."""
_MAX_WAITING = 10_000
"""Events that a client may leave unread."""
_PARAMS = {
    "language": "session.audio.input.transcription.language",
    "languages": "session.audio.input.transcription.languages",
    "prompt": "session.audio.input.transcription.prompt",
    "keywords": "session.audio.input.transcription.keywords",
    "model": "session.audio.input.transcription.model",
}

NORMAL, GOING_AWAY, POLICY, SERVER_ERROR, RESTART, LATER = 1000, 1001, 1008, 1011, 1012, 1013
UNAUTHORIZED = 3000


@dataclass  # not frozen: context managers set an exception's traceback
class Closed(Exception):
    """The socket has to be closed.

    Attributes:
        error: told before, if there is one.
    """

    code: int
    reason: str
    error: Json | None = None


class RealtimeSocket:
    """One connection.

    Args:
        socket: accepted.
        sessions: where sessions are opened.
        names: token names of a tier.
    """

    def __init__(
        self,
        socket: WebSocket,
        sessions: LiveSessions,
        names: Callable[[str], Awaitable[TokenNames]],
    ) -> None:
        self._socket = socket
        self._sessions = sessions
        self._names = names
        self._id = f"sess_{uuid.uuid4().hex[:21]}"
        self._expires_at = int(time.time() + sessions.limits.max_session_s)
        self._rendering = Rendering(self._id)
        self._config = SessionConfig()
        self._out: asyncio.Queue[Json] = asyncio.Queue()
        self._heard_at = time.monotonic()
        self._handlers: dict[str, Callable[[OpenSession, Json], Awaitable[None]]] = {
            "session.update": self._update,
            "transcription_session.update": self._update_beta,
            "input_audio_buffer.append": self._append,
            "input_audio_buffer.commit": self._commit,
            "input_audio_buffer.clear": self._clear,
            "conversation.item.retrieve": self._retrieve,
            "conversation.item.delete": self._delete,
        }

    async def serve(self, config: SessionConfig, request_id: str) -> None:
        """Serve the connection to its end.

        Args:
            config: what the session begins with.
        """
        try:
            async with AsyncExitStack() as stack:
                await self._open_and_run(stack, config, request_id)
        except Closed as end:
            await close(self._socket, end)
        except WebSocketDisconnect:
            pass
        except Exception as error:  # outermost handler: the client is told of any error
            body = body_of(log_and_convert(error, request_id))
            code = LATER if isinstance(error, OverloadedError) else POLICY
            if not isinstance(error, DeploymentError | RequestError):
                code = SERVER_ERROR
            await close(self._socket, Closed(code, str(body["code"]), body))

    async def _open_and_run(
        self, stack: AsyncExitStack, config: SessionConfig, request_id: str
    ) -> None:
        await stack.enter_async_context(self._sessions.admitted())
        self._config = config
        session = await stack.enter_async_context(
            self._sessions.open(config.options(), request_id or self._id)
        )
        self._rendering.names = await self._token_names(session, config)
        self._tell(self._session_event("session.created"))
        tasks = [
            asyncio.ensure_future(each)
            for each in (
                self._read(session),
                self._write(),
                self._say(session),
                self._watch(session),
            )
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._write_what_waits()

    async def _read(self, session: OpenSession) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            self._heard_at = time.monotonic()
            data = message.get("text") or message.get("bytes") or b""
            await self._take(session, data)

    async def _take(self, session: OpenSession, data: str | bytes) -> None:
        """Do what a client's event says; what is wrong with it is told, and changes nothing."""
        event_id: str | None = None
        try:
            event = _parsed(data)
            event_id = event["event_id"] if isinstance(event.get("event_id"), str) else None
            handler = self._handlers.get(event["type"])
            if handler is None:
                known = ", ".join(sorted(self._handlers))
                raise RealtimeError(
                    f"unknown event {event['type'][:80]!r}; there are {known}",
                    "invalid_value",
                    "type",
                )
            await handler(session, event)
        except RealtimeError as error:
            session.run.note(_error_event(error.body, event_id))
        except (DeploymentError, RequestError) as error:
            body = body_of(log_and_convert(error, self._id))
            if isinstance(error, OptionError):
                body["param"] = _PARAMS.get(error.option, body["param"])
            session.run.note(_error_event(body, event_id))

    async def _update(self, session: OpenSession, event: Json) -> None:
        await self._configure(session, self._config.merged(event.get("session")))
        session.run.note(self._session_event("session.updated"))

    async def _update_beta(self, session: OpenSession, event: Json) -> None:
        await self._configure(session, self._config.merged(from_beta(event.get("session"))))
        self._rendering.is_beta = True
        shown = self._config.rendered_beta(self._id, self._expires_at)
        session.run.note(event_of("transcription_session.updated", session=shown))

    async def _configure(self, session: OpenSession, config: SessionConfig) -> None:
        names = await self._token_names(session, config)
        await session.configure(config.options())
        self._config, self._rendering.names = config, names

    async def _append(self, session: OpenSession, event: Json) -> None:
        audio = event.get("audio")
        if not isinstance(audio, str):
            raise RealtimeError("audio must be a string of base64", "invalid_type", "audio")
        try:
            data = base64.b64decode(audio, validate=True)
        except (binascii.Error, ValueError):
            raise RealtimeError("audio is not base64", "invalid_value", "audio") from None
        if len(data) > MAX_AUDIO_BYTES:
            raise RealtimeError(
                f"audio has {len(data)} bytes; at most {MAX_AUDIO_BYTES}",
                "audio_too_large",
                "audio",
            )
        await session.run.append(data)

    async def _commit(self, session: OpenSession, event: Json) -> None:
        try:
            session.run.commit()
        except EmptyBufferError as error:
            raise RealtimeError(
                f"the input audio buffer has {1000 * error.buffered_s:.2f} ms of audio; at least "
                f"{1000 * MIN_COMMIT_S:.0f} ms are needed",
                "input_audio_buffer_commit_empty",
            ) from None

    async def _clear(self, session: OpenSession, event: Json) -> None:
        session.run.clear()

    async def _retrieve(self, session: OpenSession, event: Json) -> None:
        session.run.note(self._rendering.retrieved(_item_id(event)))

    async def _delete(self, session: OpenSession, event: Json) -> None:
        session.run.note(self._rendering.deleted(_item_id(event)))

    async def _say(self, session: OpenSession) -> None:
        async for event in session.run.events():
            if isinstance(event, Note):
                self._tell(event.content)
                continue
            for told in self._rendering.events(event):
                self._tell(told)

    async def _write(self) -> None:
        while True:
            await self._socket.send_text(_text(await self._out.get()))

    async def _write_what_waits(self) -> None:
        """Events that were said before the end, if somebody still reads."""
        while not self._out.empty() and self._socket.client_state is WebSocketState.CONNECTED:
            try:
                await self._socket.send_text(_text(self._out.get_nowait()))
            except (WebSocketDisconnect, RuntimeError):  # RuntimeError: closed in the meantime
                return

    async def _watch(self, session: OpenSession) -> None:
        """End a session whose time is over, and move one whose ingress is to stop."""
        limits, drains_since = self._sessions.limits, None
        while True:
            await asyncio.sleep(_PERIOD_S)
            now = time.monotonic()
            if time.time() >= self._expires_at:
                message = f"the session has lasted {limits.max_session_s:g} s, as long as it may"
                error = error_body(message, "invalid_request_error", "session_expired")
                raise Closed(GOING_AWAY, "session expired", error)
            if now - self._heard_at >= limits.idle_s:
                message = f"nothing was heard from the client for {limits.idle_s:g} s"
                error = error_body(message, "invalid_request_error", "session_idle")
                raise Closed(NORMAL, "session idle", error)
            if self._out.qsize() > _MAX_WAITING:
                raise Closed(POLICY, "the client reads too slowly")
            if is_draining():
                drains_since = drains_since or now
                if session.run.session.is_idle or now - drains_since > _DRAIN_S:
                    raise Closed(RESTART, "this server restarts: connect again")

    async def _token_names(self, session: OpenSession, config: SessionConfig) -> TokenNames | None:
        if not config.wants_logprobs:
            return None
        if config.model == AUTO:
            raise RealtimeError(
                f"logprobs need a model other than {AUTO!r}: tokens differ between models",
                "unsupported",
                "session.include",
            )
        return await self._names(config.model)

    def _session_event(self, kind: str) -> Json:
        return event_of(kind, session=self._config.rendered(self._id, self._expires_at))

    def _tell(self, event: Json) -> None:
        self._out.put_nowait(event)


async def close(socket: WebSocket, end: Closed) -> None:
    """Close an accepted socket, after its error."""
    try:
        if end.error is not None:
            await socket.send_text(_text(_error_event(end.error, None)))
        await socket.close(end.code, end.reason[:120])
    except (WebSocketDisconnect, RuntimeError):  # RuntimeError: the client has closed it
        logger.info("the client was gone before its socket was closed")


def _parsed(data: str | bytes) -> Json:
    """A client's event.

    Raises:
        RealtimeError: it is none.
    """
    try:
        event = json.loads(data)
    except (ValueError, RecursionError):
        raise RealtimeError("the event is not JSON", "invalid_json") from None
    if not isinstance(event, dict):
        raise RealtimeError("an event is an object of JSON", "invalid_type")
    if not isinstance(event.get("type"), str):
        raise RealtimeError("an event needs its type", "missing_required_parameter", "type")
    return event


def _error_event(error: Json, event_id: str | None) -> Json:
    """
    Args:
        event_id: the client's id of the event that was wrong.
    """
    return event_of("error", error={**error, "event_id": event_id})


def _item_id(event: Json) -> str:
    item_id = event.get("item_id")
    if not isinstance(item_id, str):
        raise RealtimeError("item_id must be given", "missing_required_parameter", "item_id")
    return item_id


def _text(event: Json) -> str:
    return json.dumps(event, ensure_ascii=False)

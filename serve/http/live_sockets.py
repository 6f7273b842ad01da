"""What every WebSocket of live speech does, whichever protocol it speaks: read, write, end in time.

Protocols are subclasses: they know what a client's messages mean, and how events are written.
"""

import asyncio
import json
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from deployments.entrance.live import Note
from deployments.entrance.live_sessions import LiveSessions, OpenSession, is_draining
from deployments.errors import DeploymentError, OverloadedError
from deployments.live.events import Event
from deployments.live.options import LiveOptions
from engine import RequestError
from serve.http.errors import HttpError, log_and_convert

logger = logging.getLogger("ray.serve")

_PERIOD_S = 1.0
_DRAIN_S = 10.0
"""A session of a replica that is to stop ends between two turns, and after this time anyhow."""
_MAX_WAITING = 10_000
"""Events that a client may leave unread."""

NORMAL, GOING_AWAY, POLICY, SERVER_ERROR, RESTART, LATER = 1000, 1001, 1008, 1011, 1012, 1013

Json = dict[str, Any]


@dataclass  # not frozen: context managers set an exception's traceback
class Closed(Exception):
    """The socket has to be closed.

    Attributes:
        told: a message that goes before it, if there is one.
    """

    code: int
    reason: str
    told: Json | None = None


class LiveSocket(ABC):
    """One connection.

    Args:
        socket: accepted, or to be accepted in `_begin`.
        sessions: where sessions are opened.
        session_id: names the connection, in the log too.
    """

    def __init__(self, socket: WebSocket, sessions: LiveSessions, session_id: str) -> None:
        self._socket = socket
        self._sessions = sessions
        self._id = session_id
        self._expires_at = int(time.time() + sessions.limits.max_session_s)
        self._out: asyncio.Queue[Json] = asyncio.Queue()
        self._heard_at = time.monotonic()

    async def _run(self, options: Callable[[], LiveOptions], request_id: str) -> None:
        """Serve the connection to its end.

        Args:
            options: what the session begins with; may raise what is wrong with them.
        """
        try:
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(self._sessions.admitted())
                opened = self._sessions.open(options(), request_id or self._id)
                await self._talk(await stack.enter_async_context(opened))
        except Closed as end:
            await close(self._socket, end)
        except WebSocketDisconnect:
            pass
        except Exception as error:  # outermost handler: the client is told of any error
            found = log_and_convert(error, request_id)
            code = LATER if isinstance(error, OverloadedError) else POLICY
            if not isinstance(error, DeploymentError | RequestError):
                code = SERVER_ERROR
            await self._fail(found, code)

    @abstractmethod
    async def _begin(self, session: OpenSession) -> None:
        """Called when the session is open, before anything is read."""

    @abstractmethod
    async def _take(self, session: OpenSession, data: str | bytes) -> None:
        """Do what a client's message says."""

    @abstractmethod
    def _rendered(self, event: Event | Note) -> list[Json]:
        """The messages for what a session says."""

    @abstractmethod
    def _fault(self, error: HttpError) -> Json:
        """The message for an error that ends the connection."""

    async def _fail(self, error: HttpError, code: int) -> None:
        """End the connection because of an error; `code` is that of closing."""
        await close(self._socket, Closed(code, str(error.code), self._fault(error)))

    def _tell(self, message: Json) -> None:
        self._out.put_nowait(message)

    async def _talk(self, session: OpenSession) -> None:
        await self._begin(session)
        jobs = (self._read(session), self._write(), self._say(session), self._watch(session))
        tasks = [asyncio.ensure_future(job) for job in jobs]
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
            text = message.get("text")
            await self._take(session, message.get("bytes") or b"" if text is None else text)

    async def _say(self, session: OpenSession) -> None:
        async for event in session.run.events():
            for message in self._rendered(event):
                self._tell(message)

    async def _write(self) -> None:
        while True:
            await self._socket.send_text(as_text(await self._out.get()))

    async def _write_what_waits(self) -> None:
        """Messages that were said before the end, if somebody still reads."""
        while not self._out.empty() and self._socket.client_state is WebSocketState.CONNECTED:
            try:
                await self._socket.send_text(as_text(self._out.get_nowait()))
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
                raise self._ended(GOING_AWAY, "session expired", message, "session_expired")
            if now - self._heard_at >= limits.idle_s:
                message = f"nothing was heard from the client for {limits.idle_s:g} s"
                raise self._ended(NORMAL, "session idle", message, "session_idle")
            if self._out.qsize() > _MAX_WAITING:
                raise Closed(POLICY, "the client reads too slowly")
            if is_draining():
                drains_since = drains_since or now
                if session.run.session.is_idle or now - drains_since > _DRAIN_S:
                    raise Closed(RESTART, "this server restarts: connect again")

    def _ended(self, code: int, reason: str, message: str, name: str) -> Closed:
        error = HttpError(400, message, "invalid_request_error", code=name)
        return Closed(code, reason, self._fault(error))


async def close(socket: WebSocket, end: Closed) -> None:
    """Close an accepted socket, after its message."""
    try:
        if end.told is not None:
            await socket.send_text(as_text(end.told))
        await socket.close(end.code, end.reason[:120])
    except (WebSocketDisconnect, RuntimeError):  # RuntimeError: the client has closed it
        logger.info("the client was gone before its socket was closed")


def as_text(message: Json) -> str:
    return json.dumps(message, ensure_ascii=False)

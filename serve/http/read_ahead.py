"""Bounds how far Ray Serve reads a request's body ahead of the application.

Proxy and replica put the parts of a body into queues without a bound (Ray 2.60), so an upload would
lie in memory as fast as it comes. The classes here take the place of Ray's: they take the next part
only when the application has read most of those before it, and then the sender waits, by TCP.

    client -> uvicorn -> BoundedMessageQueue   -> BoundedReceive -> application   (Ray's own proxy)
    client -> HAProxy -> uvicorn -> BoundedDirectReceive         -> application   (HAProxy)

Ray has no public place for this. If a later version no longer has these classes, nothing is
replaced, and what is admitted is the only bound (`serve.http.receiving`).
"""

import asyncio
import logging
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from ray.serve._private import direct_ingress_http_util, http_util
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_PARTS = 4
"""Parts of a body that wait in one queue; a part is what uvicorn reads at once, up to 320 KiB."""
BOUNDED = "murmur.bounded_body"
"""Among the `extensions` of a request's ASGI scope if no process reads its body ahead further."""

_logger = logging.getLogger("ray.serve")


def is_bounded(scope: Scope) -> bool:
    """Whether a request's body waits at its sender until the application reads it."""
    return BOUNDED in scope.get("extensions", {})


class BoundedMessageQueue(http_util.MessageQueue):
    """In Ray's own proxy: what has come from the client and not been fetched by the replica. Used
    by one event loop."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Ray has no types
        self._fetched = asyncio.Event()

    async def __call__(self, message: Message) -> None:
        await super().__call__(message)
        while message["type"] == "http.request" and len(self._message_queue) >= MAX_PARTS:
            self._fetched.clear()
            await self._fetched.wait()

    def get_messages_nowait(self) -> list[Message]:
        messages: list[Message] = super().get_messages_nowait()
        self._fetched.set()
        return messages


class BoundedReceive(http_util.ASGIReceiveProxy):
    """In a replica behind Ray's own proxy: fetches what the proxy's queue holds when the
    application has read all but the last part of what was fetched before.

    The last part does not count, because many requests are never read: without a body they are one
    empty part, and what comes after it says whether the client is still there.
    """

    def __init__(
        self, scope: Scope, request_metadata: Any, receive_asgi_messages: Callable[[Any], Any]
    ) -> None:
        super().__init__(scope, request_metadata, self._fetch)
        self._fetch_now = receive_asgi_messages
        self._is_http = scope["type"] == "http"
        self._read = asyncio.Event()

    async def _fetch(self, request_metadata: Any) -> Any:
        while self._is_http and self.queue.qsize() > 1:
            self._read.clear()
            await self._read.wait()
        return await self._fetch_now(request_metadata)

    async def __call__(self) -> Message:
        message: Message = await super().__call__()
        self._read.set()
        return message


class BoundedDirectReceive(direct_ingress_http_util.ASGIDIReceiveProxy):
    """In a replica behind HAProxy: receives on Serve's event loop what the application reads on its
    own.

    Each of the two counters is written by one thread, and the waiting thread announces itself
    before it looks at them again, so neither a lock nor a call to the other thread is needed while
    there is room.
    """

    def __init__(
        self, scope: Scope, receive: Receive, user_event_loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(scope, self._receive_with_room, user_event_loop)
        self._receive_now = receive
        self._loop = asyncio.get_running_loop()
        self._is_http = scope["type"] == "http"
        self._n_received = self._n_read = 0
        self._waits = False
        self._read = asyncio.Event()
        if self._is_http:
            scope["extensions"] = {**scope.get("extensions", {}), BOUNDED: {}}

    async def _receive_with_room(self) -> Message:
        while self._is_full:
            self._read.clear()
            self._waits = True
            if self._is_full:
                await self._read.wait()
            self._waits = False
        message = await self._receive_now()
        self._n_received += 1
        return message

    @property
    def _is_full(self) -> bool:
        return self._is_http and self._n_received - self._n_read >= MAX_PARTS

    async def __call__(self) -> Message:
        message: Message = await super().__call__()
        self._n_read += 1
        if self._waits:
            self._loop.call_soon_threadsafe(self._read.set)
        return message


class MarkBounded:
    """ASGI middleware in Ray's own proxy: tells the application that the proxy's queue is bounded.

    Args:
        app: the proxy.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["extensions"] = {**scope.get("extensions", {}), BOUNDED: {}}
        await self._app(scope, receive, send)


def bound_replica() -> None:
    """Bound what the replica in this process reads ahead."""
    from ray.serve._private import replica

    _replace(replica, "ASGIReceiveProxy", BoundedReceive)
    _replace(replica, "ASGIDIReceiveProxy", BoundedDirectReceive)


def bound_proxy() -> list[Middleware]:
    """Bound what Ray's own proxy in this process reads ahead. Ray calls it as
    RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH says.

    Returns:
        Middlewares of the HTTP server.
    """
    # A replica behind HAProxy has an HTTP server, too, for which Ray calls this; but no proxy.
    proxy = sys.modules.get("ray.serve._private.proxy")
    if proxy is None or not _replace(proxy, "MessageQueue", BoundedMessageQueue):
        return []
    return [Middleware(MarkBounded)]


def _replace(module: ModuleType, name: str, bounded: type) -> bool:
    """Put a class in the place of its base in a module of Ray; returns whether it is there now."""
    there = getattr(module, name, None)
    if there is bounded or there in bounded.__bases__:
        setattr(module, name, bounded)
        return True
    _logger.warning(
        "this version of Ray reads bodies ahead in another way: %s.%s is not bounded",
        module.__name__,
        name,
    )
    return False

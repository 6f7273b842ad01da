"""Requests as programs write them that know no route in detail: HEAD, and paths that end in `/`."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class LenientRequests:
    """ASGI middleware. HEAD is answered as GET without a body, and a path with a `/` at its end as
    the path without it: a redirect would make some clients send their upload twice, others not at
    all.

    Args:
        app: knows neither.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        root, path = scope.get("root_path", ""), scope["path"].rstrip("/")
        # `/` alone, or a prefix with it, is the page.
        asked = {**scope, "path": path} if len(path) > len(root) else {**scope}
        if scope.get("method") == "HEAD":
            asked["method"] = "GET"
            await self._app(asked, receive, _without_body(send))
        else:
            await self._app(asked, receive, send)


def _without_body(send: Send) -> Send:
    async def send_head(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return send_head

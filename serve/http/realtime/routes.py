"""The routes of OpenAI's Realtime API: sockets, and the secrets that open them."""

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

from fastapi import FastAPI, WebSocket
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from deployments.entrance.live_sessions import LiveSessions
from serve.http.answers import TokenNames
from serve.http.auth import Auth, UnauthorizedError
from serve.http.fields import FieldError
from serve.http.form import MalformedBodyError
from serve.http.live_sockets import POLICY, Closed, close
from serve.http.realtime.config import SessionConfig
from serve.http.realtime.errors import RealtimeError, error_body
from serve.http.realtime.secrets import PREFIX, Secret, SecretError, Secrets
from serve.http.realtime.socket import UNAUTHORIZED, RealtimeSocket, error_event

_PROTOCOL = "realtime"
_KEY_PROTOCOL = "openai-insecure-api-key."
"""How a browser, which cannot set headers, gives a key: as a subprotocol."""
_MAX_BODY_BYTES = 100_000


class _Expiry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    anchor: Literal["created_at"] = "created_at"
    seconds: Annotated[int, Field(ge=10, le=7200)] = 600


class _SecretRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    expires_after: _Expiry = _Expiry()
    session: dict[str, Any] = {}


class Realtime:
    """What the routes need of the ingress.

    Args:
        sessions: where sessions are opened.
        names: token names of a model.
        auth: returns what checks keys now.
        signing_key: returns the key with which the cluster signs; may block.
    """

    def __init__(
        self,
        sessions: LiveSessions,
        names: Callable[[str], Awaitable[TokenNames]],
        auth: Callable[[], Auth],
        signing_key: Callable[[], bytes],
    ) -> None:
        self._sessions = sessions
        self._names = names
        self._auth = auth
        self._secrets = Secrets(signing_key)

    async def serve(self, socket: WebSocket) -> None:
        """Serve a socket to its end."""
        offered = socket.scope.get("subprotocols", [])
        await socket.accept(_PROTOCOL if _PROTOCOL in offered else None)
        try:
            secret = await self._check(socket, offered)
            config = _first_config(socket, secret)
        except (UnauthorizedError, SecretError) as error:
            body = error_body(str(error), "invalid_request_error", "invalid_api_key")
            reason = "invalid_request_error.invalid_api_key"
            await close(socket, Closed(UNAUTHORIZED, reason, error_event(body, None)))
            return
        except RealtimeError as error:
            await close(socket, Closed(POLICY, error.code, error_event(error.body, None)))
            return
        request_id = socket.headers.get("x-request-id", "")
        await RealtimeSocket(socket, self._sessions, self._names).serve(config, request_id)

    async def make_secret(self, request: Request) -> Response:
        """Answer a request for a client secret.

        Raises:
            FieldError, MalformedBodyError: the request is wrong.
        """
        asked = await _secret_request(request)
        try:
            config = SessionConfig().merged(asked.session)
        except RealtimeError as error:
            raise FieldError(str(error), error.param or "session", error.code) from error
        make = self._secrets.make
        ttl_s = asked.expires_after.seconds
        value, secret = await asyncio.to_thread(make, ttl_s, asked.session)
        shown = config.rendered(f"sess_{uuid.uuid4().hex[:21]}", secret.expires_at)
        return JSONResponse({"value": value, "expires_at": secret.expires_at, "session": shown})

    async def _check(self, socket: WebSocket, offered: list[str]) -> Secret | None:
        """Check the key of a socket; returns what its client secret says, if it is one."""
        key = next(
            (
                name.removeprefix(_KEY_PROTOCOL)
                for name in offered
                if name.startswith(_KEY_PROTOCOL)
            ),
            None,
        )
        if key is None:
            scheme, _, given = socket.headers.get("authorization", "").partition(" ")
            key = given.strip() if scheme.lower() == "bearer" else ""
        if key.startswith(PREFIX):
            return await asyncio.to_thread(self._secrets.read, key)
        self._auth().check_key(key)
        return None


def add_realtime_routes(
    api: FastAPI,
    realtime: Callable[[], Realtime],
    guarded: Callable[[Any], Any],
    check_key: Callable[..., None],
) -> None:
    """Add the routes to an app.

    Args:
        realtime: what serves them.
        guarded: makes answers of a route's errors.
        check_key: checks the key of a request.
    """

    @api.websocket("/v1/realtime")
    async def socket(socket: WebSocket) -> None:
        await realtime().serve(socket)

    @api.post("/v1/realtime/client_secrets")
    @guarded
    async def client_secrets(request: Request) -> Response:
        """Make a key for a short time, with a session's configuration."""
        check_key(request)
        return await realtime().make_secret(request)


def _first_config(socket: WebSocket, secret: Secret | None) -> SessionConfig:
    """What a session begins with.

    Raises:
        RealtimeError: the address asks for something else than a transcription.
    """
    intent = socket.query_params.get("intent", "transcription")
    if intent != "transcription":
        raise RealtimeError(
            f"intent is {intent[:40]!r}, and there is only transcription", "unsupported", "intent"
        )
    config = SessionConfig()
    if model := socket.query_params.get("model"):
        transcription = {"transcription": {"model": model}}
        config = config.merged({"audio": {"input": transcription}}, "model")
    return config if secret is None else config.merged(secret.session)


async def _secret_request(request: Request) -> _SecretRequest:
    body = b""
    async for data in request.stream():
        body += data
        if len(body) > _MAX_BODY_BYTES:
            raise MalformedBodyError(f"the body is larger than {_MAX_BODY_BYTES} bytes")
    try:
        return _SecretRequest.model_validate(json.loads(body or b"{}"))
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False)[0]
        path = ".".join(map(str, fault["loc"]))
        raise FieldError(f"invalid {path}: {fault['msg']}", path) from error
    except (ValueError, RecursionError):
        raise MalformedBodyError("the body is not JSON") from None

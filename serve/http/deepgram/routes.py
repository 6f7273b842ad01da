"""The routes of Deepgram's protocol: `/v1/listen`, for live speech and for files."""

import asyncio
import hashlib
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, BinaryIO

from fastapi import FastAPI, WebSocket
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from deployments.entrance.ingress import Done
from deployments.entrance.live_sessions import LiveSessions
from serve.http.auth import SCHEMES, Auth, given_key
from serve.http.deepgram.answers import answer_object, error_answer, refuse
from serve.http.deepgram.query import FileQuery, LiveQuery, parse_query
from serve.http.deepgram.socket import DeepgramSocket
from serve.http.docs import describe_audio
from serve.http.errors import log_and_convert
from serve.http.fields import FieldError, TranscriptionFields
from serve.http.receiving import Receiving, Reception
from serve.http.upload import ReadUpload, Upload, read_raw_upload

_READ_BYTES = 1024 * 1024


class Deepgram:
    """What the routes need of the ingress.

    Args:
        sessions: where live sessions are opened.
        auth: returns what checks keys now.
        knows: whether a model of this name is there.
        done: does all that a request for a file asks for.
    """

    def __init__(
        self,
        sessions: LiveSessions,
        auth: Callable[[], Auth],
        knows: Callable[[str], bool],
        done: Callable[..., Awaitable[Done]],
    ) -> None:
        self._sessions = sessions
        self._auth = auth
        self._knows = knows
        self._done = done

    async def serve(self, socket: WebSocket) -> None:
        """Serve a socket to its end."""
        request_id = _request_id(socket.headers.get("x-request-id"))
        offered = socket.scope.get("subprotocols", [])
        protocol = offered[0] if offered and offered[0].lower() in SCHEMES else None
        try:
            self._auth().check_key(_key_of(socket, offered if protocol else []))
            query = parse_query(socket.query_params.multi_items(), LiveQuery)
        except Exception as error:  # outermost handler: the client is told of any error
            await refuse(socket, log_and_convert(error, request_id), request_id)
            return
        connection = DeepgramSocket(socket, self._sessions, request_id, query, protocol)
        await connection.serve(self._knows)

    async def answer(self, request: Request) -> Response:
        """Transcribe a body that is the audio itself."""
        request_id = _request_id(request.headers.get("x-request-id"))
        created = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        head = {"request_id": request_id, "sha256": "", "created": created}
        try:
            self._auth().check(request)
            query = parse_query(request.query_params.multi_items(), FileQuery)
            if request.headers.get("content-type", "").startswith("application/json"):
                message = "url is not supported: send the audio itself"
                raise FieldError(message, "url", "unsupported")
            read = self._reader(query, head)
            done = await self._done(request, "transcribe", TranscriptionFields, read)
        except Exception as error:  # outermost handler: the client is told of any error
            return error_answer(log_and_convert(error, request_id), request_id)
        body = answer_object(done.transcript, query, head)
        return JSONResponse(body, headers={"dg-request-id": request_id})

    def _reader(self, query: FileQuery, head: dict[str, str]) -> ReadUpload:
        """Reads a body, and notes its sum in the head of the answer."""

        async def read(
            request: Request, max_bytes: int, reception: Reception, receiving: Receiving
        ) -> Upload:
            upload = await read_raw_upload(request, max_bytes, reception, receiving)
            assert upload.file is not None
            head["sha256"] = await asyncio.to_thread(_sum_of, upload.file.file)
            return Upload(query.fields(self._knows), upload.file)

        return read


def add_deepgram_routes(api: FastAPI, deepgram: Callable[[], Deepgram]) -> None:
    """Add the routes to an app.

    Args:
        deepgram: what serves them.
    """

    @api.websocket("/v1/listen")
    async def socket(socket: WebSocket) -> None:
        await deepgram().serve(socket)

    @api.post("/v1/listen", openapi_extra=describe_audio(FileQuery))
    async def listen(request: Request) -> Response:
        """Transcribe a body that is the audio itself, as Deepgram's clients send and read it."""
        return await deepgram().answer(request)


def _key_of(socket: WebSocket, offered: list[str]) -> str:
    """The key of a socket: in its header or, from a browser, as a subprotocol behind `token`."""
    return offered[1] if len(offered) > 1 else given_key(socket)


def _sum_of(file: BinaryIO) -> str:
    found = hashlib.sha256()
    while data := file.read(_READ_BYTES):
        found.update(data)
    file.seek(0)
    return found.hexdigest()


def _request_id(given: Any) -> str:
    return str(given) if given else str(uuid.uuid4())

"""Maps exceptions to HTTP errors with OpenAI's error body."""

import logging
import math
from dataclasses import dataclass
from typing import Any

from ray.exceptions import RayTaskError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse

from deployments.errors import (
    AudioDecodeTimeoutError,
    AudioError,
    AudioTooLongError,
    ChunkFailedError,
    DeadlineError,
    DeploymentError,
    OptionError,
    OverloadedError,
    StoppedError,
    TierUnavailableError,
    TruncatedAudioError,
    UnknownModelError,
)
from engine import RequestError
from serve.http.auth import UnauthorizedError
from serve.http.fields import FieldError
from serve.http.form import MalformedBodyError
from serve.http.receiving import UploadTimeoutError
from serve.http.upload import (
    NotMultipartError,
    StorageFullError,
    TooLargeError,
)

logger = logging.getLogger("ray.serve")

_BAD_REQUEST = "invalid_request_error"
_SERVER = "server_error"
_RETRY_S = 5.0
_STORAGE_RETRY_S = 30.0


@dataclass(frozen=True, slots=True)
class HttpError:
    """An HTTP status and OpenAI's error object.

    Attributes:
        retry_after_s: seconds after which the client should retry. Among 5xx errors, only those
            with it are worth a retry.
        allow: the methods that the route has.
    """

    status: int
    message: str
    type: str
    param: str | None = None
    code: str | None = None
    retry_after_s: float | None = None
    allow: str | None = None

    @property
    def body(self) -> dict[str, Any]:
        error = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }
        return {"error": error}

    @property
    def headers(self) -> dict[str, str]:
        if self.allow is not None:
            return {"allow": self.allow}
        if self.retry_after_s is not None:
            return {"retry-after": str(math.ceil(self.retry_after_s))}
        # Unless told not to, OpenAI's clients retry every 5xx, which repeats all work on the file.
        return {"x-should-retry": "false"} if self.status >= 500 else {}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body, self.status, self.headers)


_AUDIO: tuple[tuple[type[AudioError], int, str], ...] = (
    (AudioTooLongError, 413, "audio_too_long"),
    (TruncatedAudioError, 422, "audio_truncated"),
    (AudioDecodeTimeoutError, 422, "audio_decode_timeout"),
    (AudioError, 400, "invalid_audio"),
)
_BODY: dict[type[BaseException], tuple[int, str]] = {
    NotMultipartError: (415, "unsupported_media_type"),
    MalformedBodyError: (400, "malformed_body"),
    UploadTimeoutError: (408, "upload_timeout"),
    ClientDisconnect: (400, "client_disconnected"),
    TooLargeError: (413, "upload_too_large"),
}


def to_http_error(error: BaseException) -> HttpError:
    """The HTTP error for an exception. Internal errors give no details, which are in the log."""
    if isinstance(error, RayTaskError) and isinstance(error.cause, Exception):
        error = error.cause  # RayTaskError's message has the replica's stack trace
    if isinstance(error, HTTPException):
        return _no_route(error)
    if isinstance(error, UnauthorizedError):
        return HttpError(401, str(error), _BAD_REQUEST, code="invalid_api_key")
    if isinstance(error, FieldError):
        return HttpError(400, str(error), _BAD_REQUEST, error.param, error.code)
    if isinstance(error, StorageFullError):
        return HttpError(507, str(error), _SERVER, None, "insufficient_storage", _STORAGE_RETRY_S)
    if type(error) in _BODY:
        status, code = _BODY[type(error)]
        return HttpError(status, str(error), _BAD_REQUEST, code=code)
    for kind, status, code in _AUDIO:
        if isinstance(error, kind):
            return HttpError(status, error.reason, _BAD_REQUEST, "file", code)
    if isinstance(error, DeploymentError):
        return _deployment(error)
    if isinstance(error, RequestError):
        return HttpError(400, str(error), _BAD_REQUEST)
    return HttpError(500, "internal error", _SERVER, code="internal_error")


def _no_route(error: HTTPException) -> HttpError:
    """Convert Starlette's own errors, such as an unknown route or method."""
    if error.status_code == 404:
        said = "there is no such route" if error.detail == "Not Found" else error.detail
        return HttpError(404, said, _BAD_REQUEST, code="not_found")
    if error.status_code == 405:
        allow = (error.headers or {}).get("Allow", "")
        message = f"this route has no such method, but {allow}"
        return HttpError(405, message, _BAD_REQUEST, code="method_not_allowed", allow=allow)
    return HttpError(error.status_code, error.detail, _BAD_REQUEST)


def _deployment(error: DeploymentError) -> HttpError:
    if isinstance(error, UnknownModelError):
        return HttpError(404, str(error), _BAD_REQUEST, "model", "model_not_found")
    if isinstance(error, OptionError):
        return HttpError(400, str(error), _BAD_REQUEST, error.option, "invalid_value")
    if isinstance(error, OverloadedError):
        wait_s = error.retry_after_s
        return HttpError(429, str(error), "rate_limit_error", None, "overloaded", wait_s)
    if isinstance(error, DeadlineError):
        return HttpError(504, str(error), _SERVER, code="deadline_exceeded")
    if isinstance(error, StoppedError):
        # Not 503: proxies send such requests to another server.
        return HttpError(410, str(error), _SERVER, code="stopped")
    if isinstance(error, ChunkFailedError):
        return HttpError(500, str(error), _SERVER, code="chunk_failed")
    if isinstance(error, TierUnavailableError):
        return HttpError(503, str(error), _SERVER, "model", "unavailable", _RETRY_S)
    return HttpError(500, "internal error", _SERVER, code="internal_error")


def log_and_convert(error: Exception, request_id: str) -> HttpError:
    """Convert with `to_http_error`, and log internal errors."""
    answer = to_http_error(error)
    if answer.code == "internal_error":
        logger.error("request id=%s failed", request_id, exc_info=error)
    return answer


async def answer_error(request: Request, error: Exception) -> JSONResponse:
    """FastAPI's handler for every exception."""
    return log_and_convert(error, request.headers.get("x-request-id", "")).response()

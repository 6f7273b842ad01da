"""Errors that are told as events."""

from typing import Any

from serve.http.errors import HttpError


class RealtimeError(Exception):
    """A client's event is wrong. `code` and `param` are those of OpenAI's error object."""

    def __init__(self, message: str, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param

    @property
    def body(self) -> dict[str, Any]:
        return error_body(str(self), "invalid_request_error", self.code, self.param)


def error_body(
    message: str, kind: str, code: str | None, param: str | None = None
) -> dict[str, Any]:
    return {"type": kind, "code": code, "message": message, "param": param}


def body_of(error: HttpError) -> dict[str, Any]:
    """The error object of what would be an HTTP error elsewhere."""
    return error_body(error.message, error.type, error.code, error.param)

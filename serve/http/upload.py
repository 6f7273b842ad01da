"""Reads a request's body as it arrives: fields to memory, the file to disk, bounded."""

import asyncio
import os
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from typing import IO, BinaryIO, cast

from starlette.datastructures import UploadFile
from starlette.requests import Request

from serve.http.form import Form

_STALL_S = 60.0
"""Longest wait for the next bytes of a body."""
_OVERHEAD_BYTES = 4_000_000
"""How much fields, headers and boundaries may add to the file's size."""
_IN_MEMORY_BYTES = 1024 * 1024
"""Files up to this size are not written to disk."""


class NotMultipartError(Exception):
    """The body is not a multipart form."""


class UploadTimeoutError(Exception):
    """The client has stopped sending the body."""


class TooLargeError(Exception):
    """The body is larger than allowed."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"the upload is larger than {max_bytes} bytes")


@dataclass(frozen=True, slots=True)
class Upload:
    """Form fields in order, and the file, or None if there is none."""

    fields: list[tuple[str, str]]
    file: UploadFile | None

    def source(self) -> bytes | IO[bytes]:
        """The file as a source for `read_audio`: its bytes if it is small, else an open file."""
        assert self.file is not None
        spooled = self.file.file
        if self.file.size is not None and self.file.size <= _IN_MEMORY_BYTES:
            return spooled.read()
        return open(os.dup(spooled.fileno()), "rb", buffering=0)

    async def close(self) -> None:
        if self.file is not None:
            await self.file.close()


async def read_upload(request: Request, max_bytes: int) -> Upload:
    """Read a request's body.

    Args:
        max_bytes: of the file.

    Raises:
        NotMultipartError, MalformedBodyError, TooLargeError, UploadTimeoutError: see these classes.
        FieldError: a field is too long, is not text or is sent as a file, or there are two files.
        ClientDisconnect: the client went away.
    """
    if not is_form(request):
        raise NotMultipartError("the body must be multipart/form-data")
    content_type = request.headers["content-type"]
    _check_declared(request, max_bytes + _OVERHEAD_BYTES, max_bytes)
    file = UploadFile(cast(BinaryIO, SpooledTemporaryFile(_IN_MEMORY_BYTES)), size=0)
    try:
        form = Form(content_type, file)
        async for data in _bounded(request, max_bytes + _OVERHEAD_BYTES, max_bytes):
            await form.feed(data)
            if (file.size or 0) > max_bytes:
                raise TooLargeError(max_bytes)
        form.finish()
        await file.seek(0)
    except BaseException:
        await file.close()
        raise
    if not form.has_file:
        await file.close()
    return Upload(form.fields, file if form.has_file else None)


def is_form(request: Request) -> bool:
    """Whether the body says that it is a multipart form."""
    content_type = request.headers.get("content-type", "")
    return content_type.partition(";")[0].strip().lower() == "multipart/form-data"


async def read_raw_upload(request: Request, max_bytes: int) -> Upload:
    """Read a body that is the file itself, whatever its type is called; fields are the query's.

    Raises:
        TooLargeError, UploadTimeoutError: see these classes.
        ClientDisconnect: the client went away.
    """
    _check_declared(request, max_bytes, max_bytes)
    file = UploadFile(cast(BinaryIO, SpooledTemporaryFile(_IN_MEMORY_BYTES)), size=0)
    try:
        async for data in _bounded(request, max_bytes, max_bytes):
            await file.write(data)
        await file.seek(0)
    except BaseException:
        await file.close()
        raise
    return Upload(request.query_params.multi_items(), file)


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Read a small body to memory. Raises as `read_raw_upload`."""
    _check_declared(request, max_bytes, max_bytes)
    return b"".join([data async for data in _bounded(request, max_bytes, max_bytes)])


def _check_declared(request: Request, max_body_bytes: int, max_bytes: int) -> None:
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_body_bytes:
        raise TooLargeError(max_bytes)


async def _bounded(
    request: Request, max_body_bytes: int, max_bytes: int
) -> AsyncGenerator[bytes, None]:
    n_bytes = 0
    stream = request.stream()
    while True:
        try:
            async with asyncio.timeout(_STALL_S):
                data = await anext(stream, None)
        except TimeoutError as error:
            raise UploadTimeoutError(f"no more of the body came for {_STALL_S:g} s") from error
        if data is None:
            return
        n_bytes += len(data)
        if n_bytes > max_body_bytes:
            raise TooLargeError(max_bytes)
        yield data

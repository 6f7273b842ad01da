"""Reads a request's body as it arrives: fields to memory, the file to disk, bounded."""

import errno
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from typing import IO, BinaryIO, cast

from starlette.datastructures import UploadFile
from starlette.requests import Request

from serve.http.form import Form
from serve.http.receiving import Receiving, Reception

_STALL_S = 60.0
"""Longest wait for the next bytes of a body."""
_OVERHEAD_BYTES = 4_000_000
"""How much fields, headers and boundaries may add to the file's size."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_IN_MEMORY_BYTES = 1024 * 1024
"""Files up to this size are not written to disk."""


class NotMultipartError(Exception):
    """The body is not a multipart form."""


class TooLargeError(Exception):
    """The body is larger than allowed."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"the upload is larger than {max_bytes / 1e6:g} MB")


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


ReadUpload = Callable[[Request, int, Reception, Receiving], Awaitable[Upload]]
"""Reads a body whose file has so many bytes at most: `read_upload` and its like."""


class StorageFullError(Exception):
    """This machine has no room for the upload."""


def declared_bytes(request: Request) -> int:
    """The length of a request's body, by its headers; 0: unknown."""
    declared = request.headers.get("content-length", "")
    return int(declared) if declared.isdigit() else 0


async def read_upload(
    request: Request, max_bytes: int, reception: Reception, upload: Receiving
) -> Upload:
    """Read a request's body.

    Args:
        max_bytes: of the file.
        reception: where the upload is counted.

    Raises:
        NotMultipartError, MalformedBodyError, TooLargeError, UploadTimeoutError, StorageFullError:
            see these classes.
        OverloadedError: the length was not declared, and there is no more room for it.
        FieldError: a field is too long, is not text or is sent as a file, or there are two files.
        ClientDisconnect: the client went away.
    """
    if not is_form(request):
        raise NotMultipartError("the body must be multipart/form-data")
    content_type = request.headers["content-type"]
    _check_declared(request, max_bytes + _OVERHEAD_BYTES, max_bytes)
    file = UploadFile(cast(BinaryIO, SpooledTemporaryFile(_IN_MEMORY_BYTES)), size=0)
    async with _kept(file):
        form = Form(content_type, file)
        body = _bounded(request, max_bytes + _OVERHEAD_BYTES, max_bytes, reception, upload)
        async for data in body:
            await form.feed(data)
            if (file.size or 0) > max_bytes:
                raise TooLargeError(max_bytes)
        form.finish()
        await file.seek(0)
    if not form.has_file:
        await file.close()
    return Upload(form.fields, file if form.has_file else None)


def is_form(request: Request) -> bool:
    """Whether the body says that it is a multipart form."""
    content_type = request.headers.get("content-type", "")
    return content_type.partition(";")[0].strip().lower() == "multipart/form-data"


async def read_raw_upload(
    request: Request, max_bytes: int, reception: Reception, upload: Receiving
) -> Upload:
    """Read a body that is the file itself, whatever its type is called; fields are the query's.
    Raises as `read_upload`, but for what only a form can have."""
    _check_declared(request, max_bytes, max_bytes)
    file = UploadFile(cast(BinaryIO, SpooledTemporaryFile(_IN_MEMORY_BYTES)), size=0)
    async with _kept(file):
        async for data in _bounded(request, max_bytes, max_bytes, reception, upload):
            await file.write(data)
        await file.seek(0)
    return Upload(request.query_params.multi_items(), file)


async def read_body(
    request: Request, max_bytes: int, reception: Reception, upload: Receiving
) -> bytes:
    """Read a small body to memory. Raises as `read_raw_upload`."""
    _check_declared(request, max_bytes, max_bytes)
    body = _bounded(request, max_bytes, max_bytes, reception, upload)
    return b"".join([data async for data in body])


def _check_declared(request: Request, max_body_bytes: int, max_bytes: int) -> None:
    if declared_bytes(request) > max_body_bytes:
        raise TooLargeError(max_bytes)


@asynccontextmanager
async def _kept(file: UploadFile) -> AsyncIterator[None]:
    """Keep a file if it could be filled within this context, else close it.

    Raises:
        StorageFullError: the disk has no room for it.
    """
    try:
        yield
    except BaseException as error:
        with suppress(OSError):  # closing writes what is left, to the disk that is full
            await file.close()
        if isinstance(error, OSError) and error.errno in _FULL:
            raise StorageFullError("the server has no room for the upload now") from error
        raise


async def _bounded(
    request: Request, max_body_bytes: int, max_bytes: int, reception: Reception, upload: Receiving
) -> AsyncGenerator[bytes, None]:
    stream = request.stream()
    while True:
        async with upload.wait(_STALL_S):
            data = await anext(stream, None)
        if data is None:
            return
        reception.add(upload, len(data))
        if upload.n_bytes > max_body_bytes:
            raise TooLargeError(max_bytes)
        yield data

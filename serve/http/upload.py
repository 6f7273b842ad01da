"""A request's multipart body: fields in memory, the file on disk as it comes, both bounded."""

import asyncio
import os
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import IO

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

_MAX_FIELDS = 64
_MAX_FIELD_BYTES = 64 * 1024
_STALL_S = 60.0
"""Longest wait for more of a body."""
_OVERHEAD_BYTES = 1_000_000
"""What fields and boundaries may add to the file."""


class NotMultipartError(Exception):
    """The body is no multipart form."""


class MalformedBodyError(Exception):
    """It says that it is one, and is not. The message is fit to be shown."""


class UploadTimeoutError(Exception):
    """The caller does not go on with the body."""


class TooLargeError(Exception):
    """The body is larger than allowed."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"the upload is larger than {max_bytes} bytes")


@dataclass(frozen=True, slots=True)
class Upload:
    """Form fields in order, and the file; None where there is none."""

    fields: list[tuple[str, str]]
    file: UploadFile | None

    def source(self) -> bytes | IO[bytes]:
        """What was uploaded, for `read_audio`: in memory if it is small, else an open file."""
        assert self.file is not None
        spooled = self.file.file
        if self.file.size is not None and self.file.size <= MultiPartParser.spool_max_size:
            return spooled.read()
        return open(os.dup(spooled.fileno()), "rb", buffering=0)

    async def close(self) -> None:
        if self.file is not None:
            await self.file.close()


async def read_upload(request: Request, max_bytes: int) -> Upload:
    """Read a body.

    Raises:
        NotMultipartError, MalformedBodyError, TooLargeError, UploadTimeoutError: see there.
        ClientDisconnect: the caller went away.
    """
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "multipart/form-data":
        raise NotMultipartError("the body must be multipart/form-data")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes + _OVERHEAD_BYTES:
        raise TooLargeError(max_bytes)
    parser = MultiPartParser(
        request.headers,
        _bounded(request, max_bytes + _OVERHEAD_BYTES, max_bytes),
        max_files=1,
        max_fields=_MAX_FIELDS,
        max_part_size=_MAX_FIELD_BYTES,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise MalformedBodyError(f"malformed multipart body: {error.message}") from error
    except UnicodeError as error:
        raise MalformedBodyError("malformed multipart body: unknown characters") from error
    fields = [(name, value) for name, value in form.multi_items() if isinstance(value, str)]
    files = [(name, value) for name, value in form.multi_items() if isinstance(value, UploadFile)]
    upload = Upload(fields, files[0][1] if files else None)
    if files and files[0][0] != "file":
        await upload.close()
        raise MalformedBodyError(f"unexpected file in the field {files[0][0]!r}")
    if upload.file is not None and (upload.file.size or 0) > max_bytes:
        await upload.close()
        raise TooLargeError(max_bytes)
    return upload


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

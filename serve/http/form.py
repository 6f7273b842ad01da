"""Parses a multipart form as it arrives: fields go to memory, the file to disk, both bounded."""

import codecs
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.datastructures import UploadFile

from serve.http.fields import FieldError
from serve.http.line_ends import CrlfBody

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FILE = "file"
MAX_PARTS = 8192
MAX_FIELD_BYTES = 64 * 1024
MAX_FIELDS_BYTES = 1_000_000
"""Limit for all fields together."""
_CHARSETS = ("utf-8", "ascii", "iso8859-1", "cp1252")


class MalformedBodyError(Exception):
    """The body claims to be a multipart form but is invalid. The client sees the message."""


class Form:
    """Parses a body as it arrives.

    The part named `file` is the file, whatever its headers say: some clients send no file name,
    or send it as `filename*`, which RFC 7578 forbids. All other parts are fields. The first faulty
    part is reported at the end of the body, because clients read no answer before; until then the
    data of faulty parts is discarded.

    Args:
        content_type: the request's `Content-Type` header.
        sink: receives the file's bytes.

    Attributes:
        fields: names and values of the fields so far, in order.
        has_file: whether a part named `file` has begun.

    Raises:
        MalformedBodyError: the content type has no valid boundary.
    """

    def __init__(self, content_type: str, sink: UploadFile) -> None:
        options = parse_options_header(content_type)[1]
        boundary = options.get(b"boundary")
        if not boundary:
            raise MalformedBodyError("the content type names no boundary")
        self.fields: list[tuple[str, str]] = []
        self.has_file = False
        self._charset = options.get(b"charset", b"utf-8").decode("latin-1")
        self._sink = sink
        self._lines = CrlfBody(boundary)
        self._fault: FieldError | None = None
        self._ended = False
        self._n_parts = 0
        self._fields_bytes = 0
        self._header = self._value = b""
        self._headers: dict[bytes, bytes] = {}
        self._name = ""
        self._data = bytearray()
        self._of_file: list[bytes] = []
        self._ignored = False
        try:
            self._parser = MultipartParser(boundary, self._callbacks())
        except FormParserError as error:
            raise MalformedBodyError(f"malformed multipart body: {error}") from error

    async def feed(self, data: bytes) -> None:
        """Parse the next bytes of the body.

        Raises:
            MalformedBodyError: the body is not a valid form.
        """
        if self._ended:  # bytes after the last boundary belong to no part
            return
        try:
            self._parser.write(self._lines.feed(data))
        except FormParserError as error:
            raise MalformedBodyError(f"malformed multipart body: {error}") from error
        for part in self._of_file:
            await self._sink.write(part)
        self._of_file.clear()

    def finish(self) -> None:
        """Check the form at the end of the body.

        Raises:
            MalformedBodyError: the body has no boundary, or ends before its last boundary.
            FieldError: the first faulty part.
        """
        if not self._lines.began:
            raise MalformedBodyError("the body does not have the boundary of its content type")
        if not self._ended:
            raise MalformedBodyError("the body ends before its last boundary: it was cut off")
        if self._fault is not None:
            raise self._fault

    def _callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._part_begins,
            "on_header_field": self._header_name_goes_on,
            "on_header_value": self._header_value_goes_on,
            "on_header_end": self._header_ends,
            "on_headers_finished": self._headers_end,
            "on_part_data": self._data_goes_on,
            "on_part_end": self._part_ends,
            "on_end": self._form_ends,
        }

    def _part_begins(self) -> None:
        self._n_parts += 1
        if self._n_parts > MAX_PARTS:
            raise MalformedBodyError(f"the form has more than {MAX_PARTS} parts")
        self._headers = {}
        self._data = bytearray()
        self._ignored = False

    def _header_name_goes_on(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value_goes_on(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_ends(self) -> None:
        self._headers[self._header.lower()] = self._value
        self._header = self._value = b""

    def _headers_end(self) -> None:
        disposition = self._headers.get(b"content-disposition", b"")
        options = parse_options_header(disposition)[1]
        if b"name" not in options:
            raise MalformedBodyError("malformed multipart body: a part has no name")
        self._name = name = options[b"name"].decode("utf-8", "replace")
        encoding = self._headers.get(b"content-transfer-encoding", b"binary").strip().lower()
        if encoding not in (b"binary", b"8bit", b"7bit"):
            what = encoding[:40].decode("latin-1")
            self._refuse(f"{name} must be sent as it is, not in content-transfer-encoding {what}")
        if name == FILE:
            if self.has_file:
                self._refuse("file is given twice")
            self.has_file = True
        elif b"filename" in disposition.lower():
            self._refuse(f"{name} must be a field, not a file: the audio is the part called file")

    def _data_goes_on(self, data: bytes, start: int, end: int) -> None:
        if self._ignored:
            return
        if self._name == FILE:
            self._of_file.append(data[start:end])
            return
        self._data += data[start:end]
        self._fields_bytes += end - start
        if len(self._data) > MAX_FIELD_BYTES:
            self._refuse(f"{self._name} is longer than {MAX_FIELD_BYTES} bytes")
        elif self._fields_bytes > MAX_FIELDS_BYTES:
            self._refuse(f"with {self._name} the fields have more than {MAX_FIELDS_BYTES} bytes")

    def _part_ends(self) -> None:
        if self._ignored or self._name == FILE:
            return
        kind = parse_options_header(self._headers.get(b"content-type"))[1]
        charset = kind.get(b"charset", self._charset.encode("latin-1")).decode("latin-1")
        try:
            if codecs.lookup(charset).name not in _CHARSETS:
                raise LookupError
            self.fields.append((self._name, self._data.decode(charset)))
        except LookupError:
            self._refuse(f"{self._name} is in an unsupported charset: send UTF-8")
        except UnicodeDecodeError:
            self._refuse(f"{self._name} is not valid {charset}")

    def _form_ends(self) -> None:
        self._ended = True

    def _refuse(self, reason: str) -> None:
        self._ignored = True
        self._data = bytearray()
        self._fault = self._fault or FieldError(reason, self._name)

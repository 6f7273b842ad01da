"""Normalizes multipart bodies that some clients write, so that a strict parser can read them."""

_MAX_PADDING = 256
"""Most blanks that may follow a boundary on its line."""
_MAX_HEADER_BYTES = 64 * 1024


class CrlfBody:
    """Takes a multipart body as it arrives and returns it from its first boundary on, with CRLF at
    the end of boundary and header lines.

    python-multipart requires both. But RFC 2046 (5.1.1) allows a preamble before the first
    boundary, and self-written clients end lines with LF alone. The first boundary's line shows
    whether a client does; if not, the rest of the body passes unchanged. The data of parts is never
    changed.

    Args:
        boundary: from the content type.
    """

    def __init__(self, boundary: bytes) -> None:
        self._line = b"--" + boundary
        self._held = b"\n"  # a body starts at the beginning of a line
        self._step = self._preamble

    @property
    def began(self) -> bool:
        """Whether the first boundary has been found."""
        return self._step != self._preamble

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes; returns what of the body can be passed on so far."""
        self._held += data
        parts = []
        while (part := self._step()) is not None:
            parts.append(part)
        return b"".join(parts)

    # Each step consumes some held bytes and returns what to pass on, or None if it needs more.

    def _preamble(self) -> bytes | None:
        mark = b"\n" + self._line
        start = self._held.find(mark)
        if start < 0:
            self._held = self._held[1 - len(mark) :]
            return None
        return self._boundary(start, b"", b"")

    def _pass(self) -> bytes | None:
        data, self._held = self._held, b""
        return data or None

    def _headers(self) -> bytes | None:
        line, found, rest = self._held.partition(b"\n")
        if not found:
            if len(self._held) > _MAX_HEADER_BYTES:
                self._step = self._pass  # the parser will refuse it
            return None
        self._held = rest
        line = line.removesuffix(b"\r")
        if not line:
            self._step = self._data
        return line + b"\r\n"

    def _data(self) -> bytes | None:
        mark = b"\n" + self._line
        start = self._held.find(mark)
        if start == 0:
            return self._boundary(0, mark, b"\r\n")
        if start < 0:
            start = max(0, len(self._held) - len(mark) + 1)
        data, self._held = self._held[:start], self._held[start:]
        return data or None

    def _boundary(self, start: int, otherwise: bytes, before: bytes) -> bytes | None:
        """Handle what may be a boundary's line.

        Args:
            start: index in the held bytes of the line break before it.
            otherwise: what to return if the line goes on and so is no boundary.
            before: what to return before the boundary if it is one.
        """
        rest = self._held[start + 1 + len(self._line) :]
        after, found, behind = rest.partition(b"\n")
        if after.startswith(b"--"):
            self._step, self._held = self._pass, rest[2:]
            return before + self._line + b"--"
        if after.strip(b" \t\r") not in (b"", b"-") or len(after) > _MAX_PADDING:
            self._held = rest
            return otherwise
        if not found:
            self._held = self._held[start:]
            return None
        if after.strip():  # a single dash
            self._held = rest
            return otherwise
        if self._step == self._preamble and after.endswith(b"\r"):
            self._step = self._pass
        else:
            self._step = self._headers
        self._held = behind
        return before + self._line + b"\r\n"

"""Multipart bodies as some clients write them, made into what a strict parser reads."""

_MAX_PADDING = 256
"""Blanks that may stand behind a boundary on its line."""
_MAX_HEADER_BYTES = 64 * 1024


class CrlfBody:
    """Takes a multipart body as it comes, and gives it from its first boundary on, with lines of
    boundaries and headers ended by CRLF.

    python-multipart wants both. But what stands before the first boundary is no part (RFC 2046,
    5.1.1), and clients of one's own making end lines by LF alone. Of these the first boundary's
    line tells; other bodies go through as they are. Parts' data is never changed.

    Args:
        boundary: as the content type has it.
    """

    def __init__(self, boundary: bytes) -> None:
        self._line = b"--" + boundary
        self._held = b"\n"  # a body begins at the beginning of a line
        self._step = self._preamble

    @property
    def began(self) -> bool:
        """Whether there was a boundary."""
        return self._step != self._preamble

    def feed(self, data: bytes) -> bytes:
        """What can be said of the body so far."""
        self._held += data
        parts = []
        while (part := self._step()) is not None:
            parts.append(part)
        return b"".join(parts)

    # Each step takes something from what is held, and gives what it becomes; None: more is needed.

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
                self._step = self._pass  # to be refused
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
        """What may be a boundary's line.

        Args:
            start: where it begins in what is held, with the line break before it.
            otherwise: what it is if it goes on.
            before: what stands before it, if it does not.
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

"""The page's files as a browser gets them: compressed once, checked by ETag, under a strict policy.

The page asks nothing of another host: no script, style, font or picture. It is public; the routes
that it calls check the API key.
"""

import gzip
import hashlib
import secrets
from dataclasses import dataclass
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

STATIC = Path(__file__).parent / "static"
_INDEX = "index.html"
_NONCE = "{nonce}"
"""Stands in the index where each answer has its own number."""
_LIVE = "{live}"
"""Stands where the index says whether there is live speech: on or off."""
_MEDIA_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".mp3": "audio/mpeg",
    ".svg": "image/svg+xml",
}
_PACKED = (".css", ".html", ".js", ".svg")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'nonce-{nonce}'; img-src 'self'; "
    "media-src 'self' blob:; connect-src 'self'; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = {
    # Files are asked for again each time, and sent only if they are others.
    "cache-control": "no-cache",
    "vary": "accept-encoding",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


@dataclass(frozen=True, slots=True)
class _File:
    """A file's bytes as they are and compressed, the latter None where it gains nothing."""

    body: bytes
    packed: bytes | None
    media_type: str

    @property
    def etag(self) -> str:
        return f'"{hashlib.sha256(self.body).hexdigest()[:20]}"'


class Page:
    """All files, read once.

    Raises:
        FileNotFoundError: the package was installed without them.
    """

    def __init__(self) -> None:
        self._files = {
            path.relative_to(STATIC).as_posix(): _read(path)
            for path in sorted(STATIC.rglob("*"))
            if path.suffix in _MEDIA_TYPES
        }
        if _INDEX not in self._files:
            raise FileNotFoundError(STATIC / _INDEX)
        self._index = self._files.pop(_INDEX).body.decode("utf-8")

    @property
    def paths(self) -> tuple[str, ...]:
        """Paths of the files beside the index."""
        return tuple(self._files)

    def index(self, request: Request, has_live: bool) -> Response:
        """The page itself, with a number of its own for the styles that the waveform adds.

        Args:
            has_live: whether the view of live speech is there.
        """
        nonce = secrets.token_urlsafe(16)
        text = self._index.replace(_NONCE, nonce).replace(_LIVE, "on" if has_live else "off")
        body = text.encode("utf-8")
        packed = gzip.compress(body, mtime=0)
        headers = {
            "content-security-policy": _POLICY.replace(_NONCE, nonce),
            "permissions-policy": "microphone=(self), camera=(), geolocation=()",
            "cross-origin-opener-policy": "same-origin",
        }
        return _answer(request, _File(body, packed, "text/html"), headers)

    def file(self, request: Request, path: str) -> Response:
        """A file that the page needs.

        Raises:
            HTTPException: there is no such file.
        """
        found = self._files.get(path)
        if found is None:
            raise HTTPException(404)
        headers = {"etag": found.etag}
        if request.headers.get("if-none-match") == found.etag:
            return Response(status_code=304, headers=_HEADERS | headers)
        return _answer(request, found, headers)


def _answer(request: Request, file: _File, headers: dict[str, str]) -> Response:
    body, headers = file.body, _HEADERS | headers
    if file.packed is not None and "gzip" in request.headers.get("accept-encoding", ""):
        body, headers = file.packed, headers | {"content-encoding": "gzip"}
    return Response(body, media_type=file.media_type, headers=headers)


def _read(path: Path) -> _File:
    body = path.read_bytes()
    packed = gzip.compress(body, mtime=0) if path.suffix in _PACKED else None
    return _File(body, packed, _MEDIA_TYPES[path.suffix])

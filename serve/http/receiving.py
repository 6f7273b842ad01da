"""Limits how many uploads, and how many bytes of them, are under way at once.

An upload under way is no work yet. Callers that send slowly, or not at all, would otherwise hold
the room of requests. Where a proxy reads bodies ahead into memory, however fast the application
reads them, what uploads may send is limited before they send it (`serve.http.read_ahead`).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from deployments.errors import OverloadedError

_GRACE_S = 2.0
"""An upload younger than this is not slow. It is short because what a client sends in this time by
any network is more than the slowest rate that is let be."""
_BURST = 2
"""So many times its limit a caller may have of uploads, for as long as it cannot be told which are
slow: it may be many clients behind one address, and the slow ones among them came first."""
_MAX_IN_MEMORY_BYTES = 1e9
"""Of all uploads at an ingress that a proxy reads ahead. A single upload may be larger."""
_RETRY_S = 1.0
"""Uploads end soon, and a caller that waits longer leaves room unused."""


class UploadTimeoutError(Exception):
    """The client has stopped sending the body, or sends it too slowly while others wait."""


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """Limits of one ingress.

    Args:
        max_uploads: uploads under way.
        max_uploads_per_caller: those with one key, or without keys from one address. Those in their
            first 2 s do not count, up to twice as many in all.
        max_bytes: of all of them on the disk, as declared or as far as they have come. A single
            upload may be larger if it is alone.
        min_bytes_per_s: an upload that is slower may be ended for the sake of others.
    """

    max_uploads: int
    max_uploads_per_caller: int
    max_bytes: float
    min_bytes_per_s: float


class Receiving:
    """One upload under way.

    Attributes:
        n_bytes: what has come so far.
    """

    def __init__(self, declared: int, caller: str, began: float, read_ahead: bool) -> None:
        self.declared = declared
        self.caller = caller
        self.began = began
        self.read_ahead = read_ahead
        self.n_bytes = 0
        self._waiting: asyncio.Timeout | None = None
        self._ended = False

    @property
    def held_bytes(self) -> int:
        """What it may take of the disk, or of memory where it is read ahead."""
        return max(self.declared, self.n_bytes)

    def rate(self, now: float) -> float:
        """Bytes per second, on average."""
        return self.n_bytes / max(now - self.began, 1e-9)

    @asynccontextmanager
    async def wait(self, stall_s: float) -> AsyncIterator[None]:
        """Limit the wait for the next bytes.

        Raises:
            UploadTimeoutError: none came for `stall_s`, or the upload was ended.
        """
        try:
            async with asyncio.timeout(0 if self._ended else stall_s) as self._waiting:
                yield
        except TimeoutError as error:
            if self._ended:
                words = "the upload was too slow, and others wait: send it again, faster"
                raise UploadTimeoutError(words) from error
            raise UploadTimeoutError(f"no more of the body came for {stall_s:g} s") from error
        finally:
            self._waiting = None

    def end(self) -> None:
        """Let it fail at its next wait, or in the present one."""
        self._ended = True
        if self._waiting is not None:
            self._waiting.reschedule(asyncio.get_running_loop().time())


class Reception:
    """All uploads under way at an ingress.

    Args:
        clock: a rising clock, in seconds.

    Attributes:
        limits: may be set at any time; uploads under way go on.
    """

    def __init__(self, limits: UploadLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self._clock = clock
        self._uploads: set[Receiving] = set()

    @contextmanager
    def receive(self, declared: int, caller: str, read_ahead: bool = False) -> Iterator[Receiving]:
        """Count an upload within a `with` block. If there are too many, the oldest of those that
        are slow is ended for it.

        Args:
            declared: bytes of the body, by its headers; 0: unknown.
            caller: whose upload it is.
            read_ahead: whether a proxy reads it ahead into memory.

        Raises:
            OverloadedError: there are too many uploads, or too many bytes.
        """
        upload = Receiving(declared, caller, self._clock(), read_ahead)
        self._make_room(caller)
        self._check_bytes(upload)
        self._uploads.add(upload)
        try:
            yield upload
        finally:
            self._uploads.discard(upload)

    def add(self, upload: Receiving, n_bytes: int) -> None:
        """Count bytes that have come.

        Raises:
            OverloadedError: its length was not declared, and there is no more room for it.
        """
        upload.n_bytes += n_bytes
        if upload.n_bytes > upload.declared:
            self._check_bytes(upload)

    def _make_room(self, caller: str) -> None:
        limits = self.limits
        theirs = [upload for upload in self._uploads if upload.caller == caller]
        n_known = sum(not self._is_young(upload) for upload in theirs)
        too_many = n_known >= limits.max_uploads_per_caller
        if too_many or len(theirs) >= _BURST * limits.max_uploads_per_caller:
            if not self._end_slow(caller):
                raise self._overloaded(f"{len(theirs)} uploads of yours are under way")
        elif len(self._uploads) >= limits.max_uploads:
            if not self._end_slow(None):
                raise self._overloaded(f"{len(self._uploads)} uploads are under way")

    def _check_bytes(self, upload: Receiving) -> None:
        """Check that there is room for an upload beside all others."""
        others = self._uploads - {upload}
        self._check_sum(upload, others, self.limits.max_bytes)
        if upload.read_ahead:
            ahead = {other for other in others if other.read_ahead}
            self._check_sum(upload, ahead, _MAX_IN_MEMORY_BYTES)

    def _check_sum(self, upload: Receiving, others: set[Receiving], max_bytes: float) -> None:
        held = sum(other.held_bytes for other in others)
        if held and held + upload.held_bytes > max_bytes:
            raise self._overloaded(f"{held:,} bytes of uploads are under way")

    def _end_slow(self, caller: str | None) -> bool:
        """End the oldest slow upload, of a caller or of anybody; returns whether there is one."""
        now = self._clock()
        slow = [
            upload
            for upload in self._uploads
            if (caller is None or upload.caller == caller)
            and not self._is_young(upload)
            and upload.rate(now) < self.limits.min_bytes_per_s
        ]
        if not slow:
            return False
        oldest = min(slow, key=lambda upload: upload.began)
        self._uploads.discard(oldest)
        oldest.end()
        return True

    def _is_young(self, upload: Receiving) -> bool:
        return self._clock() - upload.began < _GRACE_S

    def _overloaded(self, reason: str) -> OverloadedError:
        return OverloadedError(f"overloaded: {reason}; try again later", _RETRY_S)

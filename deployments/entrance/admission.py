"""Limits how much work an ingress accepts, in requests and in seconds of audio.

Refusing early keeps the cluster responsive under overload. Therefore these checks are cheap: a
request is refused before its body is read, or as soon as the length of its audio is known.
"""

import threading
import time
from collections import deque
from collections.abc import Callable

from deployments.errors import OverloadedError

_RATE_WINDOW_S = 60.0
_MIN_RETRY_S, _MAX_RETRY_S = 1.0, 60.0


class Ticket:
    """One admitted request's share of the queue, in seconds of audio.

    Close a ticket when its request ends, or use it as a context manager.

    Attributes:
        tier: the tier in whose queue the request is; empty until it is known.
        declared_s: length of the audio, if it is known before all of the audio is read; else 0.
        queued_s: seconds of this audio that count as queued.
        done_s: seconds of this audio whose text is final.
    """

    def __init__(self, admission: "Admission", tier: str) -> None:
        self._admission = admission
        self.tier = tier
        self.declared_s = 0.0
        self.queued_s = 0.0
        self.done_s = 0.0

    def __enter__(self) -> "Ticket":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the share back. May be called more than once."""
        self._admission.leave(self)

    def declare(self, duration_s: float) -> None:
        """Reserve room for the whole audio, once its length is known.

        Raises:
            OverloadedError: there is not enough room, given what other requests have queued.
        """
        self._admission.reserve(self, duration_s)
        self.declared_s = duration_s

    def update(self, read_s: float, unfinished_s: float) -> None:
        """Report how much of the audio was read, and how much of that is not transcribed yet."""
        self.done_s = max(0.0, read_s - unfinished_s)
        self._admission.update(self, max(0.0, self.declared_s - read_s) + unfinished_s)


class Admission:
    """Counts the admitted requests and their audio. Safe to use from any thread.

    Args:
        max_requests: requests at once.
        max_queued_audio_s: seconds of audio accepted and not transcribed yet. A single file that is
            longer than this is still accepted when nothing else is queued; the length of a file has
            a limit of its own.
        clock: a rising clock, in seconds.
    """

    def __init__(
        self,
        max_requests: int,
        max_queued_audio_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_requests = max_requests
        self._max_queued_s = max_queued_audio_s
        self._clock = clock
        self._lock = threading.Lock()
        self._tickets: set[Ticket] = set()
        self._finished: deque[tuple[float, float]] = deque()

    def configure(self, max_requests: int, max_queued_audio_s: float) -> None:
        """Take other limits. What is admitted already stays."""
        with self._lock:
            self._max_requests, self._max_queued_s = max_requests, max_queued_audio_s

    def queued_s(self, tier: str) -> float:
        """Seconds of audio that wait for a tier or that it is decoding."""
        with self._lock:
            return sum(ticket.queued_s for ticket in self._tickets if ticket.tier == tier)

    def check(self) -> None:
        """Check that a request could be admitted now.

        Raises:
            OverloadedError: too much is queued.
        """
        with self._lock:
            self._check()

    def admit(self, tier: str = "") -> Ticket:
        """Count a request until its ticket is closed.

        Raises:
            OverloadedError: too much is queued.
        """
        ticket = Ticket(self, tier)
        with self._lock:
            self._check()
            self._tickets.add(ticket)
        return ticket

    def leave(self, ticket: Ticket) -> None:
        with self._lock:
            self._tickets.discard(ticket)

    def reserve(self, ticket: Ticket, duration_s: float) -> None:
        with self._lock:
            others_s = self._queued_s() - ticket.queued_s
            if others_s > 0 and others_s + duration_s > self._max_queued_s:
                raise self._overloaded(f"{others_s:.0f} s of audio are queued")
            ticket.queued_s = duration_s

    def update(self, ticket: Ticket, queued_s: float) -> None:
        with self._lock:
            if queued_s < ticket.queued_s:
                self._finished.append((self._clock(), ticket.queued_s - queued_s))
            ticket.queued_s = queued_s
            self._forget_old()

    def _check(self) -> None:
        if len(self._tickets) >= self._max_requests:
            raise self._overloaded(f"{len(self._tickets)} requests are being served")
        if (queued_s := self._queued_s()) >= self._max_queued_s:
            raise self._overloaded(f"{queued_s:.0f} s of audio are queued")

    def _queued_s(self) -> float:
        return sum(ticket.queued_s for ticket in self._tickets)

    def _overloaded(self, reason: str) -> OverloadedError:
        """The error to raise. Its `retry_after_s` is the time that a tenth of `max_queued_audio_s`
        takes at the present speed, within bounds."""
        self._forget_old()
        rate = sum(seconds for _, seconds in self._finished) / _RATE_WINDOW_S
        wanted_s = self._max_queued_s / 10
        wait_s = wanted_s / rate if rate else _MAX_RETRY_S
        retry_after_s = min(max(wait_s, _MIN_RETRY_S), _MAX_RETRY_S)
        return OverloadedError(f"overloaded: {reason}; try again later", retry_after_s)

    def _forget_old(self) -> None:
        horizon = self._clock() - _RATE_WINDOW_S
        while self._finished and self._finished[0][0] < horizon:
            self._finished.popleft()

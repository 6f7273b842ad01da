"""Rates of arriving audio: the mean over the last half minute, and the time since the last one."""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

_Kind = TypeVar("_Kind", bound=Hashable)

RATE_WINDOW_S = 30.0
_SHORTEST_S = 10.0


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Arriving audio of one kind: seconds of audio per second, and seconds since any came."""

    rate: float
    idle_s: float


class ArrivalRates(Generic[_Kind]):
    """Mean rate of arriving audio over the last half minute, by kind, in seconds per second.

    Older audio is dropped at once. In a decaying mean, a small remainder would keep a replica alive
    for minutes.
    """

    def __init__(self) -> None:
        self._window: deque[tuple[float, dict[_Kind, float]]] = deque()
        self._arrived_s: dict[_Kind, float] = {}
        self._began: float | None = None

    def add(self, kind: _Kind, audio_s: float) -> None:
        self._arrived_s[kind] = self._arrived_s.get(kind, 0.0) + audio_s

    def at(self, now: float) -> dict[_Kind, Arrivals]:
        """The current rates. Audio added since the last call counts as having arrived at `now`.
        Call this about once a second."""
        if self._began is None:
            self._began = now - 1.0
        self._window.append((now, self._arrived_s))
        self._arrived_s = {}
        while self._window[0][0] <= now - RATE_WINDOW_S:
            self._window.popleft()
        # In the first half minute, average over the elapsed time, but over at least `_SHORTEST_S`:
        # otherwise a single file in the first seconds would look like a very high rate.
        took_s = min(RATE_WINDOW_S, max(now - self._began, _SHORTEST_S))
        totals: dict[_Kind, float] = {}
        came: dict[_Kind, float] = {}
        for at, arrived in self._window:
            for kind, audio_s in arrived.items():
                totals[kind] = totals.get(kind, 0.0) + audio_s
                came[kind] = at
        return {kind: Arrivals(total / took_s, now - came[kind]) for kind, total in totals.items()}

"""Audio that arrives, as a mean rate of the last half minute and by when the last of it came."""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

_Kind = TypeVar("_Kind", bound=Hashable)

RATE_WINDOW_S = 30.0
_SHORTEST_S = 10.0


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Audio of one kind: seconds a second, and seconds since any came."""

    rate: float
    idle_s: float


class ArrivalRates(Generic[_Kind]):
    """Seconds of audio a second that arrive, by kind, over the last half minute. What is older is
    forgotten at once: of a mean that fades, a trace would keep a replica for minutes."""

    def __init__(self) -> None:
        self._window: deque[tuple[float, dict[_Kind, float]]] = deque()
        self._arrived_s: dict[_Kind, float] = {}
        self._began: float | None = None

    def add(self, kind: _Kind, audio_s: float) -> None:
        self._arrived_s[kind] = self._arrived_s.get(kind, 0.0) + audio_s

    def at(self, now: float) -> dict[_Kind, Arrivals]:
        """What arrives; what was added since the last call came just now. To be called every second
        or so."""
        if self._began is None:
            self._began = now - 1.0
        self._window.append((now, self._arrived_s))
        self._arrived_s = {}
        while self._window[0][0] <= now - RATE_WINDOW_S:
            self._window.popleft()
        # In the first half minute, of the time that there was. Of the first seconds alone one file
        # would be a flood.
        took_s = min(RATE_WINDOW_S, max(now - self._began, _SHORTEST_S))
        totals: dict[_Kind, float] = {}
        came: dict[_Kind, float] = {}
        for at, arrived in self._window:
            for kind, audio_s in arrived.items():
                totals[kind] = totals.get(kind, 0.0) + audio_s
                came[kind] = at
        return {kind: Arrivals(total / took_s, now - came[kind]) for kind, total in totals.items()}

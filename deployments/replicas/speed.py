"""How much audio a replica gets done when it has all it can do."""

_FULL = 0.75
"""Share of the slots that are in use while there is as much to do as can be done."""
_WINDOW_S = 5.0
_SHARE = 0.3
"""Of a new measurement in the mean."""


class SpeedMeter:
    """Measures seconds of audio a second, while a replica is full; what it does when it has less to
    do says nothing of what it could do.

    Args:
        slots: of the replica.
    """

    def __init__(self, slots: int) -> None:
        self.rtfx: float | None = None
        """A running mean; None until the replica was full for some seconds."""
        self._slots = slots
        self._audio_s = 0.0
        self._n_done = 0
        self._began_s: float | None = None

    def add(self, audio_s: float) -> None:
        """A chunk was done."""
        self._audio_s += audio_s
        self._n_done += 1

    def tick(self, n_running: int, n_waiting: int, now_s: float) -> None:
        """To be called every second or so."""
        if not n_waiting and n_running < _FULL * self._slots:
            self._began_s = None
            return
        if self._began_s is None:
            self._begin(now_s)
            return
        took_s = now_s - self._began_s
        # Chunks that end together are work of more than the seconds in which they end.
        if took_s >= _WINDOW_S and self._n_done >= self._slots:
            measured = self._audio_s / took_s
            self._begin(now_s)
            before = measured if self.rtfx is None else self.rtfx
            self.rtfx = before + _SHARE * (measured - before)

    def _begin(self, now_s: float) -> None:
        self._began_s, self._audio_s, self._n_done = now_s, 0.0, 0

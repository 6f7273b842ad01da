"""Measures how much audio a replica transcribes per second when it is fully loaded."""

_FULL = 0.75
"""A replica counts as fully loaded when this share of its slots is in use, or if chunks wait."""
_WINDOW_S = 5.0
_SHARE = 0.3
"""Weight of a new measurement in the running mean."""


class SpeedMeter:
    """Measures the speed of a replica in seconds of audio per second, only while it is full: its
    throughput under a lower load says nothing about its capacity. The audio of a chunk with several
    texts counts once for each, as it does where chunks wait.

    Args:
        slots: number of slots of the replica.
    """

    def __init__(self, slots: int) -> None:
        self.rtfx: float | None = None
        """Running mean; None until the replica was full for some seconds."""
        self._slots = slots
        self._audio_s = 0.0
        self._n_done = 0
        self._began_s: float | None = None

    def add(self, audio_s: float, n_slots: int) -> None:
        """Count a finished chunk, which had so many slots."""
        self._audio_s += audio_s * n_slots
        self._n_done += n_slots

    def tick(self, n_used: int, n_waiting: int, now_s: float) -> None:
        """Update the measurement. Call this about once a second."""
        if not n_waiting and n_used < _FULL * self._slots:
            self._began_s = None
            return
        if self._began_s is None:
            self._begin(now_s)
            return
        took_s = now_s - self._began_s
        # Chunks that end together were decoded over a longer time than the one in which they end.
        # Therefore wait for at least a whole batch.
        if took_s >= _WINDOW_S and self._n_done >= self._slots:
            measured = self._audio_s / took_s
            self._begin(now_s)
            before = measured if self.rtfx is None else self.rtfx
            self.rtfx = before + _SHARE * (measured - before)

    def _begin(self, now_s: float) -> None:
        self._began_s, self._audio_s, self._n_done = now_s, 0.0, 0

"""Whether somebody speaks, from frame to frame."""

from deployments.live.voice import Frame

_MIN_FRAMES = 3
"""Frames with voice, nearly in a row, that are speech and no click: 0.1 s."""
_MAX_GAP = 2


class VoiceTracker:
    """Attributes:
    speaking: whether speech has begun and was not ended by `reset`.
    in_voice: whether the last frame has voice.
    onset: the first sample of speech that has begun, or may be beginning; None: there is none.
    """

    def __init__(self) -> None:
        self.speaking = self.in_voice = False
        self.onset: int | None = None
        self._voiced_to = 0
        self._position = 0
        self._n_voiced = 0

    @property
    def silence(self) -> int:
        """Samples since the last voice, while speech goes on."""
        return self._position - self._voiced_to if self.speaking else 0

    def push(self, frame: Frame, threshold: float) -> bool:
        """Take the next frame; returns whether speech has begun with it."""
        self._position = frame.stop
        self.in_voice = frame.is_voiced(threshold) if self.speaking else frame.is_onset(threshold)
        if self.speaking:
            if self.in_voice:
                self._voiced_to = frame.stop
            return False
        if not self.in_voice:
            if self.onset is not None and frame.start - self._voiced_to >= _MAX_GAP * (
                frame.stop - frame.start
            ):
                self.reset()
            return False
        if self.onset is None:
            self.onset, self._n_voiced = frame.start, 0
        self._n_voiced += 1
        self._voiced_to = frame.stop
        self.speaking = self._n_voiced >= _MIN_FRAMES
        return self.speaking

    def onset_span(self) -> list[tuple[int, int]]:
        """The voice of speech that has just begun, or may be beginning."""
        return [] if self.onset is None else [(self.onset, self._voiced_to)]

    def reset(self) -> None:
        """Speech has ended."""
        self.speaking = self.in_voice = False
        self.onset = None
        self._n_voiced = 0

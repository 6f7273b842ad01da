"""The audio of a session that is still needed."""

from collections import deque

import numpy as np
import numpy.typing as npt


class AudioBuffer:
    """Samples of a stream by their number, from the first one that was not dropped.

    Attributes:
        start: number of the first sample that is kept.
        stop: number of samples so far.
    """

    def __init__(self) -> None:
        self.start = self.stop = 0
        self._parts: deque[npt.NDArray[np.int16]] = deque()

    def append(self, pcm: npt.NDArray[np.int16]) -> None:
        if len(pcm):
            self._parts.append(pcm)
            self.stop += len(pcm)

    def between(self, start: int, stop: int) -> npt.NDArray[np.int16]:
        """The samples from `start` to `stop`, as an array of their own."""
        assert self.start <= start <= stop <= self.stop
        found, position = [np.zeros(0, np.int16)], self.start
        for part in self._parts:
            if position < stop and position + len(part) > start:
                found.append(part[max(0, start - position) : stop - position])
            position += len(part)
        return np.concatenate(found)

    def drop_before(self, start: int) -> None:
        """Forget samples, whole parts of them."""
        while self._parts and self.start + len(self._parts[0]) <= start:
            self.start += len(self._parts.popleft())

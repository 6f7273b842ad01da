"""Speech in a live stream, frame by frame: no frame is looked at twice, and none is waited for."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deployments.audio.voice_network import FRAME_SAMPLES, VoiceNetwork, frames_of

_END_MARGIN = 0.15
"""Speech goes on in frames that are so much below the threshold, the margin of Silero's own
segmentation."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame of 32 ms. `start` and `stop` are samples of the session."""

    start: int
    probability: float

    @property
    def stop(self) -> int:
        return self.start + FRAME_SAMPLES

    def is_onset(self, threshold: float) -> bool:
        """Whether speech may begin with it."""
        return self.probability >= threshold

    def is_voiced(self, threshold: float) -> bool:
        """Whether speech that has begun goes on in it."""
        return self.probability >= max(threshold - _END_MARGIN, 0.01)


class VoiceStream:
    """Speech probabilities of a stream's whole frames."""

    def __init__(self) -> None:
        self._network = VoiceNetwork()
        self._rest = np.zeros(0, np.int16)
        self._position = 0

    def push(self, pcm: npt.NDArray[np.int16]) -> list[Frame]:
        """Take the stream's next samples; returns the frames that are whole with them."""
        pcm = np.concatenate((self._rest, pcm))
        whole = len(pcm) // FRAME_SAMPLES * FRAME_SAMPLES
        self._rest = pcm[whole:]
        if not whole:
            return []
        found = self._network.run(frames_of(pcm[:whole])).tolist()
        first, self._position = self._position, self._position + whole
        return [Frame(first + index * FRAME_SAMPLES, p) for index, p in enumerate(found)]

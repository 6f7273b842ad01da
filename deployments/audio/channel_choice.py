"""Which of a stream's channels carry speech, half a second at a time.

Silero's network runs on every distinct sound in the channels: channels with the same sound are
checked once. Levels do not decide, because hum and noise may be louder than speech.
"""

import numpy as np
import numpy.typing as npt
import soxr

from deployments.audio.channel_likeness import ChannelLikeness
from deployments.audio.voice_network import FRAME_SAMPLES, VoiceNetwork
from engine import SAMPLE_RATE

_Mask = npt.NDArray[np.bool_]

_SAME = 0.8  # correlation at which two channels count as the same sound
_MIN_PROBABILITY = 0.5
_MIN_FRAMES = 3  # of 32 ms; noise passes for speech for a frame or two at most
_MAX_HEARD = 16  # only the loudest sounds are checked; each costs 1/500 of its duration


class _Ear:
    """Detects speech in one channel."""

    def __init__(self, sample_rate: int) -> None:
        self._to_16_khz = soxr.ResampleStream(
            sample_rate, SAMPLE_RATE, 1, dtype="float32", quality="LQ"
        )
        self._network = VoiceNetwork()
        self._rest = np.zeros(0, np.float32)

    def hears_speech(self, samples: npt.NDArray[np.float32]) -> bool:
        heard = np.concatenate((self._rest, self._to_16_khz.resample_chunk(samples)))
        n_whole = len(heard) // FRAME_SAMPLES * FRAME_SAMPLES
        self._rest = heard[n_whole:]
        frames = np.clip(heard[:n_whole], -1, 1).reshape(-1, FRAME_SAMPLES)
        speech = self._network.run(frames) >= _MIN_PROBABILITY
        return bool(np.count_nonzero(speech) >= _MIN_FRAMES)


class ChannelChoice:
    """Detects speech in the channels of one stream."""

    def __init__(self, sample_rate: int, n_channels: int) -> None:
        self._rate = sample_rate
        self._n_channels = n_channels
        self._ears: dict[int, _Ear] = {}

    def speaking(self, channels: npt.NDArray[np.float32], likeness: ChannelLikeness) -> _Mask:
        """Channels that carry speech.

        Args:
            channels: the next samples, shape (n_channels, n_frames).
            likeness: has already taken these samples.
        """
        speaking = np.zeros(self._n_channels, np.bool_)
        for group in self._groups(likeness):
            ear = self._ears.setdefault(group[0], _Ear(self._rate))
            if ear.hears_speech(channels[group[0]]):
                speaking[group] = True
        return speaking

    def _groups(self, likeness: ChannelLikeness) -> list[list[int]]:
        """Audible channels in groups of the same sound. The first of each group is listened to."""
        correlation, energies = np.abs(likeness.correlation()), likeness.energies()
        alive = [int(index) for index in np.flatnonzero(likeness.alive())]
        groups: list[list[int]] = []
        # Channels that were listened to before come first: their networks keep a state.
        for index in sorted(alive, key=lambda i: (i not in self._ears, -energies[i])):
            same = (group for group in groups if correlation[group[0], index] >= _SAME)
            if (group := next(same, None)) is not None:
                group.append(index)
            else:
                groups.append([index])
        groups.sort(key=lambda group: -energies[group[0]])
        return groups[:_MAX_HEARD]

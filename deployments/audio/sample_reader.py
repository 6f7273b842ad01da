"""Reads samples that a caller has in memory, as if they were a file."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deployments.audio.truncation import Truncation
from deployments.errors import EmptyAudioError, NotAudioError

_INT16_SCALE = np.float32(32_768)


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Audio in memory.

    Args:
        pcm: int16, or floats with full scale at ±1; shape (n_samples,) or (n_samples, n_channels).
        sample_rate: Hz.

    Raises:
        NotAudioError: `pcm` has another type or shape.
        EmptyAudioError: `pcm` has no samples.
    """

    pcm: npt.NDArray[Any]
    sample_rate: int

    def __post_init__(self) -> None:
        if self.pcm.dtype != np.int16 and self.pcm.dtype.kind != "f":
            raise NotAudioError(f"samples must be int16 or floats, not {self.pcm.dtype}")
        if self.pcm.ndim not in (1, 2) or (self.pcm.ndim == 2 and self.pcm.shape[1] == 0):
            raise NotAudioError(
                f"samples must have shape (n,) or (n, n_channels), not {self.pcm.shape}"
            )
        if len(self.pcm) == 0:
            raise EmptyAudioError("the audio is empty (no samples)")


class SampleReader:
    """Reads float32 frames, shape (n_frames, n_channels), from an array."""

    def __init__(self, samples: Samples) -> None:
        self._frames = samples.pcm.reshape(len(samples.pcm), -1)
        self._position = 0
        self.sample_rate = samples.sample_rate
        self.n_channels: int = self._frames.shape[1]
        self.expected_s: float | None = len(self._frames) / max(1, samples.sample_rate)

    def read(self, n_frames: int) -> npt.NDArray[np.float32]:
        """Up to `n_frames` frames; none at the end."""
        frames = self._frames[self._position : self._position + n_frames]
        self._position += len(frames)
        if frames.dtype == np.int16:
            return frames.astype(np.float32) / _INT16_SCALE
        return frames.astype(np.float32)

    def truncation(self, decoded_s: float) -> Truncation | None:
        """Nothing can be missing."""
        return None

    def close(self) -> None:
        """Nothing to do: the array is the caller's."""

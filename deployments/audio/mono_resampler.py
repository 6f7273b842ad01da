"""Float frames at any rate and channel count -> 16 kHz mono int16, piece by piece.

The joined pieces equal the whole resampled at once, because soxr keeps its filter's state.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import soxr

from deployments.audio.channel_mixer import ChannelMixer
from engine import SAMPLE_RATE

_INT16_SCALE = 32_768  # 16-bit samples pass through libsndfile's float and back unchanged


class MonoResampler:
    """Holds the state of one stream. Feed it with `push`, then call `finish` once."""

    def __init__(self, sample_rate: int, n_channels: int) -> None:
        self._mixer = ChannelMixer(sample_rate, n_channels) if n_channels > 1 else None
        self._stream = (
            None
            if sample_rate == SAMPLE_RATE
            else soxr.ResampleStream(sample_rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
        )

    def push(self, frames: npt.NDArray[np.float32]) -> npt.NDArray[np.int16]:
        """Take float32 (n_frames, n_channels); returns int16 (n_samples,), what is ready so far.

        NaN and infinity count as silence, channel by channel. The mix of the channels is clamped
        to full scale before the filter, because one wild sample would make it ring for
        milliseconds.
        """
        finite = np.isfinite(frames)
        if not finite.all():
            frames = np.where(finite, frames, np.float32(0))
        mono = _clamped(frames[:, 0] if self._mixer is None else self._mixer.push(frames))
        return _to_int16(mono if self._stream is None else self._stream.resample_chunk(mono))

    def finish(self) -> npt.NDArray[np.int16]:
        """The samples that the mixer and the filter still hold."""
        rest = np.zeros(0, np.float32) if self._mixer is None else _clamped(self._mixer.finish())
        if self._stream is not None:
            rest = self._stream.resample_chunk(rest, last=True)
        return _to_int16(rest)

    @property
    def channels(self) -> str:
        """How the channels have been mixed so far, in words."""
        return "mono" if self._mixer is None else self._mixer.words


def _clamped(mono: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
    clipped: npt.NDArray[np.float32] = np.clip(mono, -1, 1).astype(np.float32)
    return clipped


def _to_int16(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.int16]:
    scaled = np.rint(samples * _INT16_SCALE)
    return np.clip(scaled, -_INT16_SCALE, _INT16_SCALE - 1).astype(np.int16)

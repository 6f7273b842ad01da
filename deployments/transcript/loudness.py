"""Quiet speech, brought to where it is heard: before voice detection, and for the model.

Silero's network misses speech that peaks below -40 dBFS or so, and Whisper leaves out what is 30 dB
below the rest of its window. Nothing here turns anything down, and what is loud enough passes
with the same bits.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from deployments.audio.voice_network import FRAME_SAMPLES

TARGET_DBFS = -34.0
"""What the loudest frame nearby is raised to (root mean square): speech that peaks at -25 dBFS."""
_FLOOR_DBFS = -84.0
"""Below this there is the dither of 16 bits, which is never raised."""
_NEARBY = 12
"""Frames on each side whose loudest counts: 0.4 s, the pauses between words."""
_SMOOTH = 4
"""Frames on each side over which a gain (in dB) is averaged."""
_REACH = _NEARBY + _SMOOTH
_MIN_RAISE_DB = 6.0
"""The model hears less of a difference than this."""
_RAMP_SAMPLES = 3_200
_PEAK = 0.9 * 32_768

Frames = npt.NDArray[np.float32]


class Leveller:
    """Raises quiet stretches of a stream, frame by frame, `_REACH` frames (0.5 s) late.

    A frame's gain depends on the frames around it alone, not on how the stream is divided. It is
    exactly 1 where there is a frame of `TARGET_DBFS` nearby.
    """

    def __init__(self) -> None:
        self._frames = np.zeros((0, FRAME_SAMPLES), np.float32)
        self._levels = np.full(_REACH, -np.inf, np.float32)

    def push(self, frames: Frames) -> Frames:
        """Take the next frames, (n, 512) float32 of +-1; returns those whose gain is known now."""
        self._frames = np.concatenate((self._frames, frames))
        self._levels = np.concatenate((self._levels, _levels_dbfs(frames)))
        return self._take(len(self._frames) - _REACH)

    def finish(self) -> Frames:
        """The frames that are left."""
        silence = np.full(_REACH, -np.inf, np.float32)
        self._levels = np.concatenate((self._levels, silence))
        return self._take(len(self._frames))

    def _take(self, n_frames: int) -> Frames:
        if n_frames <= 0:
            return self._frames[:0]
        gains = _gains(self._levels[: n_frames + 2 * _REACH])
        taken = self._frames[:n_frames] * gains[:, None]
        self._frames, self._levels = self._frames[n_frames:], self._levels[n_frames:]
        return taken


def raise_quiet(
    pcm: npt.NDArray[np.int16], stretches: Sequence[tuple[int, int]]
) -> npt.NDArray[np.int16]:
    """Samples of which the stretches of quiet speech, from sample to sample, are raised.

    Each has one gain, which fades over 0.2 s on both sides. What is loud enough is returned as it
    is, the array too where all of it is.
    """
    gains = [(start, stop, _stretch_gain(pcm[start:stop])) for start, stop in stretches]
    raised = [each for each in gains if each[2] > 1.0]
    if not raised:
        return pcm
    curve = np.ones(len(pcm), np.float32)
    for start, stop, gain in raised:
        first, last = max(0, start - _RAMP_SAMPLES), min(len(pcm), stop + _RAMP_SAMPLES)
        corners = (start - _RAMP_SAMPLES, start, stop, stop + _RAMP_SAMPLES)
        rise = np.interp(np.arange(first, last), corners, (1.0, gain, gain, 1.0))
        curve[first:last] = np.maximum(curve[first:last], rise)
    # A fade may reach into louder speech beside it.
    louder: npt.NDArray[np.int16] = np.clip(np.rint(pcm * curve), -32_768, 32_767).astype(np.int16)
    return louder


def _stretch_gain(pcm: npt.NDArray[np.int16]) -> float:
    """The gain of a stretch; 1 where it is loud enough, or nothing but dither."""
    whole = pcm[: len(pcm) // FRAME_SAMPLES * FRAME_SAMPLES].astype(np.float32) / 32_768.0
    level = float(_levels_dbfs(whole.reshape(-1, FRAME_SAMPLES)).max(initial=-np.inf))
    gain_db = TARGET_DBFS - level
    if level < _FLOOR_DBFS or gain_db < _MIN_RAISE_DB:
        return 1.0
    peak = float(np.abs(pcm.astype(np.int32)).max())
    return max(1.0, min(10 ** (gain_db / 20), _PEAK / peak))


def _levels_dbfs(frames: Frames) -> npt.NDArray[np.float32]:
    """(n, 512) -> (n,): each frame's root mean square without its mean, which is no sound."""
    centred = frames - frames.mean(1, keepdims=True)
    power = np.einsum("ij,ij->i", centred, centred) / FRAME_SAMPLES
    return np.asarray(10 * np.log10(power + 1e-20), np.float32)


def _gains(levels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Levels of n frames and of `_REACH` more on each side -> (n,) factors."""
    nearby = np.lib.stride_tricks.sliding_window_view(levels, 2 * _NEARBY + 1).max(1)
    gains_db = np.where(nearby < _FLOOR_DBFS, 0.0, np.maximum(TARGET_DBFS - nearby, 0.0))
    n_frames = len(gains_db) - 2 * _SMOOTH
    # A sum in a fixed order: the same bits however the stream is divided.
    total = sum(gains_db[shift : shift + n_frames] for shift in range(2 * _SMOOTH + 1))
    return np.asarray(10 ** (total / (2 * _SMOOTH + 1) / 20), np.float32)

"""Raises quiet speech to a level at which it is heard: for voice activity detection and the model.

Silero's network misses speech that peaks below about -40 dBFS, and Whisper leaves out speech that
is 30 dB below the rest of its window. Nothing is ever turned down, and audio that is loud enough
passes unchanged to the last bit.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from deployments.audio.voice_network import FRAME_SAMPLES

TARGET_DBFS = -34.0
"""Level (root mean square) to which the loudest frame nearby is raised: speech with -25 dBFS
peaks."""
_FLOOR_DBFS = -84.0
"""Below this there is only 16-bit dither, which is never raised."""
_NEARBY = 12
"""Frames on each side among which the loudest counts: 0.4 s, a pause between words."""
_SMOOTH = 4
"""Frames on each side over which a gain (in dB) is averaged."""
_REACH = _NEARBY + _SMOOTH
_MIN_RAISE_DB = 6.0
"""A smaller raise would make no difference to the model."""
_RAMP_SAMPLES = 3_200
_PEAK = 0.9 * 32_768

Frames = npt.NDArray[np.float32]


class Leveller:
    """Raises quiet stretches of a stream, frame by frame, `_REACH` frames (0.5 s) late.

    A frame's gain depends only on the frames around it, not on how the stream is divided. It is
    exactly 1 where a frame nearby reaches `TARGET_DBFS`.
    """

    def __init__(self) -> None:
        self._frames = np.zeros((0, FRAME_SAMPLES), np.float32)
        self._levels = np.full(_REACH, -np.inf, np.float32)

    def push(self, frames: Frames) -> Frames:
        """Take the next frames, float32 (n, 512), full scale ±1; returns those whose gain is known
        now."""
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
    """Samples in which the stretches of speech are raised if they are quiet.

    Each stretch, given by its first sample and its end, has one gain, which fades over 0.2 s on
    both sides. Stretches that are loud enough do not change; if all are, `pcm` itself is returned.
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
    # Clip, because a fade may reach into louder speech beside the stretch.
    louder: npt.NDArray[np.int16] = np.clip(np.rint(pcm * curve), -32_768, 32_767).astype(np.int16)
    return louder


def _stretch_gain(pcm: npt.NDArray[np.int16]) -> float:
    """The gain of a stretch; 1 if it is loud enough, or only dither."""
    whole = pcm[: len(pcm) // FRAME_SAMPLES * FRAME_SAMPLES].astype(np.float32) / 32_768.0
    level = float(_levels_dbfs(whole.reshape(-1, FRAME_SAMPLES)).max(initial=-np.inf))
    gain_db = TARGET_DBFS - level
    if level < _FLOOR_DBFS or gain_db < _MIN_RAISE_DB:
        return 1.0
    peak = float(np.abs(pcm.astype(np.int32)).max())
    return max(1.0, min(10 ** (gain_db / 20), _PEAK / peak))


def _levels_dbfs(frames: Frames) -> npt.NDArray[np.float32]:
    """(n, 512) -> (n,): root mean square of each frame without its DC offset, which is not
    sound."""
    centred = frames - frames.mean(1, keepdims=True)
    power = np.einsum("ij,ij->i", centred, centred) / FRAME_SAMPLES
    return np.asarray(10 * np.log10(power + 1e-20), np.float32)


def _gains(levels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Levels of n frames and `_REACH` more on each side -> gains of the n frames, as factors."""
    nearby = np.lib.stride_tricks.sliding_window_view(levels, 2 * _NEARBY + 1).max(1)
    gains_db = np.where(nearby < _FLOOR_DBFS, 0.0, np.maximum(TARGET_DBFS - nearby, 0.0))
    n_frames = len(gains_db) - 2 * _SMOOTH
    # Sum in a fixed order: this gives the same bits however the stream is divided.
    total = sum(gains_db[shift : shift + n_frames] for shift in range(2 * _SMOOTH + 1))
    return np.asarray(10 ** (total / (2 * _SMOOTH + 1) / 20), np.float32)

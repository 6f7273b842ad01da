"""How alike a stream's channels are: one sound in all, or different ones.

Energies and correlations over the last seconds, where speech has most of its energy and where
microphones some centimetres apart still hear the same phase. Each stretch counts by its amplitude,
not by its energy: a loud jingle must not decide for the talk behind it.
"""

import math

import numpy as np
import numpy.typing as npt

_BAND_RATE = 2_000  # Hz; sums of samples down to it, and their differences: about 150 to 1,000 Hz
_MEMORY_S = 3.0
_SLICE = 64  # sums
_GLANCE_SLICES = 4
_ALIKE = 0.4
_OPPOSED = -0.3
SILENCE = 1e-8
"""Mean square of what nobody can hear: -80 dB of full scale."""
_QUIETER = 1e-2  # of one sound's channels: 20 dB
_DEAD = 1e-4  # 40 dB below the loudest channel a channel adds nothing to the mix


class ChannelLikeness:
    """Takes a stream's channels, stretch by stretch."""

    def __init__(self, sample_rate: int, n_channels: int) -> None:
        self._rate = sample_rate
        self._step = max(1, sample_rate // _BAND_RATE)
        self._memory = np.zeros((n_channels, n_channels))
        self._now = self._memory

    def glance(self, frames: npt.NDArray[np.float32]) -> None:
        """As `push`, of float32 (n_frames, n_channels), by a quarter of them: slices of 32 ms."""
        size = _SLICE * self._step
        n_slices = len(frames) // size
        if n_slices > _GLANCE_SLICES:
            slices = frames[: n_slices * size].reshape(n_slices, size, -1)[::_GLANCE_SLICES]
            seen = slices.reshape(-1, frames.shape[1])
        else:
            seen = frames
        self.push(np.ascontiguousarray(seen.T), len(frames))

    def push(self, channels: npt.NDArray[np.float32], n_frames: int | None = None) -> None:
        """Take the next samples, finite, shape (n_channels, n_frames).

        Args:
            n_frames: how many they stand for, if not for themselves.
        """
        n_steps = channels.shape[1] // self._step
        if n_steps < 2:
            return
        covariance = self._covariance(channels[:, : n_steps * self._step])
        if not np.isfinite(covariance).all():  # floats far beyond full scale
            covariance = self._covariance(np.clip(channels[:, : n_steps * self._step], -1, 1))
        self._now = covariance
        keep = math.exp(-(n_frames or channels.shape[1]) / (self._rate * _MEMORY_S))
        level = math.sqrt(max(float(np.trace(covariance)), SILENCE))
        self._memory = keep * self._memory + (1 - keep) / level * covariance

    @property
    def is_silent(self) -> bool:
        """Of the last stretch."""
        return float(np.trace(self._now)) <= SILENCE

    @property
    def is_one_sound(self) -> bool:
        """Whether all channels have the same sound, in phase and about as loud."""
        now, memory = np.diagonal(self._now), np.diagonal(self._memory)
        if float(memory.max()) == 0:
            return True
        loudest = int(memory.argmax())
        is_quiet = memory < _QUIETER * memory[loudest]
        if is_quiet.any() or (_correlation(self._memory)[loudest] < _ALIKE).any():
            return False
        heard = now > max(SILENCE, _QUIETER * float(now.max()))
        return not (_correlation(self._now)[np.ix_(heard, heard)] < _OPPOSED).any()

    def alive(self) -> npt.NDArray[np.bool_]:
        """Channels that can be heard beside the others in the last stretch."""
        energy = np.diagonal(self._now)
        heard: npt.NDArray[np.bool_] = energy > max(SILENCE, _DEAD * float(energy.max()))
        return heard

    def energies(self) -> npt.NDArray[np.float64]:
        """Of each channel in the last seconds, on a scale of their own."""
        energies: npt.NDArray[np.float64] = np.diagonal(self._memory)
        return energies

    def correlation(self) -> npt.NDArray[np.float64]:
        """Of each channel with each, -1 to 1, in the last seconds; 0 with silence."""
        return _correlation(self._memory)

    def signs(self, chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        """-1 for channels that would cancel the loudest of those chosen, else 1."""
        leader = int(np.where(chosen, np.diagonal(self._memory), -1).argmax())
        return np.where(self.correlation()[leader] < _OPPOSED, -1.0, 1.0)

    def _covariance(self, channels: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        with np.errstate(over="ignore", invalid="ignore"):
            # No BLAS: its threads would keep spinning on cores that ffmpeg and the engine need.
            sums = np.einsum("ij->i", channels.reshape(-1, self._step))
            band = np.diff(sums.reshape(len(channels), -1), axis=1)
            product = np.einsum("ik,jk->ij", band, band).astype(np.float64)
        n_sums = band.shape[1] * self._step**2
        return np.asarray(product / n_sums, np.float64)


def _correlation(covariance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    scale = np.sqrt(np.diagonal(covariance))
    norm = np.outer(scale, scale)
    correlation = np.zeros_like(covariance)
    np.divide(covariance, norm, out=correlation, where=norm > 0)
    return correlation

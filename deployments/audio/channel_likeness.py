"""How alike a stream's channels are: the same sound in all of them, or different sounds.

Energies and correlations are taken over the last few seconds, in the band where speech has most of
its energy and where microphones some centimetres apart still receive the same phase. Each stretch
is weighted by its amplitude, not by its energy, so that a loud jingle does not decide for the talk
after it.
"""

import math

import numpy as np
import numpy.typing as npt

_BAND_RATE = 2_000  # Hz; samples are summed down to this rate, then differenced: 150 to 1,000 Hz
_MEMORY_S = 3.0
_SLICE = 64  # sums, 32 ms
_GLANCE_SLICES = 4  # a glance takes one slice in this many
_ALIKE = 0.4
_OPPOSED = -0.3
SILENCE = 1e-8
"""Mean square below which nothing can be heard: -80 dB of full scale."""
_QUIETER = 1e-2  # 20 dB below the loudest channel: too quiet to be the same sound
_DEAD = 1e-4  # 40 dB below the loudest channel: adds nothing to the mix


class ChannelLikeness:
    """Compares a stream's channels, stretch by stretch."""

    def __init__(self, sample_rate: int, n_channels: int) -> None:
        self._rate = sample_rate
        self._step = max(1, sample_rate // _BAND_RATE)
        self._memory = np.zeros((n_channels, n_channels))
        self._now = self._memory

    def glance(self, frames: npt.NDArray[np.float32]) -> None:
        """Like `push`, but takes float32 (n_frames, n_channels) and looks at one 32 ms slice in
        four."""
        size = _SLICE * self._step
        n_slices = len(frames) // size
        if n_slices > _GLANCE_SLICES:
            slices = frames[: n_slices * size].reshape(n_slices, size, -1)[::_GLANCE_SLICES]
            seen = slices.reshape(-1, frames.shape[1])
        else:
            seen = frames
        self.push(np.ascontiguousarray(seen.T), len(frames))

    def push(self, channels: npt.NDArray[np.float32], n_frames: int | None = None) -> None:
        """Take the next samples, which must be finite.

        Args:
            channels: shape (n_channels, n_frames).
            n_frames: number of frames that they stand for; by default their own.
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
        """Whether the last stretch is silent."""
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
        """Channels that are audible beside the others in the last stretch."""
        energy = np.diagonal(self._now)
        heard: npt.NDArray[np.bool_] = energy > max(SILENCE, _DEAD * float(energy.max()))
        return heard

    def energies(self) -> npt.NDArray[np.float64]:
        """Energy of each channel over the last few seconds, on an arbitrary scale."""
        energies: npt.NDArray[np.float64] = np.diagonal(self._memory)
        return energies

    def correlation(self) -> npt.NDArray[np.float64]:
        """Correlation of all pairs of channels over the last few seconds, -1 to 1; 0 where a
        channel is silent."""
        return _correlation(self._memory)

    def signs(self, chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        """-1 for channels that would cancel the loudest of the chosen ones, else 1."""
        leader = int(np.where(chosen, np.diagonal(self._memory), -1).argmax())
        return np.where(self.correlation()[leader] < _OPPOSED, -1.0, 1.0)

    def _covariance(self, channels: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        with np.errstate(over="ignore", invalid="ignore"):
            # einsum, not BLAS, whose threads would keep spinning on cores that ffmpeg and the
            # engine need.
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

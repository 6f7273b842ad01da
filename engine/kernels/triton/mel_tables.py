"""The tables of the log-mel kernel: a folded DFT and the mel filters.

Hann's window is the same on both sides of a frame's centre c. So the real parts of a frame's DFT
are sums over x[c + m] + x[c - m], and the imaginary ones over x[c + m] - x[c - m], for m from 0 to
half of the frame: half of the products, and of int16 samples both are exact in float32. Turning a
frame about its centre only changes signs, which its power does not have.
"""

from dataclasses import dataclass

import torch

from engine.config import N_FFT

POINTS = 16
"""Points that a program multiplies at once; Triton takes no fewer."""
BINS = 32
"""Frequencies that a program computes at once."""
_MIN_BANDS = 16
_FULL_SCALE = 32_768.0


@dataclass(frozen=True, slots=True)
class MelTables:
    """float32, contiguous, filled up with zeros to whole blocks.

    Attributes:
        cosines, sines: (points, bins) of the DFT, times the window and the scale of int16.
        filters: (bins, bands).
        n_mels: bands that are not filling.
    """

    cosines: torch.Tensor
    sines: torch.Tensor
    filters: torch.Tensor
    n_mels: int


def mel_tables(filters: torch.Tensor) -> MelTables:
    """The tables for mel filters, (n_mels, 201), on their device."""
    n_mels, n_bins = filters.shape
    assert n_bins == 1 + N_FFT // 2
    bins, points = -(-n_bins // BINS) * BINS, -(-N_FFT // 2 // POINTS) * POINTS
    bands = max(1 << (n_mels - 1).bit_length(), _MIN_BANDS)
    half = torch.arange(N_FFT // 2, dtype=torch.float64)
    window = torch.cos(torch.pi * half / N_FFT).square() / _FULL_SCALE
    window[0] /= 2  # the centre is not folded, but added to itself
    turns = half[:, None] * torch.arange(n_bins, dtype=torch.float64) % N_FFT
    angles = 2 * torch.pi * turns / N_FFT

    def filled(table: torch.Tensor, columns: int, rows: int) -> torch.Tensor:
        more = (0, columns - table.shape[1], 0, rows - table.shape[0])
        return torch.nn.functional.pad(table.float(), more).to(filters.device).contiguous()

    return MelTables(
        cosines=filled(window[:, None] * angles.cos(), bins, points),
        sines=filled(window[:, None] * angles.sin(), bins, points),
        filters=filled(filters.T, bands, bins),
        n_mels=n_mels,
    )

"""The log-mel kernel beside transformers' arithmetic in float64."""

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

from engine.audio.features import LogMel, _padded
from engine.kernels.triton.calls import GpuKernels
from engine.kernels.triton.mel_tables import mel_tables

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
KERNELS = GpuKernels.on(DEVICE)
CLOSE = 1e-5
"""What the features' own test allows between torch and transformers."""


def filters(n_mels: int) -> torch.Tensor:
    return LogMel(n_mels, torch.device("cpu"))._filters


def exact(samples: torch.Tensor, n_mels: int) -> torch.Tensor:
    """(B, L) int16 -> (B, n_mels, L / 160): `LogMel._log_mel` in float64."""
    window = torch.hann_window(400, dtype=torch.float64)
    stft = torch.stft(samples.double() / 32_768, 400, 160, window=window, return_complex=True)
    power = stft[..., :-1].abs() ** 2
    logs = (filters(n_mels).double() @ power).clamp(min=1e-10).log10()
    return (torch.maximum(logs, logs.amax((1, 2), keepdim=True) - 8.0) + 4.0) / 4.0


def computed(samples: torch.Tensor, n_mels: int) -> torch.Tensor:
    tables = mel_tables(filters(n_mels).to(DEVICE))
    return KERNELS.log_mel(samples.to(DEVICE), tables).cpu()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-32_768, 32_768, shape, generator=generator).to(torch.int16)


@pytest.mark.parametrize("n_mels", [80, 128])
@pytest.mark.parametrize("n_frames", [2, 31, 32, 33, 65])
def test_windows_of_any_length_at_full_scale(n_frames: int, n_mels: int) -> None:
    """Loud to both ends, where samples are reflected; blocks that are full, and that are not."""
    samples = noise(2, n_frames * 160)
    found = computed(samples, n_mels)
    assert found.shape == (2, n_mels, n_frames)
    assert (found - exact(samples, n_mels)).abs().max() < CLOSE


def test_speech(clips: dict[str, np.ndarray]) -> None:
    """The first second of each clip and silence behind it, and an odd number of samples."""
    chunks = [clip[:16_001] for clip in clips.values()][:3]
    samples = _padded([*chunks, np.zeros(1, np.int16)], 19_200)
    found = computed(samples, 80)
    assert (found - exact(samples, 80)).abs().max() < CLOSE
    assert found[-1].eq(-1.5).all(), "silence"


@pytest.mark.parametrize("frames", [(0, 160), (159, 160), (4_000, 4_001), (9_599, 9_600)])
def test_few_samples_in_silence(frames: tuple[int, int]) -> None:
    samples = torch.zeros(1, 9_600, dtype=torch.int16)
    samples[:, slice(*frames)] = 20_000
    assert (computed(samples, 80) - exact(samples, 80)).abs().max() < CLOSE


def test_a_full_scale_tone() -> None:
    """Where nearly all is cancelled, float32 ends: torch's FFT is off by 3e-5, too."""
    at = torch.arange(16_000, dtype=torch.float64) * (2 * torch.pi * 1000.3 / 16_000)
    samples = (32_767 * at.sin()).to(torch.int16)[None]
    found = computed(samples, 80)
    assert found.isfinite().all()
    assert (found - exact(samples, 80)).abs().max() < 1e-4


def test_a_window_does_not_depend_on_its_neighbours() -> None:
    """To the bit."""
    samples = noise(3, 8_000) // torch.tensor([1, 100, 1], dtype=torch.int16)[:, None]
    batch = computed(samples, 80)
    for row, window in zip(batch, samples, strict=True):
        assert torch.equal(row, computed(window[None], 80)[0])

"""Changes of the sound: what they do to it, and that the same numbers give the same sound."""

import numpy as np
import pytest
import torch

from training.augmentation import at_speed, changed, masked, telephone, with_noise
from training.settings import AugmentSettings

TIMES = np.arange(32_000) / 16_000
TONE = (0.3 * np.sin(2 * np.pi * 997 * TIMES)).astype(np.float32)


def _share_of_power(samples: np.ndarray, low: float, high: float) -> float:
    power = np.abs(np.fft.rfft(samples)) ** 2
    frequencies = np.fft.rfftfreq(len(samples), 1 / 16_000)
    return float(power[(frequencies >= low) & (frequencies <= high)].sum() / power.sum())


def test_a_telephone_passes_its_band_alone() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 32_000).astype(np.float32)
    heard = telephone(noise)
    assert heard.shape == noise.shape and heard.dtype == np.float32
    # Quantisation adds a little noise over the whole of the line's band.
    assert _share_of_power(heard, 290, 3_410) > 0.999
    kept = telephone(TONE)[2_000:-2_000]
    error = kept - TONE[2_000:-2_000]
    snr_db = 10 * np.log10(np.mean(TONE**2) / np.mean(error**2))
    assert 30 < snr_db < 45  # G.711 is at about 38 dB; without the quantisation it were above 60


@pytest.mark.parametrize("snr_db", [0.0, 10.0, 20.0])
@pytest.mark.parametrize("slope", [0.0, 1.0])
def test_noise_is_as_loud_as_asked(snr_db: float, slope: float) -> None:
    noisy = with_noise(TONE, snr_db, slope, np.random.default_rng(0))
    noise = noisy - TONE
    found_db = 10 * np.log10(np.mean(TONE**2) / np.mean(noise**2))
    assert found_db == pytest.approx(snr_db, abs=0.1)
    low = _share_of_power(noise, 0, 1_000)
    assert low == pytest.approx(0.125, abs=0.02) if slope == 0 else low > 0.6


def test_silence_stays_silent() -> None:
    silence = np.zeros(16_000, np.float32)
    assert np.array_equal(with_noise(silence, 10.0, 0.0, np.random.default_rng(0)), silence)


def test_speed_changes_length_and_pitch() -> None:
    fast = at_speed(TONE, 1.25)
    assert len(fast) == pytest.approx(32_000 / 1.25, abs=2)
    assert _share_of_power(fast, 1_200, 1_300) > 0.99
    assert at_speed(TONE, 1.0) is TONE


def test_the_same_seed_gives_the_same_sound() -> None:
    settings = AugmentSettings(noise=0.5, telephone=0.5, gain_db=10)
    made = [changed(TONE, settings, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert np.array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])
    assert all(np.abs(each).max() <= 1.0 and len(each) == len(TONE) for each in made)


def test_nothing_is_changed_by_default() -> None:
    assert np.array_equal(changed(TONE, AugmentSettings(), np.random.default_rng(0)), TONE)


def test_masks_hide_no_more_than_asked() -> None:
    settings = AugmentSettings(mask_frequencies=10, mask_frames=100)
    mel = torch.randn(80, 3000)
    mean = mel.mean()
    hidden = masked(mel.clone(), settings, np.random.default_rng(3)) != mel
    bands = int(hidden.all(1).sum())
    frames = int(hidden.all(0).sum())
    assert 0 < bands <= 20 and 0 < frames <= 200
    rest = hidden.clone()
    rest[hidden.all(1)] = False
    rest[:, hidden.all(0)] = False
    assert not rest.any()
    assert torch.isfinite(mean)

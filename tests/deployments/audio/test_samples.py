"""Samples in memory as a source of audio."""

import numpy as np
import pytest

from deployments.audio.reading import AudioLimits, Samples, read_audio
from deployments.errors import AudioTooLongError, EmptyAudioError, NotAudioError


def read(samples: Samples, **limits: float) -> np.ndarray:
    return np.concatenate(list(read_audio(samples, AudioLimits(**limits))))


def test_16_bit_mono_at_16_khz_passes_unchanged() -> None:
    pcm = np.random.default_rng(0).integers(-32_768, 32_768, 40_000).astype(np.int16)
    assert np.array_equal(read(Samples(pcm, 16_000)), pcm)
    assert np.array_equal(read(Samples(pcm / np.float32(32_768), 16_000)), pcm)
    assert np.array_equal(read(Samples(np.stack([pcm, pcm], 1), 16_000)), pcm)


def test_other_rates_are_resampled_and_the_array_is_left_alone() -> None:
    time_s = np.arange(44_100) / 44_100
    tone = (0.5 * np.sin(2 * np.pi * 440 * time_s)).astype(np.float64)
    tone.flags.writeable = False  # as Ray gives them
    got = read(Samples(tone, 44_100))
    assert len(got) == 16_000
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000) * 32_768
    assert np.abs(got[500:-500] - expected[500:-500]).max() < 40


@pytest.mark.parametrize(
    ("pcm", "rate", "error"),
    [
        (np.zeros(0, np.int16), 16_000, EmptyAudioError),
        (np.zeros(16_000, np.int32), 16_000, NotAudioError),
        (np.zeros((2, 2, 2), np.int16), 16_000, NotAudioError),
        (np.zeros((16_000, 0), np.float32), 16_000, NotAudioError),
        (np.zeros(16_000, np.int16), 0, NotAudioError),
        (np.zeros(16_000, np.int16), -5, NotAudioError),
        (np.zeros(160_000, np.int16), 16_000, AudioTooLongError),
    ],
)
def test_what_cannot_be_is_refused(pcm: np.ndarray, rate: int, error: type[Exception]) -> None:
    with pytest.raises(error):
        read(Samples(pcm, rate), max_duration_s=5)

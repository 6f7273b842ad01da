"""Log-mel against transformers' extractor."""

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor

from engine.audio.features import LogMel


def signals(clips: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {
        **clips,
        "noise, full window": (rng.standard_normal(480_000) * 3_000).astype(np.int16),
        "silence": np.zeros(16_000, np.int16),
        "one sample": np.array([1_000], np.int16),
        "loudest square": np.tile(np.repeat(np.array([32_767, -32_768], np.int16), 40), 2_000),
    }


@pytest.mark.parametrize("n_mels", [80, 128])
def test_within_1e_5_of_transformers(n_mels: int, clips: dict[str, np.ndarray]) -> None:
    extractor = WhisperFeatureExtractor(feature_size=n_mels)
    log_mel = LogMel(n_mels, torch.device("cpu"))
    for name, pcm in signals(clips).items():
        expected = extractor(
            pcm.astype(np.float32) / 32_768.0, sampling_rate=16_000, return_tensors="pt"
        ).input_features
        mel = log_mel([pcm])
        assert mel.shape == (1, n_mels, 3_000)
        assert (mel - expected).abs().max() < 1e-5, name


def test_a_chunk_does_not_depend_on_its_neighbours(clips: dict[str, np.ndarray]) -> None:
    log_mel = LogMel(80, torch.device("cpu"))
    batch = log_mel(list(clips.values()))
    for row, pcm in zip(batch, clips.values(), strict=True):
        assert torch.equal(row, log_mel([pcm])[0])


def test_read_only_audio_is_accepted(clips: dict[str, np.ndarray]) -> None:
    pcm = next(iter(clips.values())).copy()
    pcm.flags.writeable = False
    assert LogMel(80, torch.device("cpu"))([pcm]).isfinite().all()

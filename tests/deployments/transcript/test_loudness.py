"""Quiet speech is found and raised; what is loud keeps its bits, and noise stays noise."""

import numpy as np
import pytest

from deployments.audio.voice_network import FRAME_SAMPLES
from deployments.transcript.chunking import Chunker
from deployments.transcript.loudness import Leveller, raise_quiet
from engine import SAMPLE_RATE


def at_peak(pcm: np.ndarray, dbfs: float) -> np.ndarray:
    """The samples with their peak at this level, in 16 bits."""
    scaled = pcm / np.abs(pcm.astype(float)).max() * 10 ** (dbfs / 20)
    return np.rint(scaled * 32_767).astype(np.int16)


def speech_s(pcm: np.ndarray, block: int = 50_000) -> list[tuple[float, float]]:
    chunker = Chunker()
    pieces = [p for at in range(0, len(pcm), block) for p in chunker.push(pcm[at : at + block])]
    pieces += chunker.finish()
    regions = [region for piece in pieces for region in piece.speech]
    return [(region.start / SAMPLE_RATE, region.end / SAMPLE_RATE) for region in regions]


def total_s(pcm: np.ndarray) -> float:
    return sum(end - start for start, end in speech_s(pcm))


@pytest.mark.parametrize("dbfs", [-20, -40, -55, -60])
@pytest.mark.parametrize("name", ["librivox-0870.wav", "librivox-0890.wav", "librivox-0920.wav"])
def test_speech_is_found_at_any_level(name: str, dbfs: float, clips: dict[str, np.ndarray]) -> None:
    clip = clips[name]
    assert total_s(at_peak(clip, dbfs)) == pytest.approx(total_s(at_peak(clip, 0)), abs=0.5)


def test_quiet_and_loud_speakers_take_turns(clips: dict[str, np.ndarray]) -> None:
    loud, quiet = clips["librivox-0880.wav"], at_peak(clips["librivox-0930.wav"], -50)
    pause = np.zeros(8_000, np.int16)
    pcm = np.concatenate([loud, pause, quiet, pause, loud])
    begin = (len(loud) + len(pause)) / SAMPLE_RATE
    end = begin + len(quiet) / SAMPLE_RATE
    found = sum(max(0, min(b, end) - max(a, begin)) for a, b in speech_s(pcm))
    assert found > 2.4, "of 2.8 s"


@pytest.mark.parametrize("dbfs", [-20, -40, -55, -70, -90])
@pytest.mark.parametrize("kind", ["white", "brown", "hum", "clicks", "breath"])
def test_noise_is_no_speech_at_any_level(kind: str, dbfs: float) -> None:
    n = 10 * SAMPLE_RATE
    rng, time_s = np.random.default_rng(1), np.arange(10 * SAMPLE_RATE) / SAMPLE_RATE
    white = rng.standard_normal(n)
    noise = {
        "white": white,
        "brown": np.cumsum(white) - np.linspace(0, white.sum(), n),
        "hum": sum(np.sin(2 * np.pi * 50 * k * time_s) / k for k in (1, 2, 3)),
        "clicks": (rng.random(n) < 0.0005) * 1.0,
        "breath": np.convolve(white, np.ones(6), "same") * np.sin(np.pi * time_s / 2) ** 6,
    }[kind]
    assert speech_s(at_peak(noise, dbfs)) == []


def test_blocks_do_not_matter(clips: dict[str, np.ndarray]) -> None:
    pcm = np.concatenate([clips["librivox-0880.wav"], at_peak(clips["librivox-0930.wav"], -50)])
    frames = pcm[: len(pcm) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
    frames = frames.astype(np.float32) / 32_768

    def raised(block: int) -> np.ndarray:
        leveller = Leveller()
        parts = [leveller.push(frames[at : at + block]) for at in range(0, len(frames), block)]
        return np.concatenate([*parts, leveller.finish()])

    assert raised(1).shape == frames.shape
    assert np.array_equal(raised(1), raised(7)) and np.array_equal(raised(7), raised(10**6))


def test_what_is_loud_or_dither_keeps_its_bits(clips: dict[str, np.ndarray]) -> None:
    pcm = clips["librivox-0870.wav"]
    assert raise_quiet(pcm, [(0, len(pcm))]) is pcm
    dither = np.random.default_rng(1).integers(-1, 2, 16_000).astype(np.int16)
    assert raise_quiet(dither, [(0, len(dither))]) is dither


def test_only_the_quiet_stretch_is_raised(clips: dict[str, np.ndarray]) -> None:
    loud, quiet = clips["librivox-0880.wav"], at_peak(clips["librivox-0930.wav"], -50)
    pcm = np.concatenate([loud, np.zeros(16_000, np.int16), quiet])
    begin = len(pcm) - len(quiet)
    raised = raise_quiet(pcm, [(0, len(loud)), (begin, len(pcm))])
    assert np.array_equal(raised[: len(loud)], loud)
    gain = np.abs(raised[begin:].astype(float)).max() / np.abs(quiet.astype(float)).max()
    assert 20 < 20 * np.log10(gain) < 30

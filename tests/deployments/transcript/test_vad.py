"""Voice activity over a stream against the package's own implementation."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from deployments.audio.voice_network import FRAME_SAMPLES, _model_file
from deployments.options import VadOptions
from deployments.transcript.loudness import Leveller
from deployments.transcript.vad import (
    Region,
    RegionDetector,
    SpeechProbabilities,
)


@pytest.mark.parametrize("block", [511, 16_000, 480_000])
def test_a_stream_gives_the_probabilities_of_the_whole(
    block: int, clips: dict[str, np.ndarray]
) -> None:
    pcm = np.concatenate([*clips.values(), np.zeros(20_000, np.int16), *clips.values()])
    n_threads = torch.get_num_threads()
    from silero_vad.sequence_vad import SileroVADSequence  # sets torch to one thread

    torch.set_num_threads(n_threads)
    model = SileroVADSequence(str(_model_file()))
    frames = np.pad(pcm, (0, -len(pcm) % FRAME_SAMPLES)).reshape(-1, FRAME_SAMPLES)
    leveller = Leveller()
    raised = [leveller.push(frames.astype(np.float32) / 32_768.0), leveller.finish()]
    expected = model.audio_forward(np.concatenate(raised).reshape(-1))
    stream = SpeechProbabilities()
    parts = [stream.push(pcm[start : start + block]) for start in range(0, len(pcm), block)]
    probabilities = np.concatenate([*parts, stream.finish()])
    assert probabilities.shape == expected.shape
    assert np.abs(probabilities - expected).max() < 1e-5


def test_looking_for_speech_leaves_torchs_threads_alone() -> None:
    code = (
        "import numpy, torch\n"
        "torch.set_num_threads(2)\n"
        "from deployments.transcript.vad import SpeechProbabilities\n"
        "SpeechProbabilities().push(numpy.zeros(512, numpy.int16))\n"
        "assert torch.get_num_threads() == 2\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def detect(probabilities: list[float], **options: float) -> list[Region]:
    detector = RegionDetector(VadOptions(**options))
    regions = list(detector.push(np.array(probabilities, np.float32)))
    regions += detector.finish(len(probabilities) * FRAME_SAMPLES)
    return [Region(r.start // FRAME_SAMPLES, r.end // FRAME_SAMPLES) for r in regions]


def test_regions_end_at_pauses_and_bridge_shorter_ones() -> None:
    quick = {"min_silence_s": 3 * 0.032, "min_speech_s": 0.0}
    assert detect([0.9] * 4 + [0.1] * 2 + [0.9] * 4 + [0.1] * 3, **quick) == [Region(0, 10)]
    assert detect([0.1] * 2 + [0.9] * 4 + [0.1] * 3 + [0.9], **quick) == [
        Region(2, 6),
        Region(9, 10),
    ]


def test_hysteresis() -> None:
    """A region starts at the threshold, and lasts until 0.15 below it."""
    quick = {"min_silence_s": 0.0, "min_speech_s": 0.0}
    assert detect([0.45, 0.5, 0.4, 0.4, 0.3, 0.4], **quick) == [Region(1, 4)]


def test_clicks_are_no_speech() -> None:
    assert detect([0.1, 0.9, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1], min_speech_s=0.1) == []


@pytest.mark.parametrize(
    "bad", [{"threshold": 0.0}, {"threshold": 1.5}, {"min_silence_s": -1.0}, {"min_speech_s": -1.0}]
)
def test_bad_options_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        VadOptions(**bad)

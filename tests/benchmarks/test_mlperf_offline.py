"""The shape that is measured, and the roofline that it is compared with."""

import json

import pytest

from benchmarks import mlperf_offline
from benchmarks.mlperf_offline import SAMPLE_AUDIO_S, roofline
from engine.model_sizes import LARGE_V3, MODEL_SIZES


def test_roofline_is_that_of_the_published_sizes() -> None:
    """2.588 TFLOP a window and 1.6 GB of weights, 245.8 MB of cross-attention a token step."""
    assert roofline(LARGE_V3, 256, 75) == pytest.approx(136.6, rel=0.01)
    assert roofline(LARGE_V3, 256, 100) * 30 == pytest.approx(3449, rel=0.01)
    assert roofline(MODEL_SIZES["turbo"], 256, 100) * 30 == pytest.approx(8299, rel=0.01)


def test_a_run_reports_its_throughput(capsys: pytest.CaptureFixture[str]) -> None:
    mlperf_offline.main(
        ["--model", "tiny", "--device", "cpu", "--batches", "2", "--samples", "3"]
        + ["--tokens", "6", "--overlap", "on,off"]
    )
    results = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]
    assert [result["overlap"] for result in results] == [True, False]
    for result in results:
        assert result["rtfx"] == pytest.approx(result["samples_per_s"] * SAMPLE_AUDIO_S)
        assert result["encode_s"] > 0 and result["decode_s"] > 0 and result["peak_gb"] > 0
        assert result["roofline_share"] is None, "a CPU's share of a GPU's limit says nothing"

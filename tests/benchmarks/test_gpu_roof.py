"""What is computed for GPUs agrees with other arithmetic on the same sizes."""

import json

import pytest

pytest.importorskip("triton")

from benchmarks import gpu_roof
from benchmarks.gpu_roof import Device, computed, step
from benchmarks.kernel_cases import cases
from benchmarks.mlperf_offline import BYTES_PER_S, FLOPS, roofline
from engine.model_sizes import MODEL_SIZES


@pytest.mark.parametrize("model", ["large-v3", "turbo"])
@pytest.mark.parametrize("batch", [64, 256])
def test_at_its_peaks_it_is_the_known_roofline(model: str, batch: int) -> None:
    """But for norms, logits and sampling, which that one leaves out."""
    dims = MODEL_SIZES[model]
    rate = 1 / computed(dims, Device(BYTES_PER_S, FLOPS, 0.0), batch, 75)[2]
    assert 0.85 < rate / roofline(dims, batch, 75) < 1.0


def test_no_launch_is_shorter_than_a_launch() -> None:
    dims, endless = MODEL_SIZES["large-v3"], Device(1e30, 1e30, 2e-6)
    launches = sum(work.launches for work in step(dims, 8, 60))
    assert computed(dims, endless, 8, 75)[0] == pytest.approx(launches * 2e-6)
    assert launches == 8 * 32 + 20


@pytest.mark.parametrize("n", [64, 128, 256])
def test_the_encoder_output_is_read_once(n: int) -> None:
    """Beside it absorbed attention moves less than a tenth: queries in and sums out."""
    dims = MODEL_SIZES["large-v3"]
    (case,) = (case for case in cases(dims, n, 90) if case.name == "absorbed attention")
    ideal = n * dims.n_audio_ctx * dims.n_audio_state * 2
    assert ideal < case.moved_bytes < 1.1 * ideal
    assert case.launch.grid == (2, n, 1), "two groups of heads, which share what is in the cache"


def test_tables(capsys: pytest.CaptureFixture[str]) -> None:
    gpu_roof.main(["--models", "turbo", "--gpus", "L4,H200", "--batches", "1,64"])
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]
    assert [(row["gpu"], row["batch"]) for row in rows] == [
        ("L4", 1), ("L4", 64), ("H200", 1), ("H200", 64),
    ]  # fmt: skip
    assert rows[3]["rtfx"] > rows[2]["rtfx"] > rows[0]["rtfx"] > 0
    assert rows[2]["launch_bound_share"] > rows[0]["launch_bound_share"]
    gpu_roof.main(["--check"])
    checked = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]
    assert all(0.5 < row["published"] / row["computed"] < 1 for row in checked)
    with pytest.raises(SystemExit):
        gpu_roof.main(["--gpus", "GTX"])

"""Every way is measured, and the numbers are times."""

import json

import pytest
import torch

from benchmarks import cpu_kernels


@pytest.mark.more
def test_every_way_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    try:
        cpu_kernels.main(["--models", "demo:tiny.en", "--batches", "1,2", "--rounds", "1"])
    finally:
        torch.set_num_threads(threads)
    results = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]
    assert [result["way"] for result in results] == list(cpu_kernels.WAYS)
    for result in results:
        assert result["encode_ms"] > 0 and set(result["step_ms"]) == {"1", "2"}
        assert all(time > 0 for time in result["step_ms"].values())

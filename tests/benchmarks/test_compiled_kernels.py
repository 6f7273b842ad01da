"""Every kernel compiles for GPUs that are not here, spills nothing and finds its shared memory."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

from benchmarks import gpu_kernels


def table(*options: str) -> list[dict[str, int]]:
    """In a process of its own: this one interprets kernels."""
    environment = {key: x for key, x in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "benchmarks.gpu_kernels", *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found: list[dict[str, int]] = json.loads(done.stdout.splitlines()[-1])["results"]
    return found


def test_large_v3_on_two_targets() -> None:
    rows = table("--rows", "8", "--targets", "75,89")
    assert {row["target"] for row in rows} == {75, 89}
    assert all(row["spilled_bytes"] <= gpu_kernels.FEW_BYTES for row in rows)
    assert all(0 <= row["shared_bytes"] <= row["shared_limit"] for row in rows)
    products = [row for row in rows if "-bit" in row["kernel"] and "attention" not in row["kernel"]]
    assert len(products) == 25 and all(row["target"] == 89 for row in products)


@pytest.mark.more
@pytest.mark.parametrize(
    ("model", "rows"),
    [("large-v3", "1,64"), ("tiny", "8"), ("base", "8"), ("small", "8"), ("medium", "8")],
)
def test_every_size_on_every_target(model: str, rows: str) -> None:
    table("--model", model, "--rows", rows, "--targets", "75,80,89,90")


def test_a_kernel_that_does_not_fit_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(gpu_kernels, "compiled", lambda launch, target: (255, 16, 1024))
    assert gpu_kernels.main(["--rows", "1", "--targets", "90"]) == 1
    monkeypatch.setattr(gpu_kernels, "compiled", lambda launch, target: (255, 0, 300 << 10))
    assert gpu_kernels.main(["--rows", "1", "--targets", "90"]) == 1

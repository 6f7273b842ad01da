"""Several workers are one with more batches: the same weights, within float noise."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from training.checkpoints import RunFiles
from training.run import Run
from training.settings import FinetuneSettings
from training.workers import finetune
from training.world import World

Make = Callable[..., FinetuneSettings]

_WORKER = """
import sys
import torch
import torch.distributed as dist
from training.run import Run
from training.settings import FinetuneSettings
from training.world import World

rank, meeting, text = int(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
settings = FinetuneSettings.model_validate_json(text)
Run(settings, World(torch.device("cpu"), rank, 2), lambda _: None, lambda: False).go()
dist.destroy_process_group()
"""


def _weights(settings: FinetuneSettings) -> dict[str, torch.Tensor]:
    """Those of the last step; the result may be of an earlier one, which was better."""
    saved = RunFiles(settings).load()
    assert saved is not None and saved.step == settings.steps
    return saved.weights


def _check_the_same(ours: FinetuneSettings, theirs: FinetuneSettings) -> None:
    one, other = _weights(ours), _weights(theirs)
    base = load_file(Path(ours.model) / "model.safetensors")
    moved = max(float((one[name] - base[name]).abs().max()) for name in one)
    apart = max(float((one[name] - other[name]).abs().max()) for name in one)
    assert moved > 1e-3
    assert apart < 1e-2 * moved, (apart, moved)


@pytest.mark.more
def test_two_workers_are_one_with_twice_the_accumulation(settings: Make, tmp_path: Path) -> None:
    one = settings(steps=3, threads=1, accumulate=4)
    Run(one, World(torch.device("cpu")), lambda _: None, lambda: False).go()
    two = settings(steps=3, threads=1, accumulate=2, workers=2, output=str(tmp_path / "two"))
    command = [sys.executable, "-c", _WORKER]
    workers = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "meeting"), two.model_dump_json()])
        for rank in range(2)
    ]
    try:
        assert [worker.wait(900) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    _check_the_same(one, two)


@pytest.mark.more
def test_workers_on_ray_train(
    settings: Make, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They share clips to measure, too, and what they write is told here."""
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    sets = [{"name": "clips", "manifest": str(manifest)}]
    one = settings(steps=4, accumulate=2, threads=1, validation=sets, evaluate_every=4)
    Run(one, World(torch.device("cpu")), lambda _: None, lambda: False).go()
    two = settings(
        steps=4,
        accumulate=1,
        workers=2,
        threads=1,
        output=str(tmp_path / "two"),
        validation=sets,
        evaluate_every=4,
    )
    records: list[dict[str, Any]] = []
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        outcome = finetune(two, lambda record: records.append(dict(record)))
    finally:
        ray.shutdown()
    assert outcome.finished and outcome.step == 4
    assert [record["kind"] for record in records] == ["measured", *["step"] * 4, "measured"]
    assert all(record.get("words", {"clips": 70}) == {"clips": 70} for record in records)
    _check_the_same(one, two)

"""A small model, a manifest of the committed clips, and settings that use both."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine import Checkpoint
from tests.support.small_model import write_small_model
from training.settings import FinetuneSettings

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="session")
def small_model(
    checkpoints: dict[str, Checkpoint], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("small") / "model"
    return write_small_model(checkpoints["demo:tiny.en"], folder)


@pytest.fixture(scope="session")
def manifest(transcripts: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "manifest.jsonl"
    rows = [{"audio": str(DATA / name), "text": text} for name, text in transcripts.items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def settings(small_model: Path, manifest: Path, tmp_path: Path) -> Callable[..., FinetuneSettings]:
    """Settings of a run of a few steps; its arguments replace some of them."""

    def make(**changes: Any) -> FinetuneSettings:
        values = {
            "model": str(small_model),
            "output": str(tmp_path / "run"),
            "train": [str(manifest)],
            "steps": 4,
            "batch_size": 1,
            "accumulate": 2,
            "checkpoint_every": 2,
            "evaluate_every": 2,
            "optimiser": {"learning_rate": 1e-3},
            "augment": {"telephone": 0.5, "noise": 0.5, "speed": 0.1, "mask_frames": 50},
        }
        return FinetuneSettings.model_validate(values | changes)

    return make

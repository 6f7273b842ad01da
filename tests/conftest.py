"""Fixtures shared by all tests: real clips, real weights, the oracle."""

import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import settings

from engine import Checkpoint, Engine, EngineConfig, open_checkpoint
from tests.support.interpreter import INTERPRETED  # noqa: F401 - before what imports Triton
from tests.support.oracle import Oracle
from tests.support.progress import FileProgress

DATA = Path(__file__).parent / "data"
MODELS = ("demo:tiny.en", "demo:base")

# These machines are shared: how long an example takes says nothing.
settings.register_profile("murmur", deadline=None)
settings.load_profile("murmur")


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    is_worker = hasattr(config, "workerinput")  # of xdist; the lines are its parent's
    if reporter is not None and not is_worker and reporter.verbosity == 0:
        config.pluginmanager.register(FileProgress(reporter), "file-progress")


@pytest.fixture(scope="session", autouse=True)
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(min(2, before))
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def clips() -> dict[str, np.ndarray]:
    """The committed clips by name, int16 at 16 kHz."""
    return {path.name: read_pcm(path) for path in sorted(DATA.glob("librivox-*.wav"))}


@pytest.fixture(scope="session")
def transcripts() -> dict[str, str]:
    """The words spoken in the committed clips."""
    words: dict[str, str] = json.loads((DATA / "librivox.json").read_text(encoding="utf-8"))
    return words


@pytest.fixture(scope="session")
def checkpoints() -> dict[str, Checkpoint]:
    return {model: open_checkpoint(model) for model in MODELS}


@pytest.fixture(scope="session")
def engines(checkpoints: dict[str, Checkpoint]) -> dict[str, Engine]:
    """One float32 engine a model, idle between tests."""
    return {model: Engine(checkpoint, EngineConfig()) for model, checkpoint in checkpoints.items()}


@pytest.fixture(scope="session")
def oracles(checkpoints: dict[str, Checkpoint]) -> dict[str, Oracle]:
    with warnings.catch_warnings():
        # transformers' own deprecations are not ours to mend.
        warnings.simplefilter("ignore")
        return {model: Oracle(checkpoint) for model, checkpoint in checkpoints.items()}


def read_pcm(path: Path) -> np.ndarray:
    pcm, rate = soundfile.read(path, dtype="int16")
    assert rate == 16_000 and pcm.ndim == 1
    return pcm

"""The model behind an engine of this process."""

from engine import Engine
from engine.executor import LocalExecutor
from engine.runner import ModelRunner


def local_runner(engine: Engine) -> ModelRunner:
    """What an engine without a gang runs on."""
    assert isinstance(engine.executor, LocalExecutor), "the model is in other processes"
    return engine.executor.runner

"""Starts the workers of a run: one in this process, or several on Ray Train.

Ray Train (V2) places the workers, joins them with torch's process group (NCCL on GPUs, gloo on
CPUs), and starts all of them again when one is lost. They go on from the run's last checkpoint, as
one that was started by hand does: the output folder must be on storage that all of them see.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from training.checkpoints import RunFiles
from training.errors import TrainingError
from training.run import Outcome, Run, Say
from training.settings import FinetuneSettings
from training.world import World, device_of

_LOOK_EVERY_S = 0.5


def finetune(settings: FinetuneSettings, say: Say) -> Outcome:
    """Run to the end, from wherever an earlier run of the same settings stopped.

    SIGINT and SIGTERM end a run in this process after the step in progress, with a checkpoint.

    Args:
        say: gets the records of the history as they come.

    Raises:
        TrainingError: settings, data or state do not allow it.
        EngineError: there is no such model.
    """
    if settings.workers > 1:
        return _on_ray(settings, say)
    with _asked_to_stop() as stop:
        return Run(settings, World(device_of(settings.device)), say, stop).go()


@contextmanager
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Whether a signal has come meanwhile. A second one ends the process as ever."""
    asked = threading.Event()
    before: dict[signal.Signals, Any] = {}

    def ask(number: int, _: object) -> None:
        asked.set()
        signal.signal(number, before[signal.Signals(number)])

    if threading.current_thread() is threading.main_thread():
        before = {each: signal.signal(each, ask) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _on_ray(settings: FinetuneSettings, say: Say) -> Outcome:
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    on_gpu = device_of(settings.device).type == "cuda"
    cpus = {"CPU": float(settings.threads or 1)}
    work: Any = _worker  # whose result Ray's types do not know of
    trainer = TorchTrainer(
        work,
        train_loop_config={"settings": settings.model_dump(mode="json")},
        scaling_config=ScalingConfig(
            num_workers=settings.workers,
            use_gpu=on_gpu,
            resources_per_worker=cpus | ({"GPU": 1.0} if on_gpu else {}),
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=str(settings.output),
            failure_config=FailureConfig(max_failures=settings.restarts),
        ),
    )
    with _told(RunFiles(settings), say):
        try:
            result: Any = trainer.fit()  # typed as the older API's, which lacks a part
        except TrainingFailedError as error:
            raise TrainingError(f"the workers failed: {_reason(error)}") from error
    # Without a checkpoint of Ray's, what workers report is not in the result (Ray 2.60).
    assert result.return_value is not None
    return Outcome.from_values(result.return_value)


def _worker(config: dict[str, Any]) -> dict[str, Any]:
    """What each of several workers runs."""
    import ray.train
    from ray.train.torch import get_device

    settings = FinetuneSettings.model_validate(config["settings"])
    context = ray.train.get_context()
    world = World(get_device(), context.get_world_rank(), context.get_world_size())
    return Run(settings, world, lambda _: None, lambda: False).go().as_values()


@contextmanager
def _told(files: RunFiles, say: Say) -> Iterator[None]:
    """Pass on what workers elsewhere write to the history."""
    done = threading.Event()
    known = len(files.read_history())

    def look() -> None:
        n_told = known
        while True:
            last = done.is_set()
            records = files.read_history()
            n_told = min(n_told, len(records))  # a worker went back to its checkpoint
            for record in records[n_told:]:
                say(record)
            n_told = len(records)
            if last:
                return
            time.sleep(_LOOK_EVERY_S)

    thread = threading.Thread(target=look, name="history", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _reason(error: Exception) -> str:
    """The last line of what a worker said."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__

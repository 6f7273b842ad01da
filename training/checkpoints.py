"""A run's files, of which none is ever seen half-written.

    OUTPUT/
      data/DIGEST/           the decoded clips
      checkpoints/STEP/      what the run goes on from: weights that learn, optimiser, state.json
      best-STEP.safetensors  the weights that learn as they were at the best measurement
      history.jsonl          a line for each step and each measurement
      curves.png, curves.svg
      model/                 the result, for `murmur up` and `murmur transcribe --model`

Weights, optimiser and step are all that a checkpoint needs: what is drawn at random depends on
seeds and numbers of windows, and the learning rate on the step.
"""

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from training.errors import TrainingError
from training.settings import FinetuneSettings

_MAY_CHANGE = (
    *("output", "workers", "batch_size", "accumulate", "restarts", "device", "threads"),
    *("checkpoint_activations", "checkpoint_every", "keep_checkpoints", "patience", "licence"),
    "mirror",
)
"""Settings that do not change what is learnt, as long as a step has as many windows."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint as it was read."""

    step: int
    weights: dict[str, torch.Tensor]
    optimiser: dict[str, Any]


class RunFiles:
    """The files of one run."""

    def __init__(self, settings: FinetuneSettings) -> None:
        self.output = settings.output
        self._settings = settings
        self._folder = self.output / "checkpoints"

    @property
    def data(self) -> Path:
        return self.output / "data"

    @property
    def model(self) -> Path:
        return self.output / "model"

    @property
    def adapter(self) -> Path:
        return self.output / "adapter"

    @property
    def history(self) -> Path:
        return self.output / "history.jsonl"

    @property
    def newest_step(self) -> int | None:
        """Of the checkpoints; None if there is none."""
        return max(self._steps(), default=None)

    def of_step(self, step: int) -> Path:
        """The folder of a checkpoint."""
        return self._folder / f"{step:08}"

    def names_of(self, step: int) -> list[str]:
        """What a run needs to go on from a checkpoint, seen from `output`."""
        best_step = self._state_of(step)["best_step"]
        best = [] if best_step is None else [self._best(best_step)]
        return self._names([*self.of_step(step).iterdir(), *best, self.history])

    def names_of_result(self) -> list[str]:
        """What a finished run leaves to others, seen from `output`."""
        folders = [path for path in (self.model, self.adapter) if path.is_dir()]
        files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        return self._names([*files, *self.output.glob("curves.*"), self.history])

    def load(self) -> Saved | None:
        """The newest checkpoint, if there is one.

        Raises:
            TrainingError: it is of a run with other settings.
        """
        step = self.newest_step
        if step is None:
            return None
        folder, state = self.of_step(step), self._state_of(step)
        self._check_settings(state["settings"])
        return Saved(
            step=state["step"],
            weights=load_file(folder / "weights.safetensors"),
            optimiser=torch.load(folder / "optimiser.pt", map_location="cpu", weights_only=True),
        )

    def save(
        self,
        step: int,
        weights: Mapping[str, torch.Tensor],
        optimiser: dict[str, Any],
        best_step: int | None,
    ) -> None:
        """Write a checkpoint, then drop those that are too old, and weights that none of the
        others names as its best."""
        partial = self._folder / f"{step:08}.{os.getpid()}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(_on_cpu(weights), partial / "weights.safetensors")
        torch.save(optimiser, partial / "optimiser.pt")
        state = {"step": step, "best_step": best_step, "settings": self._described()}
        (partial / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
        _into_place(partial, self.of_step(step))
        self._prune()

    def save_best(self, step: int, weights: Mapping[str, torch.Tensor]) -> None:
        """Keep the weights that learn as they are at this step."""
        self.output.mkdir(parents=True, exist_ok=True)
        partial = self.output / f"best-{step:08}.{os.getpid()}.partial"
        save_file(_on_cpu(weights), partial)
        _into_place(partial, self._best(step))

    def load_best(self, step: int) -> dict[str, torch.Tensor]:
        weights: dict[str, torch.Tensor] = load_file(self._best(step))
        return weights

    def begin_history(self, step: int) -> list[dict[str, Any]]:
        """The history up to a step; what a lost run wrote after it is dropped. A step's line comes
        before the measurement of the weights that it left."""
        records = [record for record in self.read_history() if record["step"] <= step]
        partial = self.history.with_suffix(f".{os.getpid()}.partial")
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text("".join(map(_line, records)), encoding="utf-8")
        _into_place(partial, self.history)
        return records

    def read_history(self) -> list[dict[str, Any]]:
        if not self.history.exists():
            return []
        lines = self.history.read_text(encoding="utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def append_history(self, record: Mapping[str, Any]) -> None:
        with self.history.open("a", encoding="utf-8") as file:
            file.write(_line(record))

    def _described(self) -> dict[str, Any]:
        return self._settings.model_dump(mode="json")

    def _check_settings(self, before: dict[str, Any]) -> None:
        now = self._described()
        per_step = ("batch_size", "accumulate", "workers")
        product = [_product(settings[name] for name in per_step) for settings in (before, now)]
        changed = [
            name for name in now if name not in _MAY_CHANGE and now[name] != before.get(name)
        ]
        if product[0] != product[1]:
            changed.append("batch_size * accumulate * workers")
        if changed:
            raise TrainingError(
                f"output: {self.output} holds a run with other settings ({', '.join(changed)}): "
                "name another folder, or remove this one"
            )

    def _state_of(self, step: int) -> dict[str, Any]:
        text = (self.of_step(step) / "state.json").read_text(encoding="utf-8")
        state: dict[str, Any] = json.loads(text)
        return state

    def _names(self, paths: Iterable[Path]) -> list[str]:
        return [path.relative_to(self.output).as_posix() for path in paths]

    def _steps(self) -> list[int]:
        return [int(path.name) for path in self._folder.glob("*") if path.name.isdigit()]

    def _best(self, step: int) -> Path:
        return self.output / f"best-{step:08}.safetensors"

    def _prune(self) -> None:
        steps = sorted(self._steps())
        for step in steps[: -self._settings.keep_checkpoints]:
            shutil.rmtree(self.of_step(step), ignore_errors=True)
        named = set()
        for step in steps[-self._settings.keep_checkpoints :]:
            named.add(self._state_of(step)["best_step"])
        for path in self.output.glob("best-*.safetensors"):
            if int(path.stem.removeprefix("best-")) not in named:
                path.unlink()


def _on_cpu(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}


def _into_place(partial: Path, target: Path) -> None:
    """Write what the system still holds, then rename: a loss of power leaves the old or the new."""
    files = [partial] if partial.is_file() else [*partial.iterdir(), partial]
    for path in files:
        _sync(path)
    if target.is_dir():  # of a run that lost its memory of it
        shutil.rmtree(target)
    partial.replace(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def _product(numbers: Iterable[int]) -> int:
    result = 1
    for number in numbers:
        result *= number
    return result

"""A copy of a run's files in object storage, from which another machine goes on.

A machine that is taken away takes its disk with it. So each checkpoint is copied to storage that
fsspec reaches, and a run whose folder has none begins with that copy. Under the mirror's address
there are the same files as in the run's folder (`training.checkpoints`), and `mirror.json`, which
names those that belong together. It is written last: what was copied in part is never gone on from.
"""

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs

from training.checkpoints import RunFiles
from training.errors import TrainingError

_STATE = "mirror.json"


class Mirror:
    """The copy of one run.

    Args:
        url: any that fsspec knows, such as `s3://bucket/run` or `gs://bucket/run`.

    Raises:
        TrainingError: there is no such kind of storage, or its package is not installed.
    """

    def __init__(self, url: str, files: RunFiles) -> None:
        self.url = url
        self._files = files
        try:
            self._storage, self._root = url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise TrainingError(f"mirror: {url} cannot be used: {error}") from error

    def fetch(self) -> int | None:
        """Bring the copied checkpoint, unless the folder has one as new. Returns its step.

        Raises:
            TrainingError: the storage cannot be read.
        """
        try:
            state = self._state()
            if state is None or state["step"] <= (self._files.newest_step or 0):
                return None
            checkpoint = self._files.of_step(state["step"])
            partial = checkpoint.with_suffix(".fetched.partial")
            shutil.rmtree(partial, ignore_errors=True)
            for name in state["files"]:
                inside = Path(name).parts[:-1] == checkpoint.relative_to(self._files.output).parts
                target = partial / Path(name).name if inside else self._files.output / name
                target.parent.mkdir(parents=True, exist_ok=True)
                self._storage.get_file(self._at(state["folder"], name), str(target))
        except Exception as error:  # storages raise what their own libraries do
            raise TrainingError(f"mirror: {self.url} cannot be read: {error}") from error
        partial.replace(checkpoint)  # last: a run goes on from what stands there
        return int(state["step"])

    def push(self) -> None:
        """Copy the newest checkpoint and what belongs to it, then drop what it replaces."""
        step = self._files.newest_step
        assert step is not None, "there is a checkpoint"
        before = self._state()
        folder, names = f"{step:08}", self._files.names_of(step)
        self._put(folder, names)
        state = {"step": step, "folder": folder, "files": names}
        self._storage.pipe_file(self._at(_STATE), json.dumps(state, indent=2).encode())
        if before is not None and before["folder"] != folder:
            self._storage.rm(self._at(before["folder"]), recursive=True)

    def push_result(self) -> None:
        """Copy what a finished run leaves: model, adapter, curves and history."""
        self._put("result", self._files.names_of_result())

    def _put(self, folder: str, names: Iterable[str]) -> None:
        made: set[str] = set()
        for name in names:
            target = self._at(folder, name)
            parent = target.rpartition("/")[0]
            if parent not in made:
                self._storage.makedirs(parent, exist_ok=True)
                made.add(parent)
            self._storage.put_file(str(self._files.output / name), target)

    def _state(self) -> dict[str, Any] | None:
        if not self._storage.exists(self._at(_STATE)):
            return None
        state: dict[str, Any] = json.loads(self._storage.cat_file(self._at(_STATE)))
        return state

    def _at(self, *names: str) -> str:
        return "/".join((self._root.rstrip("/"), *names))


def tried(copy: Callable[[], None], say: Callable[[str], None]) -> bool:
    """Copy; what fails now is told and tried again with the next checkpoint. Returns whether it
    did not fail."""
    try:
        copy()
    except Exception as error:  # storages raise what their own libraries do
        say(f"the mirror could not be written: {error}")
        return False
    return True

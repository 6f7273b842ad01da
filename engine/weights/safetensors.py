"""Weights in transformers' folders: `model.safetensors`, whole or in shards. Memory-mapped."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from engine.errors import WeightsError
from engine.weights.source import Rows

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_OPEN_BYTES = 256 << 20


class SafetensorsSource:
    """The tensors of a folder's safetensors files.

    Pages that were read count as the process's memory as long as their file is open, so files are
    closed every now and then.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._n_read = 0
        self._handles: dict[str, Any] = {}
        self._file_of = self._read_index()

    def __contains__(self, name: str) -> bool:
        return name in self._file_of

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._slice(name).get_shape())

    def read(self, name: str, rows: Rows = None, columns: Rows = None) -> torch.Tensor:
        lazy, rows = self._slice(name), rows or slice(None)
        tensor: torch.Tensor = lazy[rows] if columns is None else lazy[rows, columns]
        self._n_read += tensor.nbytes
        if self._n_read > _OPEN_BYTES:
            self.release()
        return tensor

    def release(self) -> None:
        self._handles.clear()
        self._n_read = 0

    def _slice(self, name: str) -> Any:
        if name not in self._file_of:
            raise WeightsError(f"{self.folder}: no tensor {name!r} in the weight files")
        file, stored_name = self._file_of[name]
        try:
            return self._open(file).get_slice(stored_name)
        except SafetensorError as error:
            raise WeightsError(f"{self.folder / file}: {error}") from error

    def _open(self, file: str) -> Any:
        if file not in self._handles:
            try:
                self._handles[file] = safe_open(self.folder / file, framework="pt")
            except (SafetensorError, OSError) as error:
                raise WeightsError(f"{self.folder / file}: {error}") from error
        return self._handles[file]

    def _read_index(self) -> dict[str, tuple[str, str]]:
        """Canonical name -> (file, name in the file)."""
        index = self.folder / INDEX
        if index.exists():
            weight_map = _read_weight_map(index)
        else:
            weight_map = dict.fromkeys(self._open(SINGLE).keys(), SINGLE)
        return {name.removeprefix("model."): (file, name) for name, file in weight_map.items()}


def _read_weight_map(index: Path) -> dict[str, str]:
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        return {str(name): str(file) for name, file in content["weight_map"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise WeightsError(f"{index}: not an index of weights: {error!r}") from error

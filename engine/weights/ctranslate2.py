"""Weights in CTranslate2 folders: a `model.bin` of its own layout, memory-mapped.

The layout is read from CTranslate2's `Model::load` (src/models/model.cc, binary version 4 and up):
little-endian; a header, then per variable its name, shape, type id, size and bytes; then aliases.
Fused tensors (q, k and v; k and v) are presented under transformers' separate names as views.
int8 and int16 weights are dequantised with the scale stored beside them.
"""

import math
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import torch

from engine.errors import WeightsError
from engine.weights.source import Rows

_DTYPES = {0: "f4", 1: "i1", 2: "i2", 3: "i4", 4: "f2"}
_BFLOAT16 = 5

_LAYER_NAMES = {
    "self_attn_layer_norm": "self_attention/layer_norm",
    "self_attn.out_proj": "self_attention/linear_1",
    "encoder_attn_layer_norm": "attention/layer_norm",
    "encoder_attn.q_proj": "attention/linear_0",
    "encoder_attn.out_proj": "attention/linear_2",
    "final_layer_norm": "ffn/layer_norm",
    "fc1": "ffn/linear_0",
    "fc2": "ffn/linear_1",
}
_FUSED_NAMES = {
    "self_attn.q_proj": ("self_attention/linear_0", 0, 3),
    "self_attn.k_proj": ("self_attention/linear_0", 1, 3),
    "self_attn.v_proj": ("self_attention/linear_0", 2, 3),
    "encoder_attn.k_proj": ("attention/linear_1", 0, 2),
    "encoder_attn.v_proj": ("attention/linear_1", 1, 2),
}
_TOP_NAMES = {
    "embed_positions.weight": "position_encodings/encodings",
    "embed_tokens.weight": "embeddings/weight",
}


@dataclass(frozen=True, slots=True)
class _Stored:
    """Where a variable lies in the file."""

    shape: tuple[int, ...]
    type_id: int
    offset: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class _Part:
    """One of `count` equal blocks of rows of a stored variable."""

    stored: str
    index: int
    count: int


class CTranslate2Source:
    """The variables of one `model.bin`, under transformers' names."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._stored = _read_table(file)
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, struct.error, UnicodeDecodeError) as error:
            raise WeightsError(f"{path}: not a CTranslate2 model file ({error})") from error
        last = max((s.offset + s.n_bytes for s in self._stored.values()), default=0)
        if last == 0 or last > len(self._map):
            raise WeightsError(f"{path}: the file is cut short or is no CTranslate2 model")

    def __contains__(self, name: str) -> bool:
        # transformers' k_proj has no bias, CTranslate2 stores zeros for it.
        return not name.endswith("k_proj.bias") and self._part(name).stored in self._stored

    def shape(self, name: str) -> tuple[int, ...]:
        part = self._part(name)
        rows, *rest = self._variable(part.stored).shape
        return (rows // part.count, *rest)

    def read(self, name: str, rows: Rows = None, columns: Rows = None) -> torch.Tensor:
        part = self._part(name)
        n_rows = self.shape(name)[0]
        start, stop, _ = (rows or slice(None)).indices(n_rows)
        wanted = slice(part.index * n_rows + start, part.index * n_rows + stop)
        tensor = self._tensor(part.stored, wanted)
        return tensor if columns is None else tensor[:, columns]

    def release(self) -> None:
        """Give back the pages of the file that were read, which count as the process's memory until
        then."""
        self._map.madvise(mmap.MADV_DONTNEED)

    def scalar(self, stored_name: str) -> int:
        """An integer setting of the model, such as `decoder/num_heads`."""
        return int(self._array(stored_name).reshape(()))

    def n_layers(self, side: str) -> int:
        layers = {n.split("/")[1] for n in self._stored if n.startswith(f"{side}/layer_")}
        return len(layers - {"layer_norm"})

    def _tensor(self, stored: str, rows: slice) -> torch.Tensor:
        array = np.array(self._array(stored)[rows])
        self.release()  # only the copy is used
        if self._variable(stored).type_id == _BFLOAT16:
            return torch.from_numpy(array).view(torch.bfloat16)
        tensor = torch.from_numpy(array)
        if tensor.dtype not in (torch.int8, torch.int16):
            return tensor
        scales = torch.from_numpy(np.array(self._array(f"{stored}_scale")))
        scale = scales.reshape(-1)[rows] if scales.numel() > 1 else scales.reshape(1)
        return tensor.float() / scale.float().reshape(-1, *(1 for _ in tensor.shape[1:]))

    def _array(self, stored: str) -> npt.NDArray[np.generic]:
        variable = self._variable(stored)
        dtype = "i2" if variable.type_id == _BFLOAT16 else _DTYPES[variable.type_id]
        count = math.prod(variable.shape)
        array = np.frombuffer(self._map, f"<{dtype}", count, variable.offset)
        return array.reshape(variable.shape)

    def _variable(self, stored: str) -> _Stored:
        if stored not in self._stored:
            raise WeightsError(f"{self.path}: no variable {stored!r} in the model file")
        return self._stored[stored]

    def _part(self, name: str) -> _Part:
        stem, _, leaf = name.rpartition(".")
        side, _, rest = stem.partition(".")
        if f"{rest}.{leaf}" in _TOP_NAMES:
            return _Part(f"{side}/{_TOP_NAMES[f'{rest}.{leaf}']}", 0, 1)
        leaf = {"weight": "gamma", "bias": "beta"}[leaf] if rest.endswith("layer_norm") else leaf
        if not rest.startswith("layers."):
            return _Part(f"{side}/{rest}/{leaf}", 0, 1)
        _, layer, inner = rest.split(".", 2)
        prefix = f"{side}/layer_{layer}"
        if inner in _FUSED_NAMES:
            fused, index, count = _FUSED_NAMES[inner]
            return _Part(f"{prefix}/{fused}/{leaf}", index, count)
        return _Part(f"{prefix}/{_LAYER_NAMES.get(inner, inner)}/{leaf}", 0, 1)


def _read_table(file: BinaryIO) -> dict[str, _Stored]:
    version = _unpack(file, "I")
    if not 4 <= version <= 16:
        raise WeightsError(f"CTranslate2 binary version {version} is not supported")
    spec = _read_string(file)
    if spec != "WhisperSpec":
        raise WeightsError(f"a CTranslate2 model of type {spec!r} is no Whisper model")
    _unpack(file, "I")  # revision of the specification
    table = dict(_read_variables(file))
    for _ in range(_unpack(file, "I")):
        alias, name = _read_string(file), _read_string(file)
        table[alias] = table[name]
    return table


def _read_variables(file: BinaryIO) -> Iterator[tuple[str, _Stored]]:
    for _ in range(_unpack(file, "I")):
        name = _read_string(file)
        shape = tuple(_unpack(file, "I") for _ in range(_unpack(file, "B")))
        type_id, n_bytes = _unpack(file, "B"), _unpack(file, "I")
        if type_id not in _DTYPES and type_id != _BFLOAT16:
            raise WeightsError(f"variable {name!r} has the unknown type id {type_id}")
        yield name, _Stored(shape, type_id, file.tell(), n_bytes)
        file.seek(n_bytes, 1)


def _read_string(file: BinaryIO) -> str:
    length = _unpack(file, "H")
    return file.read(length)[:-1].decode("utf-8")  # the last byte is a NUL


def _unpack(file: BinaryIO, format_char: str) -> int:
    size = struct.calcsize(format_char)
    (value,) = struct.unpack(f"<{format_char}", file.read(size))
    return int(value)

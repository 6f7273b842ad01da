"""Adapters with random values in PEFT's format, and models into which they are merged."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from engine import Checkpoint, open_checkpoint
from engine.weights.adapters import CONFIG, WEIGHTS, Adapter
from engine.weights.shapes import tensor_shapes
from engine.weights.source import Rows

ALL = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


def write_adapter(
    checkpoint: Checkpoint,
    folder: Path,
    seed: int,
    rank: int = 8,
    layers: Sequence[str] = ALL,
    sides: Sequence[str] = ("encoder", "decoder"),
    strength: float = 0.3,
    **config: Any,
) -> Path:
    """Write an adapter with additions whose norm is `strength` of the weights' own."""
    generator = torch.Generator().manual_seed(seed)
    alpha = 2.0 * rank
    tensors = {}
    for name, shape in tensor_shapes(checkpoint.dims).items():
        layer = name.removesuffix(".weight")
        if layer.rpartition(".")[2] not in layers or layer.partition(".")[0] not in sides:
            continue
        if len(shape) != 2:
            continue
        down = torch.randn(rank, shape[1], generator=generator)
        up = torch.randn(shape[0], rank, generator=generator)
        norm = checkpoint.source.read(name).float().norm()
        up *= strength * norm / (2.0 * (up @ down).norm())
        key = f"base_model.model.model.{layer}"
        tensors |= {f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS)
    targets = rf"model\.({'|'.join(sides)})\.layers\..*\.({'|'.join(layers)})"
    content = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "bias": "none"}
    (folder / CONFIG).write_text(json.dumps(content | {"target_modules": targets} | config))
    return folder


class MergedSource:
    """A checkpoint's tensors with an adapter's additions in them, as one who merges would save."""

    def __init__(self, checkpoint: Checkpoint, adapter: Adapter) -> None:
        self._base = checkpoint.source
        self._adapter = adapter

    def __contains__(self, name: str) -> bool:
        return name in self._base

    def shape(self, name: str) -> tuple[int, ...]:
        return self._base.shape(name)

    def read(self, name: str, rows: Rows = None, columns: Rows = None) -> torch.Tensor:
        layer = name.removesuffix(".weight")
        if layer not in self._adapter.layers or not name.endswith(".weight"):
            return self._base.read(name, rows, columns)
        down, up = self._adapter.matrices(layer)
        whole = self._base.read(name).float() + up @ down
        return whole[rows or slice(None), columns or slice(None)]

    def release(self) -> None:
        self._base.release()


def merged(checkpoint: Checkpoint, name: str) -> Checkpoint:
    """The model with one of its adapters merged into it."""
    adapter = next(each for each in checkpoint.adapters if each.name == name)
    return replace(checkpoint, source=MergedSource(checkpoint, adapter), adapters=())


def with_adapters(model: str, folders: Mapping[str, Path]) -> Checkpoint:
    return open_checkpoint(model, {name: str(folder) for name, folder in folders.items()})

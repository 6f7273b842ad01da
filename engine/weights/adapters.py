"""Reads LoRA adapters: low-rank additions to a model's linear layers (arXiv:2106.09685).

The format is PEFT's: `adapter_config.json` and `adapter_model.safetensors`. What `murmur finetune`
saves has a `murmur.json` beside them, which identifies the model that the adapter belongs to.
"""

import math
import re
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from engine.config import ModelDimensions
from engine.errors import WeightsError
from engine.weights.json_file import read_json
from engine.weights.shapes import tensor_shapes

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
METADATA = "murmur.json"
_TENSOR = re.compile(r"(?:base_model\.model\.)?(?:model\.)?(.+)\.lora_([AB])\.weight")
_LINEARS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
_MUST_BE_OFF = ("use_dora", "use_qalora", "lora_bias", "modules_to_save", "rank_pattern",
                "alpha_pattern", "layer_replication", "megatron_config", "alora_invocation_tokens",
                "target_parameters", "trainable_token_indices")  # fmt: skip
"""Fields of PEFT's `LoraConfig` that change the arithmetic, or what is in the file."""
_PLAIN_STARTS = (True, False, "gaussian", "orthogonal", "eva")
"""Values of `init_lora_weights` that leave the base's weights as they were."""


@dataclass(frozen=True)
class Adapter:
    """An adapter that fits its model: y + scale * (x A) B is a layer's output with it.

    Attributes:
        name: what requests call it.
        layers: the linear layers that it adapts, such as `decoder.layers.0.fc1`.
        scale: by which its additions are multiplied.
        checksum: of all its values; equal adapters have equal ones.
        shapes: (out, in) of each of the layers.
    """

    name: str
    folder: Path
    rank: int
    scale: float
    checksum: int
    shapes: dict[str, tuple[int, int]]
    stored: dict[tuple[str, str], str]

    @cached_property
    def layers(self) -> frozenset[str]:
        return frozenset(self.shapes)

    def matrices(self, layer: str) -> tuple[torch.Tensor, torch.Tensor]:
        """A, (rank, in), and scale * B, (out, rank), of one of `layers`; float32, on the CPU."""
        with safe_open(self.folder / WEIGHTS, framework="pt") as file:
            down, up = (file.get_tensor(self.stored[layer, side]).float() for side in "AB")
        return down, up * self.scale


def open_adapter(name: str, folder: Path, dims: ModelDimensions, fingerprint: str) -> Adapter:
    """Open an adapter, and look at all that it holds.

    Args:
        dims: sizes of the model that it is to adapt.
        fingerprint: of that model (`Checkpoint.fingerprint`).

    Raises:
        WeightsError: it cannot be read, belongs to another model, or is of a kind that is not
            supported.
    """
    label = f"adapter {name} ({folder})"
    if not (folder / CONFIG).is_file():
        raise WeightsError(f"{label}: there is no {CONFIG}")
    config = read_json(folder / CONFIG, f"{label}: {CONFIG}")
    _check_kind(label, config)
    _check_base(label, folder, fingerprint)
    tensors = _read_tensors(label, folder)
    stored = _by_layer(label, tensors)
    rank = config["r"]
    widths = {key: tuple(tensors[tensor].shape) for key, tensor in stored.items()}
    shapes = _check_shapes(label, widths, rank, dims)
    _check_complete(label, config, set(shapes), dims)
    alpha = float(config["lora_alpha"])
    return Adapter(
        name,
        folder,
        rank,
        alpha / (math.sqrt(rank) if config.get("use_rslora") else rank),
        _checksum(tensors, alpha),
        shapes,
        stored,
    )


def _check_kind(label: str, config: dict[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise WeightsError(f"{label}: peft_type is {config.get('peft_type')!r}, not 'LORA'")
    for field in _MUST_BE_OFF:
        if config.get(field):
            raise WeightsError(f"{label}: {field} is not supported")
    if config.get("bias", "none") != "none":
        raise WeightsError(f"{label}: bias {config['bias']!r} is not supported, only 'none'")
    start = config.get("init_lora_weights", True)
    if start not in _PLAIN_STARTS:
        raise WeightsError(f"{label}: init_lora_weights {start!r} changes the base's weights")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1:
        raise WeightsError(f"{label}: r must be a whole number from 1, got {rank!r}")
    if not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise WeightsError(f"{label}: lora_alpha must be a number, got {alpha!r}")


def _check_base(label: str, folder: Path, fingerprint: str) -> None:
    """An adapter of another model of the same sizes would load, and write nonsense."""
    if not (folder / METADATA).is_file():
        return
    origin = read_json(folder / METADATA, f"{label}: {METADATA}").get("trained_from")
    if isinstance(origin, dict) and origin.get("fingerprint") != fingerprint:
        raise WeightsError(f"{label}: it was trained on another model: {origin.get('model')}")


def _read_tensors(label: str, folder: Path) -> dict[str, torch.Tensor]:
    if not (folder / WEIGHTS).is_file():
        raise WeightsError(f"{label}: there is no {WEIGHTS}")
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in sorted(file.keys())}
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{label}: {WEIGHTS}: {error}") from error
    for key, tensor in tensors.items():
        if not tensor.is_floating_point() or not torch.isfinite(tensor).all():
            raise WeightsError(f"{label}: {key} holds values that are no finite numbers")
    return tensors


def _by_layer(label: str, tensors: dict[str, torch.Tensor]) -> dict[tuple[str, str], str]:
    """(layer, "A" or "B") -> name in the file."""
    stored: dict[tuple[str, str], str] = {}
    for key in tensors:
        match = _TENSOR.fullmatch(key)
        if match is None:
            raise WeightsError(f"{label}: {key} is no matrix of a LoRA adapter")
        stored[match[1], match[2]] = key
    if not stored:
        raise WeightsError(f"{label}: {WEIGHTS} is empty")
    return stored


def _check_shapes(
    label: str,
    found: dict[tuple[str, str], tuple[int, ...]],
    rank: int,
    dims: ModelDimensions,
) -> dict[str, tuple[int, int]]:
    linears = _linears(dims)
    shapes: dict[str, tuple[int, int]] = {}
    for layer in dict.fromkeys(layer for layer, _ in found):
        if layer not in linears:
            raise WeightsError(f"{label}: the model has no linear layer {layer} to adapt")
        n_out, n_in = shapes[layer] = linears[layer]
        for side, shape in (("A", (rank, n_in)), ("B", (n_out, rank))):
            if (layer, side) not in found:
                raise WeightsError(f"{label}: the tensor lora_{side} of {layer} is missing")
            if found[layer, side] != shape:
                raise WeightsError(
                    f"{label}: lora_{side} of {layer} is {found[layer, side]}, the model and the "
                    f"rank say {shape}"
                )
    return shapes


def _check_complete(
    label: str, config: dict[str, Any], found: set[str], dims: ModelDimensions
) -> None:
    """Check that the file has all layers that the configuration names."""
    if config.get("exclude_modules") or config.get("layers_to_transform") is not None:
        return
    targets = config.get("target_modules")
    expected = {layer for layer in _linears(dims) if _is_target(layer, targets)}
    if missing := sorted(expected - found):
        raise WeightsError(f"{label}: the tensors of {missing[0]} are missing, a target module")


def _is_target(layer: str, targets: object) -> bool:
    """As PEFT matches `target_modules` (`peft.tuners.tuners_utils.check_target_module_exists`)."""
    full = f"model.{layer}"
    if isinstance(targets, str):
        return targets == "all-linear" or re.fullmatch(targets, full) is not None
    names = targets if isinstance(targets, list) else []
    return any(full == name or full.endswith(f".{name}") for name in names)


def _linears(dims: ModelDimensions) -> dict[str, tuple[int, int]]:
    """(out, in) of each linear layer that can be adapted."""
    return {
        layer: (shape[0], shape[1])
        for name, shape in tensor_shapes(dims).items()
        if (layer := name.removesuffix(".weight")).rpartition(".")[2] in _LINEARS
        and name.endswith(".weight")
    }


def _checksum(tensors: dict[str, torch.Tensor], alpha: float) -> int:
    total = zlib.crc32(repr(alpha).encode())
    for key, tensor in tensors.items():
        total = zlib.crc32(tensor.contiguous().view(torch.uint8).numpy().tobytes(), total)
        total = zlib.crc32(key.encode(), total)
    return total

"""What a GPU of each class can do, by Ray's names of classes, as `gpu_catalogue` knows them.

Peaks, of dense arithmetic. A stage's share of the layers depends on ratios alone, so that
they serve as well as what is reached.
"""

from collections.abc import Sequence

import torch

from deployments.planning.gpu_catalogue import gpu_catalogue
from engine import Precision
from engine.parallel.cost import DeviceModel
from engine.precision import Arithmetic

CPU = "cpu"
"""Stands for a device without a GPU."""
RUNTIME_BYTES = 2**30
"""Of each GPU's memory, for the CUDA context, libraries' workspaces and what the allocator rounds
up to: an allowance, not a measurement."""
_UNKNOWN = DeviceModel(flops_per_s=300e12, bytes_per_s=1.5e12, memory_bytes=float("inf"))
_CPU = DeviceModel(flops_per_s=100e9, bytes_per_s=10e9, memory_bytes=float("inf"))
"""A core with AVX-512; of a CPU's memory nothing is known here."""


def device_model(accelerator: str, precision: Precision | None = None) -> DeviceModel:
    """One GPU of a class, or one core; unknown classes are taken for alike.

    Args:
        precision: whose peak to take, where a source states it; by default 16 bits.
    """
    if accelerator == CPU:
        return _CPU
    gpu = gpu_catalogue().find(accelerator)
    if gpu is None:
        return _UNKNOWN
    in_half = gpu.flops_per_s[gpu.half_format]
    flops_per_s = gpu.flops_per_s.get(precision or gpu.half_format, in_half)
    return DeviceModel(flops_per_s, gpu.bytes_per_s, gpu.memory_bytes - RUNTIME_BYTES)


def shared_arithmetic(accelerators: Sequence[str]) -> Arithmetic:
    """What all of the devices that share a model multiply, for a process that has none of them to
    ask. Unknown classes of GPU are taken for new ones: each rank asks its own."""
    if CPU in accelerators:
        return Arithmetic.of(torch.device("cpu"))
    found = [gpu for name in accelerators if (gpu := gpu_catalogue().find(name)) is not None]
    if not found:
        return Arithmetic.of_gpu(f"a GPU of class {accelerators[0]!r}", (9, 0))
    least = min(found, key=lambda gpu: gpu.compute_capability)
    return Arithmetic.of_gpu(least.name, least.compute_capability)


def shared_default_precision(accelerators: Sequence[str]) -> Precision:
    """As `engine.default_precision` chooses it where there is a device to ask."""
    return shared_arithmetic(accelerators).default

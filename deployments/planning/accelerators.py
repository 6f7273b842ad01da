"""The performance of each class of GPU in `gpu_catalogue`, by Ray's names of the classes.

The figures are peaks of dense arithmetic. A stage's share of the layers depends only on ratios, so
peaks serve as well as the speeds that are reached in practice.
"""

from collections.abc import Sequence

from deployments.planning.gpu_catalogue import gpu_catalogue
from engine import Precision
from engine.parallel.device_model import DeviceModel
from engine.precision import Arithmetic

CPU = "cpu"
"""Class name for a device without a GPU."""
RUNTIME_BYTES = 2**30
"""Memory of each GPU that is set aside for the CUDA context, libraries' workspaces and the
allocator's rounding. This is an allowance, not a measurement."""
_UNKNOWN = DeviceModel(flops_per_s=300e12, bytes_per_s=1.5e12, memory_bytes=float("inf"))
_CPU = DeviceModel(flops_per_s=100e9, bytes_per_s=10e9, memory_bytes=float("inf"))
"""One core with AVX-512. The memory of a CPU is not known here."""


def device_model(accelerator: str, precision: Precision | None = None) -> DeviceModel:
    """The model of one GPU of a class, or of one CPU core. All unknown classes get the same model.

    Args:
        accelerator: `CPU`, or Ray's name of a class of GPU.
        precision: the precision whose peak to use, if a source states it; by default 16 bits.
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
    """The arithmetic that all devices of a model support, for a process that has none of these
    devices to ask. If all classes are unknown, a recent GPU is assumed; each rank asks its own
    device later."""
    if CPU in accelerators:
        import torch

        return Arithmetic.of(torch.device("cpu"))
    return _of_gpus(accelerators)


def check_precision(precision: Precision, accelerators: Sequence[str]) -> None:
    """Check that all devices of a model have a precision, without torch.

    Raises:
        PrecisionError: one has not.
    """
    on_cpu = CPU in accelerators
    precision.check(Arithmetic.of_cpu(False) if on_cpu else _of_gpus(accelerators))


def _of_gpus(accelerators: Sequence[str]) -> Arithmetic:
    found = [gpu for name in accelerators if (gpu := gpu_catalogue().find(name)) is not None]
    if not found:
        return Arithmetic.of_gpu(f"a GPU of class {accelerators[0]!r}", (9, 0))
    least = min(found, key=lambda gpu: gpu.compute_capability)
    return Arithmetic.of_gpu(least.name, least.compute_capability)


def shared_default_precision(accelerators: Sequence[str]) -> Precision:
    """The precision that `engine.default_precision` would choose if the devices were here."""
    return shared_arithmetic(accelerators).default

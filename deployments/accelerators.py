"""What a GPU of each class can do, by Ray's names of classes.

From NVIDIA's data sheets, in dense 16-bit arithmetic, and for the A10G from AWS's page on G5. A
stage's share of the layers depends on ratios alone, so that peaks serve as well as what is reached.
"""

from engine import Precision
from engine.parallel.cost import DeviceModel

CPU = "cpu"
"""Stands for a device without a GPU."""
_GIB = 2.0**30
_RUNTIME_BYTES = 1.0 * _GIB
"""Of a GPU's memory, for what CUDA, its libraries and the allocator's rounding take."""
_UNKNOWN = DeviceModel(flops_per_s=300e12, bytes_per_s=1.5e12, memory_bytes=float("inf"))
_CPU = DeviceModel(flops_per_s=100e9, bytes_per_s=10e9, memory_bytes=float("inf"))
"""A core with AVX-512; of a CPU's memory nothing is known here."""

# Ray labels every A100 as such, whatever its memory; the longer names are for labels set by hand.
_TFLOPS_GBPS_GIB = {
    "V100": (125, 900, 16),
    "T4": (65, 320, 16),
    "L4": (121, 300, 24),
    "A10G": (70, 600, 24),
    "L40S": (362, 864, 48),
    "A100": (312, 2039, 80),
    "A100-40G": (312, 1555, 40),
    "A100-80G": (312, 2039, 80),
    "H100": (989, 3350, 80),
    "H200": (989, 4800, 141),
    "B200": (2250, 7700, 180),
}
_WITHOUT_BFLOAT16 = ("V100", "T4")


def device_model(accelerator: str) -> DeviceModel:
    """One GPU of a class, or one core; unknown classes are taken for alike."""
    if accelerator == CPU:
        return _CPU
    if accelerator not in _TFLOPS_GBPS_GIB:
        return _UNKNOWN
    teraflops, gigabytes_per_s, gibibytes = _TFLOPS_GBPS_GIB[accelerator]
    memory_bytes = gibibytes * _GIB - _RUNTIME_BYTES
    return DeviceModel(teraflops * 1e12, gigabytes_per_s * 1e9, memory_bytes)


def gpu_precision(accelerators: tuple[str, ...]) -> Precision:
    """The default of GPUs that share a model, as `engine.default_precision` chooses it where there
    is one to ask."""
    lacks = any(name in _WITHOUT_BFLOAT16 for name in accelerators)
    return Precision.FLOAT16 if lacks else Precision.BFLOAT16

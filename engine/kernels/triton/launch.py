"""A kernel with all that its launch needs: to run it, or to compile it for an absent device."""

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from triton.errors import TritonError

Argument = torch.Tensor | int | float
PRESENT = 0
"""Stands for the capability of the device that the tensors are on."""
_ASSUMED = 90
FAILURES = (
    TritonError,
    RuntimeError,
    OSError,
    AssertionError,
    subprocess.CalledProcessError,
)
"""What Triton raises where it lacks a compiler, a driver or support for the device, or where a
program finds too little shared memory."""


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch.

    Attributes:
        kernel: a function compiled by Triton.
        arguments: by the kernel's names, in their order; tensors are passed as pointers.
        constants: what the kernel is compiled for.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: Mapping[str, Argument]
    constants: Mapping[str, Any]
    num_warps: int
    num_stages: int = 1

    def run(self) -> None:
        """Start it on the current stream."""
        self.kernel[self.grid](
            **self.arguments,
            **self.constants,
            num_warps=self.num_warps,
            num_stages=self.num_stages,
        )


@cache
def capability_of(device: torch.device) -> int:
    """A device's compute capability, such as 90; on a CPU, where Triton interprets, any."""
    if device.type != "cuda":
        return _ASSUMED
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def capability(x: torch.Tensor, wanted: int) -> int:
    """The capability to launch for: `wanted`, or that of a tensor's device."""
    return capability_of(x.device) if wanted == PRESENT else wanted


def power_of_two(value: int) -> int:
    """The smallest one that is not less."""
    return 1 << (value - 1).bit_length()

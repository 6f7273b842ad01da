"""Kernels of our own for NVIDIA GPUs, in Triton, for the steps of a decoder.

They are chosen when a layer is loaded, on CUDA devices where Triton is installed (CUDA builds of
torch bring it), unless the variable MURMUR_TRITON is 0. Before they are used on a device, each
runs once there beside torch's own operators; if one cannot be compiled or its numbers differ, a
warning says so, and everything runs on torch. Nothing here imports Triton before it is needed.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from engine.kernels.triton.calls import GpuKernels
    from engine.kernels.triton.tuner import Tuner

HEAD_DIMS = (16, 32, 64, 128)
"""Widths of a head that attention's kernels take; 64 in every Whisper model."""
WIDTH_STEP = 64
"""`absorbed_attention` takes models whose width is a multiple."""
VARIABLE = "MURMUR_TRITON"
"""0 turns the kernels off."""
TUNE_VARIABLE = "MURMUR_TRITON_TUNE"
"""0: how kernels are launched is neither measured nor read from the file of an earlier start."""
_enabled = True
_logger = logging.getLogger(__name__)


def gpu_kernels(device: torch.device) -> "GpuKernels | None":
    """The kernels, if they run on the device; None if torch's operators have to do."""
    if (
        device.type != "cuda"
        or torch.version.hip
        or not _enabled
        or os.environ.get(VARIABLE) == "0"
    ):
        return None
    return _trusted(device) if find_spec("triton") else None


@contextmanager
def disabled() -> Iterator[None]:
    """A context for models loaded in it, as if Triton were not installed: to compare."""
    global _enabled
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before


@cache
def _trusted(device: torch.device) -> "GpuKernels | None":
    from engine.kernels.triton.calls import GpuKernels
    from engine.kernels.triton.trial import fault

    kernels = GpuKernels.on(device)
    found = fault(kernels, device)
    if found is None:
        return kernels.tuned_by(_tuner(device)) if _is_tuned() else kernels
    _logger.warning("Triton's kernels are not used on %s: %s", device, found)
    return None


def _is_tuned() -> bool:
    return os.environ.get(TUNE_VARIABLE) != "0"


def _tuner(device: torch.device) -> "Tuner":
    from engine.kernels.triton.choice_file import ChoiceFile
    from engine.kernels.triton.tuner import Tuner

    return Tuner(device, ChoiceFile.of(device))

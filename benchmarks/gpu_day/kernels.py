"""Each of our kernels on the device: beside its twin, against the clock, and in other tilings."""

import argparse
import time
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch

from engine.config import ModelDimensions
from engine.kernels.triton.launch import Launch
from engine.model_sizes import MODEL_SIZES

_ROUNDS = 50
_TINY = ModelDimensions(80, 51_865, 30, 64, 1, 1, 64, 64, 1, 1)


def kernels(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Differences to the twins, then times at large-v3's sizes beside the bytes that they move."""
    if not find_spec("triton"):
        yield {"kernel": "none: Triton is not installed", "right": options.device == "cpu"}
        return
    from benchmarks.kernel_cases import cases
    from engine.kernels.triton.calls import GpuKernels
    from engine.kernels.triton.launch import capability_of
    from engine.kernels.triton.trial import cases as trials
    from engine.kernels.triton.trial import difference

    device = torch.device(options.device)
    ours = GpuKernels.on(device)
    # Triton's interpreter multiplies no bfloat16.
    halves = [torch.float16]
    if ours.multiplies and device.type == "cuda":
        halves.append(torch.bfloat16)
    for dtype in halves:
        for trial in trials(ours, device, dtype):
            error = difference(trial.run(), trial.twin())
            yield {
                "kernel": trial.name,
                "format": str(dtype).removeprefix("torch."),
                "difference": error,
                "right": error <= trial.tolerance,
            }
    dims = _TINY if options.rehearse else MODEL_SIZES["large-v3"]
    for n in (1,) if options.rehearse else (1, 8, 64, 256):
        for case in cases(dims, n, capability_of(device), device):
            seconds = _seconds(case.launch, device, 1 if options.rehearse else _ROUNDS)
            yield {
                "kernel": case.name,
                "rows": n,
                "us": seconds * 1e6,
                "MB": case.moved_bytes / 1e6,
                "GB/s": case.moved_bytes / seconds / 1e9,
            }
    yield from _tilings(dims, device, options.rehearse)


def _tilings(
    dims: ModelDimensions, device: torch.device, rehearse: bool
) -> Iterator[dict[str, Any]]:
    """What there is to choose for some shapes, and what was the fastest."""
    from engine.kernels.triton import tuned_shapes, tuner
    from engine.kernels.triton.weights import Weight

    clock = partial(_seconds, device=device, rounds=1) if rehearse else tuner.seconds_of
    width, half = dims.n_text_state, torch.float16
    outputs = width if rehearse else 4 * width
    weight = torch.empty(outputs, width, dtype=half, device=device)
    windows = dims.n_text_head, dims.n_audio_ctx, dims.head_dim
    keys = torch.empty(1 if rehearse else 8, *windows, dtype=half, device=device)
    found = [
        *list(tuned_shapes.products(Weight(weight), half))[:: 6 if rehearse else 4],
        list(tuned_shapes.cross_attention(keys, half))[-1],
    ]
    for choice in found:
        seconds: list[float] = []

        def timed(launch: Launch, seconds: list[float] = seconds) -> float:
            seconds.append(clock(launch))
            return seconds[-1]

        chosen = tuner.fastest(choice.name, choice.tilings, choice.trial(), timed)
        yield {
            "chosen for": choice.name,
            "block, stages": str(tuple(chosen)),
            "measured": len(seconds),
            "of": len(choice.tilings),
            "usual, us": seconds[0] * 1e6,
            "fastest, us": min(seconds) * 1e6,
        }


def _seconds(launch: Launch, device: torch.device, rounds: int) -> float:
    """Of one launch, among many, after it has been compiled."""
    launch.run()
    _wait(device)
    start = time.perf_counter()
    for _ in range(rounds):
        launch.run()
    _wait(device)
    return (time.perf_counter() - start) / rounds


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

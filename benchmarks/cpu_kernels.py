"""What a CPU's kernels cost: one window's encoding and one decoder step, side by side in one run.

    python -m benchmarks.cpu_kernels [--models ...] [--batches 1,8,24] [--threads 1] [--rounds 15]

Engines with and without the native kernels take turns, with those for each set of instructions that
the processor has, and the medians count. In a step, all sequences are at their 60th position.
Prints a table, then one JSON line; times are milliseconds.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import torch

from benchmarks.accuracy import MODELS
from engine import N_SAMPLES, EngineConfig, Precision, open_checkpoint
from engine.kernels import native_builds
from engine.runner import ModelRunner
from engine.steps import Decode

POSITION = 60
WAYS: dict[str, tuple[Precision, Callable[[], AbstractContextManager[None]]]] = {
    "float32": (Precision.FLOAT32, nullcontext),
    "int8, torch": (Precision.INT8, native_builds.disabled),
    "bfloat16": (Precision.BFLOAT16, nullcontext),
    **{
        f"int8, {name}": (Precision.INT8, partial(native_builds.limited_to, name))
        for name in native_builds.INSTRUCTIONS
        if native_builds.runs(name)
    },
}


@dataclass(frozen=True)
class Row:
    """A model in one setup: medians in milliseconds; steps by the number of sequences."""

    model: str
    way: str
    encode_ms: float
    step_ms: dict[int, float]


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    torch.set_num_threads(options.threads)
    rows = [row for model in options.models for row in _measure(model, options)]
    steps = " | ".join(f"step of {n}, ms" for n in options.batches)
    print(f"| model | way | window, ms | {steps} |")
    print("|---" * (3 + len(options.batches)) + "|")
    for row in rows:
        times = " | ".join(f"{row.step_ms[n]:.1f}" for n in options.batches)
        print(f"| {row.model} | {row.way} | {row.encode_ms:.0f} | {times} |")
    print(json.dumps({"results": [asdict(row) for row in rows]}))


def _measure(model: str, options: argparse.Namespace) -> list[Row]:
    window = np.random.default_rng(0).integers(-3000, 3000, N_SAMPLES).astype(np.int16)
    runners: dict[str, ModelRunner] = {}
    for way, (precision, kernels) in WAYS.items():
        config = EngineConfig(precision=precision, max_slots=max(options.batches))
        with kernels():
            runners[way] = ModelRunner(open_checkpoint(model), config)
            for slot in range(config.max_slots):
                runners[way].encode([window], [slot])
    encode: dict[str, list[float]] = {way: [] for way in WAYS}
    steps: dict[str, dict[int, list[float]]] = {
        way: {n: [] for n in options.batches} for way in WAYS
    }
    for _ in range(options.rounds):
        for way, runner in runners.items():
            with WAYS[way][1]():
                encode[way].append(_milliseconds(partial(runner.encode, [window], [0])))
                for n in options.batches:
                    steps[way][n].append(_milliseconds(partial(_step, runner, n)))
    return [
        Row(
            model,
            way,
            statistics.median(encode[way]),
            {n: statistics.median(times) for n, times in steps[way].items()},
        )
        for way in WAYS
    ]


def _step(runner: ModelRunner, n: int) -> None:
    runner.banks[0].positions[:] = POSITION
    runner.decode(Decode(0, n, POSITION + 1, (None,) * n))


def _milliseconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e3


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What a CPU's kernels cost.")
    parser.add_argument("--models", type=lambda text: text.split(","), default=MODELS.split(","))
    parser.add_argument("--batches", type=_numbers, default=[1, 8, 24])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    return parser.parse_args(arguments)


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    main()

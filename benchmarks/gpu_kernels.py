"""Compiles our kernels for GPUs that are not here, and says what each needs of a device.

    python -m benchmarks.gpu_kernels [--model large-v3] [--rows 1,8,64] [--targets 75,80,86,89,90]

Nothing runs: Triton compiles for a named target, with the ptxas that it brings. Registers are of a
thread; spilled are bytes of a thread that do not fit into them; shared memory is of a program, next
to the most that the target gives one. Bytes are what a launch has to move at least, microseconds
what that takes at the peak bandwidth of the GPU: computed, not measured. Ends with a JSON line; the
exit code is 1 if a kernel spills more than two registers or takes more shared memory than there is.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.kernel_cases import Case, cases
from deployments.planning.gpu_catalogue import gpu_catalogue
from engine.kernels.triton.launch import Launch
from engine.model_sizes import MODEL_SIZES

SHARED_BYTES = {75: 64 << 10, 80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10}
"""The most of a program, by compute capability (CUDA C++ Programming Guide, technical
specifications per compute capability)."""
FEW_BYTES = 8
"""Two registers of a thread, which ptxas may put aside once for the sake of one more program on a
core. More are spills, which come and go in the loop."""
GPUS = {75: "T4", 80: "A100", 86: "A10G", 89: "L40S", 90: "H100"}
"""Of each target, the one whose bandwidth the times are for."""
_POINTERS = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int8: "*i8",
    torch.uint8: "*u8",
    torch.int16: "*i16",
    torch.int64: "*i64",
    torch.bool: "*i1",
}


@dataclass(frozen=True)
class Row:
    """A kernel on a target."""

    kernel: str
    rows: int
    target: int
    registers: int
    spilled_bytes: int
    shared_bytes: int
    shared_limit: int
    moved_bytes: int
    microseconds: float

    @property
    def fits(self) -> bool:
        return self.spilled_bytes <= FEW_BYTES and self.shared_bytes <= self.shared_limit


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    if os.environ.get("TRITON_INTERPRET") == "1":
        print("gpu_kernels: TRITON_INTERPRET=1 compiles nothing: unset it", file=sys.stderr)
        return 2
    print("| target | kernel | rows | registers | spilled | shared, of | MB | at least, us |")
    print("|---" * 8 + "|")
    found = []
    for row in _rows(options):
        found.append(row)
        print(_line(row), flush=True)
    print(json.dumps({"results": [asdict(row) for row in found]}))
    return 0 if all(row.fits for row in found) else 1


def _rows(options: argparse.Namespace) -> Iterator[Row]:
    dims = MODEL_SIZES[options.model]
    for target in options.targets:
        for n in options.rows:
            for case in cases(dims, n, target):
                yield _measured(case, target)


def _measured(case: Case, target: int) -> Row:
    registers, spilled, shared = compiled(case.launch, target)
    bandwidth = gpu_catalogue().gpu(GPUS[target]).bytes_per_s
    return Row(
        case.name,
        case.rows,
        target,
        registers,
        spilled,
        shared,
        SHARED_BYTES[target],
        case.moved_bytes,
        case.moved_bytes / bandwidth * 1e6,
    )


def compiled(launch: Launch, target: int) -> tuple[int, int, int]:
    """Compile a launch; returns registers, bytes spilled, and bytes of shared memory."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, attributes = _signature(launch)
    source = ASTSource(launch.kernel, signature, dict(launch.constants), attributes)
    options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages}
    made = triton.compile(source, target=GPUTarget("cuda", target, 32), options=options)
    registers, spilled = _resources(made.asm["cubin"])
    return registers, spilled, int(made.metadata.shared)


def _signature(launch: Launch) -> tuple[dict[str, str], dict[Any, Any]]:
    """Types of the arguments, and what Triton would find out of them when it launches: addresses
    and sizes that are multiples of 16."""
    signature: dict[str, str] = {}
    attributes: dict[Any, Any] = {}
    for index, name in enumerate(launch.kernel.arg_names):
        if name in launch.constants:
            signature[name] = "constexpr"
            continue
        argument = launch.arguments[name]
        if isinstance(argument, torch.Tensor):
            signature[name] = _POINTERS[argument.dtype]
        else:
            signature[name] = "fp32" if isinstance(argument, float) else "i32"
        is_round = isinstance(argument, int) and argument % 16 == 0 and name != "n"
        if isinstance(argument, torch.Tensor) or is_round:
            attributes[(index,)] = [["tt.divisibility", 16]]
    return signature, attributes


def _resources(cubin: bytes) -> tuple[int, int]:
    """Registers of a thread, and bytes that it spills, as the compiled code has them."""
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack, local = (
        int(match[1])
        for name in ("REG", "STACK", "LOCAL")
        if (match := re.search(rf"{name}:(\d+)", text))
    )
    return registers, stack + local


def _line(row: Row) -> str:
    shared = f"{row.shared_bytes / 1024:.1f} of {row.shared_limit >> 10} KiB"
    mark = "" if row.fits else " DOES NOT FIT"
    return (
        f"| sm_{row.target} | {row.kernel} | {row.rows} | {row.registers} | {row.spilled_bytes} "
        f"| {shared}{mark} | {row.moved_bytes / 1e6:.2f} | {row.microseconds:.1f} |"
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    def numbers(known: Sequence[int] | None = None) -> Callable[[str], list[int]]:
        def parse(text: str) -> list[int]:
            found = [int(part) for part in text.split(",")]
            unknown = [number for number in found if known and number not in known]
            if unknown or min(found) < 1:
                raise argparse.ArgumentTypeError(f"one of {known}" if known else "at least 1")
            return found

        return parse

    parser = argparse.ArgumentParser(description="What our kernels need of a GPU.")
    parser.add_argument("--model", choices=sorted(MODEL_SIZES), default="large-v3")
    parser.add_argument("--rows", type=numbers(), default=[1, 8, 64])
    targets = list(SHARED_BYTES)
    parser.add_argument("--targets", type=numbers(targets), default=targets)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

"""What the native kernels' builds need of a processor, and how this one stands in for others."""

from pathlib import Path

import pytest
import torch

CPU = torch.device("cpu")
_AVX2 = frozenset({"avx2", "fma"})
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"}
FLAGS = {
    "amx": _AVX512 | {"avx512_bf16", "amx_tile", "amx_int8", "amx_bf16"},
    "avx512_bf16": _AVX512 | {"avx512_bf16"},
    "avx512_vnni": _AVX512,
    "avx_vnni": _AVX2 | {"avx_vnni"},
    "avx2": _AVX2,
}

_AVX512_OPTIONS = [f"-mavx512{part}" for part in ("f", "bw", "dq", "vl", "vnni", "bf16")]
STAND_INS = {
    # Without -mavxvnni its one instruction is written as AVX-512 has it.
    "avx_vnni": ("avx512_vnni", ["-mavx2", "-DAVX_VNNI"]),
    "amx": ("avx512_bf16", [*_AVX512_OPTIONS, "-DAMX", "-DAMX_EMULATED"]),
}
"""How kernels are built for a processor that has them not: what it needs instead, and flags."""

needs_native = pytest.mark.usefixtures("instructions")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cpu_flags() -> set[str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((set(line.split()[2:]) for line in lines if line.startswith("flags")), set())

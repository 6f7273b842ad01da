"""Native linear layers against plain torch: values, bits, edges, memory."""

import ctypes
import os
import threading
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from engine.kernels import native, native_builds
from engine.kernels.linear import (
    Int8Linear,
    NativeBfloat16Linear,
    NativeFloat32Linear,
    NativeInt8Linear,
)
from engine.kernels.quantize import quantize_weight
from tests.support.native_builds import needs_native, random


def int8_weight(width: int, depth: int, seed: int = 1) -> native.Int8Weight:
    weight = random(width, depth, seed=seed) * depth**-0.5
    return native.Int8Weight(*quantize_weight(weight), random(width, seed=seed + 1))


@needs_native
@pytest.mark.parametrize("width", [1, 31, 33, 160])
@pytest.mark.parametrize("n", [1, 4, 5, 12, 13, 49])
@pytest.mark.parametrize("of_gelu", [False, True])
def test_int8_is_torchs(n: int, width: int, of_gelu: bool) -> None:
    weight = random(width, 92, seed=1)
    x = random(n, 92, seed=3) * torch.logspace(-4, 2, n)[:, None]
    x[n // 2] = 0.0
    x = F.gelu(x) if of_gelu else x
    plain = Int8Linear(weight, None, torch.float32, of_gelu)(x)
    ours = native.linear_int8(x, native.Int8Weight(*quantize_weight(weight), None), False, of_gelu)
    # Rows are scaled by a product instead of a quotient: a value may fall on the next step.
    wrong = (ours - plain).norm(dim=1)
    assert (wrong <= 0.02 * plain.norm(dim=1) + 1e-6).all()


@needs_native
def test_a_row_is_its_own_at_any_number_of_rows_and_threads() -> None:
    weight, bias = random(160, 96, seed=1), random(160, seed=2)
    x = random(100, 96, seed=3)
    before = torch.get_num_threads()
    for kernel in (
        NativeInt8Linear(weight, bias, torch.float32),
        NativeInt8Linear(weight, bias, torch.float32, of_gelu=True),
        NativeBfloat16Linear(weight, bias, torch.float32),
        NativeFloat32Linear(weight, bias),
    ):
        torch.set_num_threads(1)
        expected = kernel(x)
        for n_threads in (1, 2, 3):
            torch.set_num_threads(n_threads)
            for n in (1, 2, 3, 5, 7, 11, 13, 49):
                parts = torch.cat([kernel(part) for part in x.split(n)])
                assert torch.equal(parts, expected), f"{n} rows, {n_threads} threads"
    torch.set_num_threads(before)


@needs_native
@pytest.mark.parametrize("width", [1, 31, 33, 160])
@pytest.mark.parametrize("n", [1, 4, 5, 12, 13, 49])
@pytest.mark.parametrize("has_bias", [False, True])
def test_float32_is_torchs(n: int, width: int, has_bias: bool, threads: int) -> None:
    weight, x = random(width, 91, seed=1), random(n, 91, seed=3)
    bias = random(width, seed=2) if has_bias else None
    packed = native.Float32Weight(weight, bias)
    plain = F.linear(x, weight, bias)
    torch.testing.assert_close(native.linear_float32(x, packed, gelu=False), plain)
    of_gelu = native.linear_float32(x, packed, gelu=True)
    torch.testing.assert_close(of_gelu, F.gelu(plain), rtol=1e-5, atol=2e-6)


def test_packed_weights_of_float32_give_their_rows() -> None:
    weight = random(33, 7)
    which = torch.tensor([[0, 32], [15, 16]])
    assert torch.equal(native.Float32Weight(weight, None).rows(which), weight[which])


@needs_native
@pytest.mark.parametrize("n", [1, 48, 49, 100])
def test_the_fused_mlp_is_two_layers(n: int, threads: int) -> None:
    first, second = int8_weight(256, 64), int8_weight(64, 256, seed=5)
    x = random(n, 64, seed=7)
    hidden = native.linear_int8(x, first, gelu=True, of_gelu=False)
    apart = native.linear_int8(hidden, second, gelu=False, of_gelu=True)
    assert torch.equal(native.mlp_int8(x, first, second), apart)


@needs_native
def test_gelu_is_torchs() -> None:
    """Of the identity, so that the input is known: from where it is zero to where it is x."""
    x = torch.linspace(-12, 12, 4096).view(-1, 32)
    identity = native.Bfloat16Weight(torch.eye(32), None)
    x = x.to(torch.bfloat16).float()
    ours = native.linear_bfloat16(x, identity, torch.float32, gelu=True)
    torch.testing.assert_close(ours, F.gelu(x), rtol=1e-5, atol=1e-6)


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [1, 31, 160])
def test_bfloat16_is_torchs(width: int, dtype: torch.dtype, threads: int) -> None:
    weight, bias = random(width, 64, seed=1).to(torch.bfloat16), random(width, seed=2)
    x = random(2, 25, 64, seed=3).to(torch.bfloat16)
    exact = F.linear(x.double(), weight.double(), bias.double())
    packed = native.Bfloat16Weight(weight, bias)
    for given in (x, x.float()):
        ours = native.linear_bfloat16(given, packed, dtype, gelu=False)
        assert ours.dtype == dtype and ours.shape == (2, 25, width)
        torch.testing.assert_close(
            ours.double(),
            exact,
            **{"rtol": 1e-2, "atol": 1e-2} if dtype.itemsize == 2 else {"rtol": 1e-4, "atol": 1e-4},
        )


@needs_native
def test_bfloat16_is_rounded_as_torch_does() -> None:
    """To the nearest, of two the even one."""
    identity = native.Bfloat16Weight(torch.eye(32), None)
    x = torch.randint(0, 0x7F00, (4096, 32), generator=torch.Generator().manual_seed(0))
    halfway = ((x << 16) + 0x8000).to(torch.int32).view(torch.float32).clamp(1e-30, 1e30)
    for given in (random(64, 32), halfway):
        ours = native.linear_bfloat16(given, identity, torch.bfloat16, gelu=False)
        assert torch.equal(ours, given.to(torch.bfloat16))


_M_MMAP_THRESHOLD = -3
"""Of glibc's malloc.h."""


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@needs_native
@pytest.mark.skipif(not Path("/proc").exists(), reason="Linux tells it there")
def test_activations_take_what_is_counted_for_them() -> None:
    """In a thread of its own, which has no scratch memory yet."""
    n, depth = 1500, 5120
    x, weight = random(n, depth).to(torch.bfloat16), native.Bfloat16Weight(random(32, depth), None)
    took = []

    # Large blocks come from the system and go back to it; else those that were freed are taken
    # again unseen.
    ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 17)

    def multiply() -> None:
        before = resident_bytes()
        native.linear_bfloat16(x, weight, torch.float32, gelu=False)
        took.append(resident_bytes() - before)

    thread = threading.Thread(target=multiply)
    thread.start()
    thread.join()
    assert took[0] == pytest.approx(n * depth * native_builds.tile_itemsize(), rel=0.1)


@needs_native
@pytest.mark.skipif(not Path("/proc").exists(), reason="Linux tells it there")
def test_threads_leave_no_memory_behind() -> None:
    """Each thread keeps some scratch memory, a megabyte here, as long as it lives."""
    qkv = random(1, 1500, 3 * 3 * 64).to(torch.bfloat16)

    def run_threads(n: int) -> None:
        for _ in range(n):
            thread = threading.Thread(target=native.encoder_attention, args=(qkv,))
            thread.start()
            thread.join()

    run_threads(5)
    before = resident_bytes()
    run_threads(50)
    assert resident_bytes() - before < 20e6

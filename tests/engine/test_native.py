"""The native kernels against plain torch: values, bits, edges."""

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from engine.kernels import native
from engine.kernels.linear import Int8Linear, NativeOutputLinear
from engine.kernels.quantize import quantize_weight

CPU = torch.device("cpu")
HEADS, LENGTH = 3, 1500

needs_native = pytest.mark.skipif(not native.serves(CPU), reason="no native kernels here")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def int8_weight(width: int, depth: int, seed: int = 1) -> native.Int8Weight:
    weight = random(width, depth, seed=seed) * depth**-0.5
    return native.Int8Weight(*quantize_weight(weight), random(width, seed=seed + 1))


def test_they_are_compiled_where_they_can_be() -> None:
    """Their compilation is optional, so a mistake in them would else pass unseen."""
    cpu = torch.cpu
    able = cpu._is_vnni_supported() and cpu._is_avx512_bf16_supported()
    if not (able and shutil.which("cc")):
        pytest.skip("no C compiler, or another processor")
    assert native.serves(CPU)


def test_they_serve_no_other_device() -> None:
    assert not native.serves(torch.device("cuda"))


@needs_native
@pytest.mark.parametrize("width", [1, 31, 33, 160])
@pytest.mark.parametrize("n", [1, 4, 5, 12, 13, 49])
@pytest.mark.parametrize("of_gelu", [False, True])
def test_int8_is_torchs(n: int, width: int, of_gelu: bool) -> None:
    weight, bias = random(width, 92, seed=1), random(width, seed=2)
    x = F.gelu(random(n, 92, seed=3)) * torch.logspace(-4, 4, n)[:, None]
    plain = Int8Linear(weight, bias, torch.float32, of_gelu)(x)
    ours = native.linear_int8(x, native.Int8Weight(*quantize_weight(weight), bias), False, of_gelu)
    # Rows are scaled by a product instead of a quotient: a value may fall on the next step.
    torch.testing.assert_close(ours, plain, rtol=0.01, atol=0.01 * float(plain.abs().amax()))
    assert (ours - plain).norm() <= 1e-3 * plain.norm()


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
def test_encoder_attention_has_one_result() -> None:
    """Whatever the batch, the threads, and what memory held before."""
    qkv = random(2, 301, 3 * HEADS * 64).to(torch.bfloat16)
    together = native.encoder_attention(qkv)
    native.encoder_attention(1000 * random(2, 700, 3 * HEADS * 64).to(torch.bfloat16))
    torch.set_num_threads(1)
    try:
        alone = torch.cat([native.encoder_attention(one) for one in qkv.split(1)])
    finally:
        torch.set_num_threads(2)
    assert torch.equal(alone, together)


@needs_native
@pytest.mark.parametrize("size", [0.0, 1e-3, 30.0])
def test_encoder_attention_at_extremes(size: float) -> None:
    """From all frames alike to one frame that takes everything."""
    qkv = random(1, 200, 3 * HEADS * 64)
    qkv[..., : 2 * HEADS * 64] *= size
    qkv = qkv.to(torch.bfloat16)
    q, k, v = (x.float().view(1, 200, HEADS, 64).transpose(1, 2) for x in qkv.chunk(3, -1))
    exact = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    ours = native.encoder_attention(qkv).float()
    assert ours.isfinite().all()
    # Steep scores magnify the rounding of queries and keys.
    assert (ours - exact).norm() <= (0.01 if size < 1 else 0.2) * exact.norm()


@needs_native
@pytest.mark.skipif(not Path("/proc").exists(), reason="Linux tells it there")
def test_threads_leave_no_memory_behind() -> None:
    """Each thread keeps some scratch memory, a megabyte here, as long as it lives."""
    qkv = random(1, LENGTH, 3 * HEADS * 64).to(torch.bfloat16)

    def resident_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def run_threads(n: int) -> None:
        for _ in range(n):
            thread = threading.Thread(target=native.encoder_attention, args=(qkv,))
            thread.start()
            thread.join()

    run_threads(5)
    before = resident_bytes()
    run_threads(50)
    assert resident_bytes() - before < 20e6


def filled(n_slots: int, slots: list[int], scale: float = 1.0) -> native.Int8CrossCache:
    cache = native.Int8CrossCache(n_slots, HEADS, LENGTH)
    kv = random(len(slots), LENGTH, 2 * HEADS * 64, seed=9) * scale
    cache.fill(kv.to(torch.bfloat16), torch.tensor(slots))
    return cache


@needs_native
@pytest.mark.parametrize("scale", [1e-3, 1.0, 3.0])
def test_cross_attention_is_attention(scale: float, threads: int) -> None:
    queries = random(4, HEADS * 64, seed=4)
    slots = torch.tensor([5, 2, 5, 0])
    kv = (random(3, LENGTH, 2 * HEADS * 64, seed=9) * scale).to(torch.bfloat16).float()
    by_row = kv[[1, 2, 1, 0]].view(4, LENGTH, 2, HEADS, 64).permute(2, 0, 3, 1, 4)
    q = queries.view(4, HEADS, 1, 64)
    exact = F.scaled_dot_product_attention(q, by_row[0], by_row[1]).view(4, -1)
    ours = filled(7, [0, 5, 2], scale).attend(queries, slots)
    assert (ours - exact).norm() <= 0.02 * exact.norm()


@needs_native
def test_cross_attention_of_a_row_is_its_own(threads: int) -> None:
    cache = filled(7, [0, 5, 2])
    queries, slots = random(4, HEADS * 64, seed=4), torch.tensor([5, 2, 5, 0])
    together = cache.attend(queries, slots)
    for row in range(4):
        alone = cache.attend(queries[row : row + 1], slots[row : row + 1])
        assert torch.equal(alone, together[row : row + 1])


@needs_native
def test_an_empty_slot_gives_zeros() -> None:
    """Idle slots compute along, on finite numbers."""
    assert filled(3, [1]).attend(random(1, HEADS * 64), torch.tensor([0])).eq(0).all()


@needs_native
def test_self_attention_reads_up_to_its_position(threads: int) -> None:
    keys, values = random(4, HEADS, 32, 64, seed=1), random(4, HEADS, 32, 64, seed=2)
    qkv, positions = random(3, 3 * HEADS * 64, seed=3), torch.tensor([0, 17, 31])
    before = keys.clone()
    ours = native.self_attention(qkv, positions, keys, values)
    q, k, v = (x.view(3, HEADS, 1, 64) for x in qkv.chunk(3, -1))
    for row, position in enumerate(positions.tolist()):
        assert torch.equal(keys[row, :, position], k[row, :, 0])
        assert torch.equal(values[row, :, position], v[row, :, 0])
        seen = slice(0, position + 1)
        exact = F.scaled_dot_product_attention(q[row], keys[row, :, seen], values[row, :, seen])
        torch.testing.assert_close(ours[row], exact.flatten(), rtol=1e-4, atol=1e-5)
        before[row, :, position] = k[row, :, 0]
    assert torch.equal(keys, before), "nothing else is written"


@needs_native
@pytest.mark.parametrize("width", [1, 15, 16, 50_257])
def test_logits_are_reduced_as_torch_does(width: int, threads: int) -> None:
    logits = 10 * random(5, width + 7)[:, 3 : 3 + width]
    greatest, index, log_sum = native.reduce_logits(logits)
    exact, where = logits.max(1)
    assert torch.equal(greatest, exact) and torch.equal(index, where)
    torch.testing.assert_close(log_sum, logits.logsumexp(1))


@needs_native
def test_of_equal_logits_the_first_is_taken() -> None:
    logits = torch.zeros(1, 100)
    logits[0, [40, 41, 90]] = 5.0
    assert native.reduce_logits(logits)[1].tolist() == [40]


@needs_native
@pytest.mark.parametrize("tail", [0, 150, 200])
def test_logits_are_exact_where_they_decide(tail: int, threads: int) -> None:
    x, weight = 0.2 * random(40, 64), random(200, 64, seed=1).to(torch.bfloat16)
    exact = x.to(torch.bfloat16).double() @ weight.double().T
    # As wrong as 8 bits could make them: another is the greatest.
    wrong = (exact + 0.9 * random(40, 200, seed=2).clamp(-1, 1)).float()
    refined = wrong.clone()
    native.refine_logits(refined, x, weight, tail)
    if tail:
        assert not torch.equal(wrong[:, :tail].argmax(1), exact[:, :tail].argmax(1))
        assert torch.equal(refined[:, :tail].argmax(1), exact[:, :tail].argmax(1))
        far = exact[:, :tail] < exact[:, :tail].amax(1, keepdim=True) - 4
        assert torch.equal(refined[:, :tail][far], wrong[:, :tail][far]), "the others stay"
    torch.testing.assert_close(refined[:, tail:].double(), exact[:, tail:], rtol=1e-5, atol=1e-4)


@needs_native
def test_an_output_layer_has_one_result(threads: int) -> None:
    kernel = NativeOutputLinear(random(300, 64).to(torch.bfloat16), 250)
    x = random(30, 64, seed=1)
    together = kernel(x)
    assert torch.equal(torch.cat([kernel(row) for row in x.split(1)]), together)


@needs_native
def test_forbidden_logits_count_for_nothing() -> None:
    logits = torch.full((2, 33), float("-inf"))
    logits[1, 32] = -2.0
    greatest, index, log_sum = native.reduce_logits(logits)
    assert greatest.tolist() == log_sum.tolist() == [float("-inf"), -2.0]
    assert index.tolist() == [0, 32]

"""The native kernels against plain torch: values, bits, edges."""

import ctypes
import os
import platform
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from engine.kernels import native
from engine.kernels.linear import (
    Int8Linear,
    NativeBfloat16Linear,
    NativeFloat32Linear,
    NativeInt8Linear,
    NativeOutputLinear,
    output_linear,
)
from engine.kernels.quantize import quantize_weight
from engine.parallel.partition import partition

CPU = torch.device("cpu")
HEADS, LENGTH = 3, 1500

_AVX2 = frozenset({"avx2", "fma"})
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"}
FLAGS = {
    "amx": _AVX512 | {"avx512_bf16", "amx_tile", "amx_int8", "amx_bf16"},
    "avx512_bf16": _AVX512 | {"avx512_bf16"},
    "avx512_vnni": _AVX512,
    "avx_vnni": _AVX2 | {"avx_vnni"},
    "avx2": _AVX2,
}

_AVX512_FLAGS = [f"-mavx512{part}" for part in ("f", "bw", "dq", "vl", "vnni", "bf16")]
STAND_INS = {
    # Without -mavxvnni its one instruction is written as AVX-512 has it.
    "avx_vnni": ("avx512_vnni", ["-mavx2", "-DAVX_VNNI"]),
    "amx": ("avx512_bf16", [*_AVX512_FLAGS, "-DAMX", "-DAMX_EMULATED"]),
}
"""How kernels are built for a processor that has them not: what it needs instead, and flags."""

needs_native = pytest.mark.usefixtures("instructions")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=native.INSTRUCTIONS)
def instructions(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param in STAND_INS and not cpu_flags() >= FLAGS[request.param]:
        request.getfixturevalue("stand_ins")
    with native.limited_to(request.param):
        if not native.serves(CPU):
            pytest.skip(f"no {request.param} here, or not compiled")
        yield request.param


def cpu_flags() -> set[str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((set(line.split()[2:]) for line in lines if line.startswith("flags")), set())


@pytest.fixture
def stand_ins(
    stand_in_libraries: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    path, caches = native._path, (native._loaded, native._kernel)

    def with_stand_ins(instructions: str) -> Path | None:
        return stand_in_libraries.get(instructions) or path(instructions)

    monkeypatch.setattr(native, "_path", with_stand_ins)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.fixture(scope="session")
def stand_in_libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Builds for processors that are not here, as far as this one can run them."""
    if not shutil.which("cc"):
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("kernels")
    sources = sorted((Path(native.__file__).parent / "csrc").glob("*.c"))
    common = ["-O3", "-fopenmp", "-shared", "-fPIC", "-mfma"]
    libraries = {}
    for name, (needs, flags) in STAND_INS.items():
        if not FLAGS[name] <= cpu_flags() and FLAGS[needs] <= cpu_flags():
            libraries[name] = folder / f"{name}.so"
            build = ["cc", *common, *flags, *sources, "-o", libraries[name], "-lm"]
            subprocess.run(build, check=True)
    return libraries


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def int8_weight(width: int, depth: int, seed: int = 1) -> native.Int8Weight:
    weight = random(width, depth, seed=seed) * depth**-0.5
    return native.Int8Weight(*quantize_weight(weight), random(width, seed=seed + 1))


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="another processor")
@pytest.mark.parametrize("instructions", native.INSTRUCTIONS)
def test_they_are_compiled_where_they_can_be(instructions: str) -> None:
    """Their compilation is optional, so a mistake in them would else pass unseen."""
    assert list(Path(native.__file__).parent.glob(f"_native_{instructions}.*"))
    with native.limited_to(instructions):
        assert native.serves(CPU) == (cpu_flags() >= FLAGS[instructions])


def test_the_best_that_a_processor_has_is_chosen() -> None:
    runs = [name for name in native.INSTRUCTIONS if cpu_flags() >= FLAGS[name]]
    assert native.in_use() == (runs[0] if runs else None)


def test_they_serve_no_other_device() -> None:
    assert not native.serves(torch.device("cuda"))


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
@pytest.mark.parametrize("length", [1, 31, 33, 200, 1500])
@pytest.mark.parametrize("size", [1e-3, 1.0, 30.0])
def test_encoder_attention_of_float32_is_torchs(length: int, size: float, threads: int) -> None:
    qkv = random(2, length, 3 * HEADS * 64)
    qkv[..., : 2 * HEADS * 64] *= size
    q, k, v = (x.view(2, length, HEADS, 64).transpose(1, 2) for x in qkv.chunk(3, -1))
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double())
    torchs = F.scaled_dot_product_attention(q, k, v)
    ours = native.encoder_attention(qkv).view(2, length, HEADS, 64).transpose(1, 2)
    # Steep scores magnify the rounding of their products, whoever adds them up.
    assert (ours - exact).norm() <= 3 * (torchs - exact).norm() + 1e-6 * exact.norm()


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


@needs_native
def test_encoder_attention_has_one_result() -> None:
    """Whatever the batch, the threads, and what memory held before."""
    qkv = random(2, 301, 3 * HEADS * 64).to(torch.bfloat16)
    before = torch.get_num_threads()
    together = native.encoder_attention(qkv)
    native.encoder_attention(1000 * random(2, 700, 3 * HEADS * 64).to(torch.bfloat16))
    torch.set_num_threads(1)
    try:
        alone = torch.cat([native.encoder_attention(one) for one in qkv.split(1)])
    finally:
        torch.set_num_threads(before)
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
    assert took[0] == pytest.approx(n * depth * native.tile_itemsize(), rel=0.1)


@needs_native
@pytest.mark.skipif(not Path("/proc").exists(), reason="Linux tells it there")
def test_threads_leave_no_memory_behind() -> None:
    """Each thread keeps some scratch memory, a megabyte here, as long as it lives."""
    qkv = random(1, LENGTH, 3 * HEADS * 64).to(torch.bfloat16)

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
@pytest.mark.parametrize("length", [1, 63, 64, 65, 1536])
def test_cross_attention_of_any_length(length: int) -> None:
    kv = random(1, length, 2 * HEADS * 64)
    kv[0, length // 2] *= 8.0  # takes nearly everything
    kv = kv.to(torch.bfloat16)
    cache = native.Int8CrossCache(1, HEADS, length)
    cache.fill(kv, torch.tensor([0]))
    queries = random(1, HEADS * 64, seed=1)
    k, v = kv.float().view(length, 2, HEADS, 64).permute(1, 2, 0, 3)
    exact = F.scaled_dot_product_attention(queries.view(HEADS, 1, 64), k, v).view(1, -1)
    ours = cache.attend(queries, torch.tensor([0]))
    assert (ours - exact).norm() <= 0.1 * exact.norm()


@needs_native
def test_an_empty_slot_gives_zeros() -> None:
    """Idle slots compute along, on finite numbers."""
    assert filled(3, [1]).attend(random(1, HEADS * 64), torch.tensor([0])).eq(0).all()


@needs_native
def test_self_attention_reads_up_to_its_position(threads: int) -> None:
    keys, values = random(4, HEADS, 32, 64, seed=1), random(4, HEADS, 32, 64, seed=2)
    qkv, positions = random(3, 3 * HEADS * 64, seed=3), torch.tensor([0, 17, 31])
    before, values_before = keys.clone(), values.clone()
    ours = native.self_attention(qkv, positions, keys, values)
    q, k, v = (x.view(3, HEADS, 1, 64) for x in qkv.chunk(3, -1))
    for row, position in enumerate(positions.tolist()):
        assert torch.equal(keys[row, :, position], k[row, :, 0])
        assert torch.equal(values[row, :, position], v[row, :, 0])
        seen = slice(0, position + 1)
        exact = F.scaled_dot_product_attention(q[row], keys[row, :, seen], values[row, :, seen])
        torch.testing.assert_close(ours[row], exact.flatten(), rtol=1e-4, atol=1e-5)
        before[row, :, position] = k[row, :, 0]
        values_before[row, :, position] = v[row, :, 0]
    assert torch.equal(keys, before), "nothing else is written"
    assert torch.equal(values, values_before)


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
@pytest.mark.parametrize(("width", "k"), [(1, 1), (6, 6), (33, 6), (50_257, 17), (51_866, 2)])
def test_the_greatest_logits_are_those_of_a_stable_sort(width: int, k: int, threads: int) -> None:
    logits = (10 * random(5, width)).round() / 10  # many are equal
    logits[1, width // 2 :] = float("-inf")
    logits[2] = float("-inf")
    logits[3] = torch.arange(width)
    values, index = native.top_logits(logits, k)
    exact, where = logits.sort(dim=1, descending=True, stable=True)
    assert torch.equal(values, exact[:, :k]) and torch.equal(index, where[:, :k])


def output_layer(tail: int, excluded: list[int]) -> tuple[torch.Tensor, ...]:
    """Inputs, exact logits, those of 8 bits, and those refined."""
    x, weight = 0.2 * random(40, 64), random(200, 64, seed=1).to(torch.bfloat16)
    quantized, scale = quantize_weight(weight)
    exact = x.to(torch.bfloat16).double() @ weight.double().T
    rough = native.linear_int8(x, native.Int8Weight(quantized, scale, None), False, False)
    refined = rough.clone()
    native.refine_logits(refined, x, native.OutputWeight(weight, scale, tail, excluded))
    return x, exact.float(), rough, refined


@needs_native
@pytest.mark.parametrize("tail", [0, 150, 200])
def test_logits_are_exact_where_they_decide(tail: int, threads: int) -> None:
    _, exact, rough, refined = output_layer(tail, [])
    torch.testing.assert_close(refined[:, tail:], exact[:, tail:], rtol=1e-5, atol=1e-5)
    if not tail:
        return
    exact, rough, refined = (logits[:, :tail] for logits in (exact, rough, refined))
    assert torch.equal(refined.argmax(1), exact.argmax(1))
    torch.testing.assert_close(refined.amax(1), exact.amax(1), rtol=1e-5, atol=1e-5)
    far = exact < exact.amax(1, keepdim=True) - 3
    assert far.any() and torch.equal(refined[far], rough[far]), "the others stay"


@needs_native
def test_what_is_never_chosen_hides_nothing() -> None:
    """An id that is far ahead, but suppressed later."""
    x, weight = torch.zeros(1, 64), torch.zeros(200, 64)
    weight[:, :32] = random(200, 32, seed=1)
    weight[7, 32:] = 3.0
    x[0, :32], x[0, 32:] = 0.2 * random(32, seed=2), 1.0
    weight = weight.to(torch.bfloat16)
    quantized, scale = quantize_weight(weight)
    exact = (x.to(torch.bfloat16).double() @ weight.double().T).float()
    assert exact.argmax() == 7
    for excluded, found in (([], False), ([7], True)):
        logits = exact + 0.01
        native.refine_logits(logits, x, native.OutputWeight(weight, scale, 200, excluded))
        others = torch.arange(200) != 7
        best = exact[0, others].argmax()
        assert (abs(logits - exact)[0, others][best] < 1e-4) == found
        assert logits[0, 7] > 90, "its logit stays"


@needs_native
def test_errors_of_logits_are_within_the_margin() -> None:
    """Two logits that 8 bits move past each other lie within eight standard deviations."""
    x, exact, rough, _ = output_layer(200, [])
    weight = random(200, 64, seed=1).to(torch.bfloat16)
    step = x.abs().amax(1) / 127
    squares = (step * weight.float().norm(dim=1).amax()) ** 2
    squares += (quantize_weight(weight)[1].amax() * x.norm(dim=1)) ** 2
    assert ((rough - exact).abs().amax(1) < 4 * (squares / 12).sqrt()).all()


@needs_native
def test_an_output_layer_has_one_result(threads: int) -> None:
    kernel = NativeOutputLinear(random(300, 64).to(torch.bfloat16), 250)
    kernel.never_choose([3, 299, -1])
    x = random(30, 64, seed=1)
    together = kernel(x)
    assert torch.equal(torch.cat([kernel(row) for row in x.split(1)]), together)


@needs_native
@pytest.mark.parametrize(("rank", "tail"), [(0, 12_967), (2, 12_966), (3, 12_966 - 2048)])
def test_each_rank_knows_its_part_of_the_tail(rank: int, tail: int) -> None:
    """51,866 ids over four ranks: the last has all of it."""
    ids = partition(51_866, 4)[rank]
    weight = torch.zeros(len(ids), 32, dtype=torch.bfloat16)
    kernel = output_linear(weight, ids, 51_866, torch.float32, int8=True)
    assert isinstance(kernel, NativeOutputLinear) and kernel.tail == tail


@needs_native
def test_a_nan_stays_one() -> None:
    logits = torch.zeros(2, 40)
    logits[1, 20] = float("nan")
    log_sum = native.reduce_logits(logits)[2]
    assert log_sum.isnan().tolist() == [False, True]


@needs_native
def test_forbidden_logits_count_for_nothing() -> None:
    logits = torch.full((2, 33), float("-inf"))
    logits[1, 32] = -2.0
    greatest, index, log_sum = native.reduce_logits(logits)
    assert greatest.tolist() == log_sum.tolist() == [float("-inf"), -2.0]
    assert index.tolist() == [0, 32]

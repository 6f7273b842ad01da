"""Our kernels for GPUs beside torch's operators. Where there is no GPU, Triton's interpreter runs
them on the CPU: it takes each program as it is, one after the other, and multiplies no bfloat16.
Where there is one, the same tests run on it."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

pytest.importorskip("triton")

from engine.decoding.rules import TokenRules
from engine.decoding.sampler import Sampler
from engine.decoding.state import RuleState
from engine.kernels import triton as package
from engine.kernels.quantize import quantize_groups, quantize_weight
from engine.kernels.triton import attention, twins
from engine.kernels.triton.calls import GpuKernels
from engine.kernels.triton.trial import Case, cases, difference, fault
from engine.kernels.triton.weights import MAX_ROWS, Norm, Weight
from engine.model.cross_cache import DenseCrossCache, Int8CrossCache, WindowStates
from engine.model.self_cache import DenseSelfCache, Int8SelfCache
from engine.model.window_lengths import WindowLengths
from engine.parallel.group import SingleRank

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
KERNELS = GpuKernels.on(DEVICE)
CASES: list[Case] = list(cases(KERNELS, DEVICE, torch.float16))
CLOSE = 2e-3
"""Of the greatest value: float16 has 11 bits."""


@pytest.fixture
def draw() -> Callable[..., torch.Tensor]:
    generator = torch.Generator().manual_seed(1)

    def drawn(*shape: int, of: torch.dtype = torch.float16) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(DEVICE, of)

    return drawn


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=pytest.mark.more if "4-bit" in case.name else ()) for case in CASES],
    ids=[case.name for case in CASES],
)
def test_each_kernel_equals_its_twin(case: Case) -> None:
    assert difference(case.run(), case.twin()) < min(CLOSE, case.tolerance)


Draw = Callable[..., torch.Tensor]


def weight_of(wide: torch.Tensor, kind: str) -> Weight:
    if kind == "16-bit":
        return Weight(wide)
    if kind == "8-bit":
        values, scale = quantize_weight(wide.float())
        return Weight(values, scale.half())
    size = int(kind.removeprefix("4-bit of "))
    padded = nn.functional.pad(wide, (0, -wide.shape[1] % size))
    values, scale, zero = quantize_groups(padded, size, torch.float16)
    low, high = values.view(len(values), -1, 2).unbind(-1)
    return Weight(low | high << 4, torch.stack([scale, zero], -1), size)


MORE = pytest.mark.more


@pytest.mark.parametrize("rows", [1, 17, *(pytest.param(n, marks=MORE) for n in (33, MAX_ROWS))])
@pytest.mark.parametrize(
    "kind", ["16-bit", "8-bit", "4-bit of 128", pytest.param("4-bit of 32", marks=MORE)]
)
def test_products_of_any_size(rows: int, kind: str, draw: Draw) -> None:
    """Widths that no block divides; every part of what stands around the product, or none."""
    depth, width = 200, 50
    x, wide, bias = draw(rows, depth), draw(width, depth) / 14, draw(width)
    norm = nn.LayerNorm(depth, device=DEVICE, dtype=torch.float16).requires_grad_(False)
    norm.weight.copy_(draw(depth))
    norm.bias.copy_(draw(depth))
    of = Norm(norm.weight, norm.bias, norm.eps)
    weight, residual = weight_of(wide, kind), draw(rows, width)
    plain = KERNELS.linear(x, weight, None)
    assert difference(plain, twins.linear(x, weight, None)) < CLOSE
    found = KERNELS.linear(x, weight, bias, norm, gelu=True)
    assert difference(found, twins.linear(x, weight, bias, of, gelu=True)) < CLOSE
    expected = twins.linear(x, weight, bias, residual=residual)
    found = KERNELS.linear(x, weight, bias, residual=residual)
    assert found is residual and difference(residual, expected) < CLOSE


def test_a_norm_far_from_zero(draw: Draw) -> None:
    """The variance comes from sums of squares, where the mean is many deviations off."""
    depth = 384
    x = (draw(3, depth) + 30).contiguous()
    norm = nn.LayerNorm(depth, device=DEVICE, dtype=torch.float16).requires_grad_(False)
    weight = Weight(draw(64, depth) / 20)
    found = KERNELS.linear(x, weight, None, norm)
    of = Norm(norm.weight, norm.bias, norm.eps)
    assert difference(found, twins.linear(x, weight, None, of)) < CLOSE


def test_large_activations_do_not_overflow(draw: Draw) -> None:
    """Whole numbers up to 127 times float16 pass 65,504 before they are scaled."""
    x, wide = draw(2, 256).abs() * 200, draw(32, 256).abs() / 1000
    found = KERNELS.linear(x, weight_of(wide, "8-bit"), None)
    assert found.isfinite().all()
    assert difference(found, twins.linear(x, weight_of(wide, "8-bit"), None)) < CLOSE


@pytest.mark.parametrize("width", [384, 1280])
def test_sum_and_norm(width: int, draw: Draw) -> None:
    x, added = draw(2, 3, width), draw(2, 3, width)
    norm = nn.LayerNorm(width, device=DEVICE, dtype=torch.float16).requires_grad_(False)
    total = x + added
    found = KERNELS.add_norm(x, added, norm)
    assert torch.equal(x, total)
    expected = twins.normalised(total, Norm(norm.weight, norm.bias, norm.eps))
    assert difference(found, expected) < CLOSE


POSITIONS = [0, 1, 63, 64, 65, 127, 128, 149]


@pytest.mark.parametrize("stored", ["float32", "float16", "8-bit"])
def test_tokens_attend_as_in_the_cache(stored: str, draw: Draw) -> None:
    """Beside the engine's own cache: what comes out, and every number that is stored, to the bit;
    but for a GPU's division, which is off by a bit, in 8 bits."""
    n, heads, head_dim, length = len(POSITIONS), 2, 64, 150
    dtype = torch.float32 if stored == "float32" else torch.float16
    kind = Int8SelfCache if stored == "8-bit" else DenseSelfCache
    rest = () if stored == "8-bit" else (False,)
    by_torch, by_kernel = (kind((n, heads, length, head_dim), DEVICE, dtype, *rest) for _ in "ab")
    by_torch._gpu, by_kernel._gpu = None, KERNELS
    positions = torch.tensor(POSITIONS, device=DEVICE)
    mask = (torch.arange(length, device=DEVICE) <= positions[:, None])[:, None, None]
    prompt = draw(2, n, heads, length, head_dim, of=dtype)
    qkv = draw(n, 3 * heads * head_dim, of=dtype)
    found = []
    for cache in (by_torch, by_kernel):
        cache.write_prompt(prompt[0], prompt[1], slice(0, n))
        found.append(cache.attend(qkv, positions, mask))
    assert difference(found[1], found[0]) < CLOSE
    for ours, expected in zip(_kept(by_kernel), _kept(by_torch), strict=True):
        step = 0 if stored != "8-bit" else 1 if ours.dtype is torch.int8 else 1e-6
        torch.testing.assert_close(ours.float(), expected.float(), rtol=0, atol=step)


def _kept(cache: object) -> list[torch.Tensor]:
    values = [x for x in vars(cache).values() if isinstance(x, torch.Tensor)]
    pairs = [x for x in vars(cache).values() if isinstance(x, tuple)]
    return values + [tensor for pair in pairs for tensor in pair]


@pytest.mark.parametrize("kind", [DenseCrossCache, Int8CrossCache])
@pytest.mark.parametrize("slots", [slice(1, 4), [3, 0, 3]], ids=["range", "indices"])
def test_windows_are_attended_to_as_in_the_cache(
    kind: type, slots: slice | list[int], draw: Draw
) -> None:
    cache = kind((4, 2, 100, 64), DEVICE, torch.float16)
    cache.fill(draw(4, 100, 2 * 128), slice(0, 4))
    where = slots if isinstance(slots, slice) else torch.tensor(slots, device=DEVICE)
    queries = draw(3, 1, 128)
    found = []
    for kernels in (None, KERNELS):
        cache._gpu = kernels
        found.append(cache.attend(queries, where))
    assert found[1].shape == queries.shape and difference(found[1], found[0]) < CLOSE


@pytest.mark.parametrize("splits", [1, 2, 4, 8])
@pytest.mark.parametrize("frames", [1, 9, 64, 100, 129])
def test_windows_of_any_length_in_any_number_of_parts(splits: int, frames: int, draw: Draw) -> None:
    """Also in parts that are left without a frame."""
    queries, windows = draw(2, 64), torch.tensor([1, 0], device=DEVICE)
    keys, values = draw(2, 1, frames, 64), draw(2, 1, frames, 64)
    found = KERNELS.cross_attention(queries, windows, keys, values, None, splits)
    assert difference(found, twins.cross_attention(queries, windows, keys, values)) < CLOSE


@pytest.mark.parametrize("kind", [DenseCrossCache, Int8CrossCache])
@pytest.mark.parametrize("slots", [slice(1, 4), [3, 0, 3]], ids=["range", "indices"])
def test_short_windows_are_attended_to_as_in_the_cache(
    kind: type, slots: slice | list[int], draw: Draw
) -> None:
    """What lies behind them is loud."""
    lengths = WindowLengths(4, 200, DEVICE, may_be_short=True)
    cache = kind((4, 2, 200, 64), DEVICE, torch.float16, lengths)
    cache.fill(20 * draw(4, 200, 2 * 128), slice(0, 4))
    for slot, n_frames in enumerate((64, 200, 1, 130)):
        lengths.put(slice(slot, slot + 1), n_frames)
        cache.fill(draw(1, n_frames, 2 * 128), slice(slot, slot + 1))
    where = slots if isinstance(slots, slice) else torch.tensor(slots, device=DEVICE)
    queries = draw(3, 1, 128)
    found = []
    for kernels in (None, KERNELS):
        cache._gpu = kernels
        found.append(cache.attend(queries, where))
    assert difference(found[1], found[0]) < CLOSE


@pytest.mark.parametrize("splits", [1, 8])
@pytest.mark.parametrize("reach", [1, 16, 37])
def test_encoder_output_of_short_windows(splits: int, reach: int, draw: Draw) -> None:
    states, queries = 20 * draw(2, 50, 128), draw(2, 3, 128) / 11
    states[:, :reach] /= 20
    windows, lengths = torch.tensor([1, 0], device=DEVICE), torch.tensor([reach, 50], device=DEVICE)
    found = KERNELS.absorbed_attention(queries, windows, states, splits, lengths)
    expected = twins.absorbed_attention(queries, windows, states, lengths)
    assert difference(found[:1], expected[:1]) < CLOSE
    alone = twins.absorbed_attention(queries[1:], windows[1:], states[:, :reach])
    assert difference(found[1:], alone) < CLOSE


def test_a_window_is_split_where_queries_are_few() -> None:
    assert [attention.cross_splits(20 * n) for n in (1, 2, 4, 7, 64)] == [8, 4, 2, 1, 1]


@pytest.mark.parametrize("heads", [6, 20])
@pytest.mark.parametrize("slots", [slice(1, 3), [1, 1]], ids=["range", "indices"])
def test_encoder_output_is_attended_to_as_in_the_cache(
    heads: int, slots: slice | list[int], draw: Draw
) -> None:
    """20 heads are two groups of ten; the width is three blocks."""
    states = WindowStates((3, 50, 192), DEVICE, torch.float16)
    states.fill(draw(3, 50, 192), slice(0, 3))
    where = slots if isinstance(slots, slice) else torch.tensor(slots, device=DEVICE)
    queries = (draw(heads, 2, 192) / 14).transpose(0, 1)
    found = []
    for kernels in (None, KERNELS):
        states._gpu = kernels
        found.append(states.attend(queries, where))
    assert difference(found[1], found[0]) < CLOSE


@pytest.mark.parametrize("splits", [1, 8])
@pytest.mark.parametrize("frames", [1, 16, 37])
def test_encoder_output_of_any_length(splits: int, frames: int, draw: Draw) -> None:
    states, queries = draw(2, frames, 128), draw(2, 3, 128) / 11
    windows = torch.tensor([1, 0], device=DEVICE)
    found = KERNELS.absorbed_attention(queries, windows, states, splits)
    assert difference(found, twins.absorbed_attention(queries, windows, states)) < CLOSE


@pytest.mark.parametrize("seed", range(4))
def test_tokens_are_chosen_as_the_sampler_chooses(seed: int) -> None:
    """Rows in random states of the rules; some have no timestamps, some a limit for the first."""
    generator = torch.Generator().manual_seed(seed)
    words, vocab, n = 300, 500, 24
    split = words + 40
    rules = TokenRules(range(vocab), [3, 5, words + 1], [7, words], words, split, DEVICE)
    sampler = Sampler(rules, vocab, SingleRank())

    def numbers(low: int, high: int) -> torch.Tensor:
        return torch.randint(low, high, (n,), generator=generator).to(DEVICE)

    n_sampled = numbers(0, 4)
    state = RuleState(
        n_sampled=n_sampled,
        last_was_timestamp=(numbers(0, 2) > 0) & (n_sampled > 0),
        penultimate_was_timestamp=(numbers(0, 2) > 0) & (n_sampled > 1),
        min_timestamp=numbers(split, vocab - 5),
        with_timestamps=numbers(0, 4) > 0,
        max_initial_timestamp=numbers(vocab - 5, vocab + 50),
        keyword_state=numbers(0, 1),
    )
    logits = 4 * torch.randn(n, vocab, generator=generator).to(DEVICE)
    sampler._kernels = KERNELS
    found = sampler.likeliest_of(logits.clone(), state)
    expected = sampler(sampler.rule(logits, state), [None] * n)
    assert found.tokens.tolist() == expected.tokens.tolist()
    torch.testing.assert_close(found.logprobs, expected.logprobs, rtol=1e-5, atol=1e-5)
    assert {bool(token >= split) for token in found.tokens} == {True, False}


def test_of_equal_logits_the_lowest_id_is_chosen() -> None:
    """As everywhere; also where they are in different blocks."""
    vocab, words = 10_000, 9_000
    rules = TokenRules(range(vocab), [], [], words, words + 100, DEVICE)
    sampler = Sampler(rules, vocab, SingleRank())
    sampler._kernels = KERNELS
    state = RuleState.empty(2, DEVICE)
    logits = torch.zeros(2, vocab, device=DEVICE)
    logits[0, [4000, 5000, 9_500]] = 2.0
    logits[1, [9_050, 9_990]] = 2.0
    assert sampler.likeliest_of(logits, state).tokens.tolist() == [4000, 9_050]


def test_a_wrong_kernel_is_found_before_it_is_used() -> None:
    class Wrong(GpuKernels):
        def add_norm(
            self, x: torch.Tensor, added: torch.Tensor, weights: nn.LayerNorm
        ) -> torch.Tensor:
            return super().add_norm(x, added, weights) * 1.1

    class Broken(GpuKernels):
        def add_norm(
            self, x: torch.Tensor, added: torch.Tensor, weights: nn.LayerNorm
        ) -> torch.Tensor:
            raise RuntimeError("Failed to find C compiler.\nMore")

    found = fault(Wrong(False), DEVICE)
    assert found is not None and found.startswith("sum and norm is off by")
    assert fault(Broken(False), DEVICE) == "RuntimeError: Failed to find C compiler."


@pytest.mark.parametrize("value", ["0", "1"])
def test_a_variable_turns_them_off(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(package.VARIABLE, value)
    monkeypatch.setattr(package, "_trusted", lambda device: KERNELS)
    cuda = torch.device("cuda", 0)
    assert (package.gpu_kernels(cuda) is KERNELS) == (value == "1")
    with package.disabled():
        assert package.gpu_kernels(cuda) is None
    assert package.gpu_kernels(torch.device("cpu")) is None

"""Native logits against plain torch: what decides, sums and orders."""

import pytest
import torch

from engine.kernels import native
from engine.kernels.linear import (
    NativeOutputLinear,
    output_linear,
)
from engine.kernels.quantize import quantize_weight
from engine.parallel.partition import partition
from tests.support.native_builds import needs_native, random


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

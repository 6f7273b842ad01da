"""Plans: what they say fits, fits; what they leave out does not; prices are arithmetic."""

from dataclasses import replace

import pytest

from deployments.planning.accelerators import RUNTIME_BYTES
from deployments.planning.gpu_catalogue import Gpu, gpu_catalogue
from deployments.planning.planner import (
    BATCHES,
    ENOUGH,
    REACHED,
    Plan,
    Question,
    advice,
    cheapest_way,
    gpus,
    plan,
)
from engine import CrossAttentionMode, EngineConfig, EngineError, Offload, Precision
from engine.errors import PrecisionError, ShardingError
from engine.memory import Load, memory_use
from engine.model_sizes import MODEL_SIZES
from engine.parallel.shares import RankShare
from engine.parallel.stages import Stage
from engine.precision import NumberFormats

LARGE = Question(MODEL_SIZES["large-v3"], EngineConfig())
T4, L4 = (gpu_catalogue().gpu(name) for name in ("T4", "L4"))


def tiny_gpu(gigabytes: float) -> Gpu:
    """An L4 with less memory: nothing else of it changes."""
    return replace(L4, memory_bytes=int(gigabytes * 1e9))


def test_what_is_planned_is_the_formulas_sum() -> None:
    p = plan(replace(LARGE, batch=16), L4)
    import torch

    formats = NumberFormats(torch.bfloat16, torch.bfloat16)
    share = RankShare.of(LARGE.dims, Stage.whole(LARGE.dims), 1, formats)
    assert p.memory == (memory_use(share, Load(16, 448, 8, prompt_length=228), RUNTIME_BYTES),)
    # Written out: 245.8 MB of windows and 73.4 MB of tokens for each slot.
    assert p.memory[0].cross == pytest.approx(16 * 245.8e6, rel=1e-3)
    assert p.memory[0].own == pytest.approx(16 * 73.4e6, rel=1e-3)


@pytest.mark.parametrize("model", sorted(MODEL_SIZES))
def test_the_best_batch_fits_and_is_large_enough(model: str) -> None:
    question = Question(MODEL_SIZES[model], EngineConfig())
    for gpu in gpus():
        best = plan(question, gpu)
        assert best.needed_bytes <= gpu.memory_bytes
        for batch in BATCHES:
            try:
                other = plan(replace(question, batch=batch), gpu)
            except EngineError:
                assert batch > best.config.max_slots
            else:
                assert best.rtfx >= ENOUGH * other.rtfx
                assert batch >= best.config.max_slots or other.rtfx < best.rtfx


def test_a_batch_that_does_not_fit_is_refused_with_one_that_does() -> None:
    with pytest.raises(EngineError, match="it fits with batch_size=\\d+ or with") as caught:
        plan(replace(LARGE, batch=256), T4)
    fewer = int(str(caught.value).partition("batch_size=")[2].partition(" ")[0])
    plan(replace(LARGE, batch=fewer), T4)


def test_where_it_does_not_fit_the_least_costly_settings_are_found() -> None:
    assert cheapest_way(LARGE, T4).changes == ()
    small = cheapest_way(replace(LARGE, batch=16), tiny_gpu(8))
    assert dict(small.changes) == {"cross_attention": "absorbed"}
    smaller = cheapest_way(replace(LARGE, batch=16), tiny_gpu(4.2))
    assert smaller.config.precision is Precision.BFLOAT16
    assert smaller.config.cross_attention is CrossAttentionMode.ABSORBED
    assert smaller.config.offload is Offload.ENCODER
    assert smaller.needed_bytes <= 4.2e9
    with pytest.raises(EngineError, match="needs"):
        cheapest_way(replace(LARGE, batch=16), tiny_gpu(1.3))


def test_a_gpu_refuses_a_precision_it_has_not() -> None:
    """No other settings are looked for: that would be another question's answer."""
    with pytest.raises(PrecisionError, match="T4 has no fp8; it has float32, float16, int8"):
        cheapest_way(replace(LARGE, precision=Precision.FP8), T4)
    assert plan(LARGE, T4).config.precision is Precision.FLOAT16
    assert plan(LARGE, L4).config.precision is Precision.BFLOAT16


def test_split_over_gpus_each_needs_less() -> None:
    whole = plan(replace(LARGE, batch=16), L4)
    two = plan(replace(LARGE, batch=16, tensor_parallel=2), L4)
    four = plan(replace(LARGE, batch=16, tensor_parallel=2, pipeline_parallel=2), L4)
    assert four.needed_bytes < two.needed_bytes < whole.needed_bytes
    assert four.n_gpus == 4 and len(four.memory) == 2
    assert whole.rtfx < two.rtfx < 2.05 * whole.rtfx
    with pytest.raises(ShardingError, match="number of heads; got 21"):
        plan(replace(LARGE, tensor_parallel=21), L4)


def test_prices_are_of_the_rate_that_is_reached() -> None:
    p = plan(LARGE, L4)
    instance = gpu_catalogue().cheapest("L4", spot=False)
    assert instance is not None and instance.usd_per_hour is not None
    hours_of_audio = p.rtfx * REACHED
    assert p.usd_per_audio_hour(False) == pytest.approx(
        instance.usd_per_hour / instance.gpus / hours_of_audio
    )
    four = plan(replace(LARGE, tensor_parallel=4), L4)
    assert four.usd_per_audio_hour(False) == pytest.approx(
        4 * instance.usd_per_hour / instance.gpus / (four.rtfx * REACHED)
    )


def test_advice_is_replicas_first_and_ranks_for_what_does_not_fit() -> None:
    assert advice(LARGE, T4).startswith("fits one GPU: add GPUs as replicas")
    question = replace(LARGE, precision=Precision.FLOAT32)
    assert "tensor_parallel=2 does" in advice(question, tiny_gpu(6))
    assert advice(question, tiny_gpu(1.5)).startswith("does not fit: choose a smaller")


def test_more_memory_never_plans_less() -> None:
    plans: list[Plan] = [plan(LARGE, tiny_gpu(size)) for size in (6, 8, 12, 16, 24, 40)]
    rates = [p.rtfx for p in plans]
    assert rates == sorted(rates)


def test_peaks_are_those_of_the_format() -> None:
    """float32 on an A100 has a sixteenth of the 16-bit peak, and no plan says otherwise."""
    a100 = gpu_catalogue().gpu("A100-80G")
    encoder_flops = 32 * (24 * 1500 * 1280**2 + 4 * 1500**2 * 1280)
    most = 30 / (encoder_flops / 19.5e12)
    assert plan(replace(LARGE, precision=Precision.FLOAT32), a100).rtfx < most
    assert plan(LARGE, a100).rtfx > 2 * most


def test_ranks_too_get_settings_with_which_they_fit() -> None:
    pair = replace(LARGE, batch=256, tensor_parallel=2)
    assert dict(cheapest_way(pair, T4).changes)["cross_attention"] == "absorbed"

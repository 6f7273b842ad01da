"""Less memory, the same words: what is kept of windows and of tokens, and weights in few bits."""

from typing import Any

import numpy as np
import pytest
import torch
from _pytest.mark import ParameterSet

from benchmarks.scoring import wer
from engine import (
    Checkpoint,
    CrossAttentionMode,
    Engine,
    EngineConfig,
    Precision,
    Request,
    Result,
)
from engine.errors import PrecisionError
from engine.kernels import native_builds
from engine.precision import Arithmetic
from tests.conftest import MODELS
from tests.support.gangs import check_equal, gang_of, mixed
from tests.support.oracle import Oracle, logit_error
from tests.support.running import run, run_alone

TINY = "demo:tiny.en"
ABSORBED, IN_8_BITS = CrossAttentionMode.ABSORBED, CrossAttentionMode.CACHED_8BIT


def _more(**config: Any) -> ParameterSet:
    return pytest.param(EngineConfig(**config), marks=pytest.mark.more)


LOW = [
    _more(cross_attention=IN_8_BITS, int8_self_attention=True),
    _more(cross_attention=ABSORBED),
    _more(precision=Precision.BFLOAT16, cross_attention=IN_8_BITS),
    EngineConfig(precision=Precision.INT8, cross_attention=ABSORBED, int8_self_attention=True),
    _more(precision=Precision.INT8_WEIGHT_ONLY),
    _more(precision=Precision.INT4_G32, cross_attention=ABSORBED),
    _more(precision=Precision.INT4_G64),
]


def name_of(config: EngineConfig) -> str:
    own = " 8-bit tokens" * config.int8_self_attention
    return f"{config.precision} {config.cross_attention or 'default'}{own}"


@pytest.fixture(
    scope="module",
    params=[MODELS[0], pytest.param(MODELS[1], marks=pytest.mark.sharded)],  # half a minute more
)
def absorbed(request: pytest.FixtureRequest, checkpoints: dict[str, Checkpoint]) -> Engine:
    return Engine(checkpoints[request.param], EngineConfig(cross_attention=ABSORBED))


@pytest.mark.parametrize("n_clips", [1, pytest.param(4, marks=pytest.mark.more)])
def test_absorbed_gives_the_tokens_of_cached(
    n_clips: int, absorbed: Engine, engines: dict[str, Engine], clips: dict[str, np.ndarray]
) -> None:
    """Of which the oracle's are known to be the same."""
    multilingual = absorbed.tokenizer.multilingual
    requests = mixed(clips, 1 if multilingual else n_clips, multilingual)
    check_equal(run(absorbed, requests), run(engines[absorbed.model_name], requests))


@pytest.mark.parametrize("n_clips", [1, pytest.param(3, marks=pytest.mark.more)])
def test_absorbed_logits_are_within_a_thousandth(
    n_clips: int, absorbed: Engine, oracles: dict[str, Oracle], clips: dict[str, np.ndarray]
) -> None:
    for pcm in list(clips.values())[:n_clips]:
        assert logit_error(absorbed, oracles[absorbed.model_name], pcm) < 1e-3


@pytest.mark.more
@pytest.mark.parametrize("n_clips", [1, 2])
def test_absorbed_over_two_ranks(
    n_clips: int,
    engines: dict[str, Engine],
    checkpoints: dict[str, Checkpoint],
    clips: dict[str, np.ndarray],
) -> None:
    """Each has the whole state and its own heads."""
    requests = mixed(clips, n_clips, multilingual=False)
    config = EngineConfig(max_slots=5, cross_attention=ABSORBED)
    with gang_of(checkpoints[TINY], 2, [8], config) as gang:
        check_equal(run(gang, requests), run(engines[TINY], requests))


def test_memory_of_a_batch_falls_as_the_formula_says(checkpoints: dict[str, Checkpoint]) -> None:
    """16 windows of base: 6 layers' keys and values, 512 wide, or one state."""

    def n_bytes(mode: CrossAttentionMode) -> int:
        config = EngineConfig(max_slots=16, cross_attention=mode)
        engine = Engine(checkpoints["demo:base"], config)
        return sum(bank.cache.n_bytes for bank in engine.executor.runner.banks)

    state = 16 * 1500 * 512 * 4
    cached = n_bytes(CrossAttentionMode.CACHED)
    assert cached - n_bytes(ABSORBED) == 2 * 6 * state - state
    # 8 bits and a scale for each 64 values, of 32 bits.
    assert cached - n_bytes(IN_8_BITS) == 2 * 6 * state * (1 - 1 / 4 - 1 / 64)


@pytest.fixture(scope="module", params=LOW, ids=name_of)
def low(request: pytest.FixtureRequest, checkpoints: dict[str, Checkpoint]) -> Engine:
    return Engine(checkpoints[TINY], request.param)


def test_few_bits_change_few_words(
    low: Engine, engines: dict[str, Engine], clips: dict[str, np.ndarray]
) -> None:
    """`benchmarks.precision` measures it on much more speech."""
    requests = [Request(name, pcm) for name, pcm in clips.items()]
    exact, results = run(engines[TINY], requests), run(low, requests)
    reference = " ".join(exact[name].text for name in clips)
    text = " ".join(results[name].text for name in clips)
    assert wer(reference, text, "en").rate < (0.2 if "int4" in low.config.precision else 0.05)


def test_a_result_does_not_depend_on_its_batch(low: Engine, clips: dict[str, np.ndarray]) -> None:
    requests = mixed(clips, 1, multilingual=False)

    def numbers(result: Result) -> tuple[object, ...]:
        return result.tokens, result.avg_logprob, result.no_speech_prob

    alone = {r.request_id: numbers(run_alone(low, r)) for r in requests}
    assert {key: numbers(result) for key, result in run(low, requests).items()} == alone


def test_8_bits_without_native_kernels(
    engines: dict[str, Engine], checkpoints: dict[str, Checkpoint], clips: dict[str, np.ndarray]
) -> None:
    """Torch's kernels take over where those cannot run."""
    requests = [Request(name, pcm) for name, pcm in list(clips.items())[:2]]
    with native_builds.disabled():
        config = EngineConfig(precision=Precision.BFLOAT16, cross_attention=IN_8_BITS)
        results = run(Engine(checkpoints[TINY], config), requests)
    exact = run(engines[TINY], requests)
    assert all(results[r.request_id].text == exact[r.request_id].text for r in requests)


@pytest.mark.parametrize(
    ("capability", "refused"),
    [((7, 5), ["bfloat16", "fp8"]), ((8, 0), ["fp8"]), ((8, 9), []), ((9, 0), [])],
)
def test_a_gpu_refuses_what_it_has_not(capability: tuple[int, int], refused: list[str]) -> None:
    gpu = Arithmetic.of_gpu("NVIDIA T4", capability)
    for precision in Precision:
        if precision in refused:
            with pytest.raises(PrecisionError, match=f"T4 has no {precision}; it has float32"):
                precision.formats(gpu)
        else:
            formats = precision.formats(gpu)
            half = torch.float16 if capability < (8, 0) else torch.bfloat16
            assert formats.product in (half, torch.float32, torch.float16)


def test_a_cpu_refuses_fp8_when_it_loads(checkpoints: dict[str, Checkpoint]) -> None:
    with pytest.raises(PrecisionError, match="a CPU has no fp8; it has float32, bfloat16"):
        Engine(checkpoints[TINY], EngineConfig(precision=Precision.FP8))

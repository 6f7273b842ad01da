"""A chunk's result does not depend on its neighbours, on idle slots or on the order of arrival."""

import random
from typing import Any

import numpy as np
import pytest
import torch

from engine import (
    Checkpoint,
    CrossAttentionMode,
    DecodingOptions,
    Engine,
    EngineConfig,
    Request,
    Result,
)
from engine.kernels import native_builds
from engine.model.decoder import DecoderStage
from engine.precision import Precision
from tests.conftest import MODELS
from tests.support.running import drain, run, run_alone


def mixed_requests(clips: dict[str, np.ndarray], n_slots: int = 16) -> list[Request]:
    """Clips with options that make prompts, rules and lengths differ within one batch, each of at
    most so many texts."""
    options = [
        DecodingOptions(),
        DecodingOptions(timestamps=False),
        DecodingOptions(prompt="Jane Austen"),
        DecodingOptions(timestamps=False, prefix=(843, 1770), prompt="Jane Austen", words=True),
        DecodingOptions(temperature=0.7, seed=3),
        DecodingOptions(max_new_tokens=5),
        DecodingOptions(beam_size=3),
        DecodingOptions(temperature=0.7, seed=4, best_of=2),
    ]
    return [
        Request(f"{name}-{index}", pcm, option, group=name)
        for name, pcm in list(clips.items())[:2]
        for index, option in enumerate(options)
        if option.n_texts <= n_slots
    ]


def numbers(result: Result) -> tuple[object, ...]:
    """All that is computed, to the bit."""
    return (
        result.tokens,
        result.avg_logprob,
        result.no_speech_prob,
        result.language_prob,
        result.finish_reason,
    )


@pytest.fixture(scope="module", params=[MODELS[0], pytest.param(MODELS[1], marks=pytest.mark.more)])
def model(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def alone(
    model: str, engines: dict[str, Engine], clips: dict[str, np.ndarray]
) -> dict[str, Result]:
    """Each request in an otherwise idle engine."""
    return {r.request_id: run_alone(engines[model], r) for r in mixed_requests(clips)}


def test_batched_is_bitwise_equal_to_alone(
    model: str, alone: dict[str, Result], engines: dict[str, Engine], clips: dict[str, np.ndarray]
) -> None:
    batched = run(engines[model], mixed_requests(clips))
    assert {k: numbers(r) for k, r in batched.items()} == {k: numbers(r) for k, r in alone.items()}


def test_order_and_time_of_arrival_change_nothing(
    model: str, alone: dict[str, Result], engines: dict[str, Engine], clips: dict[str, np.ndarray]
) -> None:
    engine, rng = engines[model], random.Random(7)
    requests = mixed_requests(clips)
    rng.shuffle(requests)
    results: dict[str, Result] = {}
    while requests or engine.has_unfinished:
        for request in requests[: rng.randrange(3)]:
            requests.remove(request)
            engine.add_request(request)
        results |= {result.request_id: result for result in engine.step()}
    assert {k: numbers(r) for k, r in results.items()} == {k: numbers(r) for k, r in alone.items()}


def test_aborted_neighbours_change_nothing(
    model: str, alone: dict[str, Result], engines: dict[str, Engine], clips: dict[str, np.ndarray]
) -> None:
    engine = engines[model]
    requests = mixed_requests(clips)
    for request in requests:
        engine.add_request(request)
    results = {result.request_id: result for _ in range(6) for result in engine.step()}
    doomed = [r.request_id for r in requests if r.request_id not in results][::2]
    assert all(engine.abort(request_id) for request_id in doomed)
    results |= drain(engine)
    assert set(results) == set(alone) - set(doomed)
    assert all(numbers(result) == numbers(alone[key]) for key, result in results.items())
    assert engine.n_running == engine.n_waiting == 0


@pytest.mark.parametrize(
    "config",
    [
        EngineConfig(max_slots=1),
        pytest.param(EngineConfig(max_slots=3), marks=pytest.mark.more),
        pytest.param(EngineConfig(max_slots=12), marks=pytest.mark.more),
        EngineConfig(max_slots=8, encode_batch=4),
    ],
    ids=lambda config: f"{config.max_slots} slots, {config.encode_limit} encoded",
)
def test_number_of_slots_changes_no_bit(
    config: EngineConfig,
    model: str,
    alone: dict[str, Result],
    checkpoints: dict[str, Checkpoint],
    clips: dict[str, np.ndarray],
) -> None:
    results = run(Engine(checkpoints[model], config), mixed_requests(clips, config.max_slots)[::2])
    assert all(numbers(result) == numbers(alone[key]) for key, result in results.items())


@pytest.mark.more
def test_many_slots_are_invariant_among_themselves(
    model: str,
    alone: dict[str, Result],
    checkpoints: dict[str, Checkpoint],
    clips: dict[str, np.ndarray],
) -> None:
    """From 16 rows up the CPU's kernels are others: the last bits may differ from a small batch,
    tokens do not."""
    engine = Engine(checkpoints[model], EngineConfig(max_slots=20))
    requests = mixed_requests(clips)
    batched = run(engine, requests)
    single = {r.request_id: run_alone(engine, r) for r in requests[::4]}
    assert all(numbers(batched[key]) == numbers(result) for key, result in single.items())
    greedy = [r.request_id for r in requests if r.options.temperature == 0.0]
    assert all(batched[key].tokens == alone[key].tokens for key in greedy)


@pytest.mark.skipif(not native_builds.serves(torch.device("cpu")), reason="no native kernels here")
@pytest.mark.parametrize(
    ("precision", "cross", "n_alone"),
    [
        (Precision.INT8, None, 1),
        pytest.param(Precision.BFLOAT16, None, 1, marks=pytest.mark.more),
        # Torch multiplies the heads of absorbed cross-attention.
        (Precision.INT8, CrossAttentionMode.ABSORBED, 4),
        pytest.param(Precision.FLOAT32, None, 1, marks=pytest.mark.more),
        pytest.param(Precision.FLOAT32, CrossAttentionMode.ABSORBED, 4, marks=pytest.mark.more),
    ],
)
def test_idle_rows_are_computed_only_where_they_matter(
    precision: Precision,
    cross: CrossAttentionMode | None,
    n_alone: int,
    checkpoints: dict[str, Checkpoint],
    clips: dict[str, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = Engine(
        checkpoints[MODELS[0]],
        EngineConfig(precision=precision, cross_attention=cross, max_slots=8),
    )
    rows: set[int] = set()
    decode = DecoderStage.decode

    def counted(stage: DecoderStage, x: torch.Tensor, *arguments: Any) -> torch.Tensor:
        rows.add(len(x))
        return decode(stage, x, *arguments)

    monkeypatch.setattr(DecoderStage, "decode", counted)
    requests = mixed_requests(clips, 1)
    batched = run(engine, requests)
    assert max(rows) > 4 and any(n % 4 for n in rows) == (n_alone == 1)
    rows.clear()
    alone = {r.request_id: run_alone(engine, r) for r in requests[::3]}
    assert rows == {n_alone}
    assert all(numbers(batched[key]) == numbers(result) for key, result in alone.items())

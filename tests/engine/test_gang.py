"""A gang of processes gives the tokens of one rank."""

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from benchmarks.random_model import random_checkpoint
from engine import (
    Checkpoint,
    DecodingOptions,
    Engine,
    EngineConfig,
    Precision,
    Request,
)
from engine.fit import rank_memory
from engine.gang.gang import Gang
from engine.gang.local import local_gang
from engine.model_sizes import LARGE_V3, MODEL_SIZES
from engine.parallel.distributed import Mesh
from engine.parallel.stages import cut_stages
from engine.parallel.wire_costs import WireModel
from engine.precision import Arithmetic
from engine.steps import Decode
from tests.support.gangs import QUICK, check_equal, gang_of, mixed, run_mixed
from tests.support.running import drain, run, run_alone

TINY, BASE = "demo:tiny.en", "demo:base"
MESHES = [(2, None), (3, None), (4, None), (1, [4, 4]), (1, [3, 2, 3]), (2, [4, 4])]
"""Of tiny.en: six heads over four ranks, a vocabulary that does not divide, cuts at and beside the
border of encoder and decoder."""


@pytest.fixture(scope="module")
def gang(checkpoints: dict[str, Checkpoint]) -> Iterator[Engine]:
    """Six ranks: an encoder's part, one of both, and a decoder's part, two ranks each."""
    with gang_of(checkpoints[TINY], 2, [3, 3, 2], limits=QUICK) as engine:
        yield engine


@pytest.fixture(scope="module", params=[1, pytest.param(2, marks=pytest.mark.more)])
def requests(request: pytest.FixtureRequest, clips: dict[str, np.ndarray]) -> list[Request]:
    """Of so many clips."""
    return mixed(clips, request.param, multilingual=False)


def test_requests_that_come_at_any_time(
    gang: Engine, engines: dict[str, Engine], requests: list[Request]
) -> None:
    check_equal(run_mixed(gang, requests, 7), run(engines[TINY], requests))


@pytest.mark.more
def test_an_idle_gang_outlives_its_limits(
    gang: Engine, engines: dict[str, Engine], requests: list[Request]
) -> None:
    time.sleep(2 * QUICK.silent_s)
    gang.check()
    check_equal(run(gang, requests[:2]), run(engines[TINY], requests[:2]))


def test_aborted_neighbours_change_nothing(
    gang: Engine, engines: dict[str, Engine], requests: list[Request]
) -> None:
    """Waiting, being encoded, or decoded in either slot group."""
    for request in requests:
        gang.add_request(request)
    results = {}
    for request in requests[::2]:
        for _ in range(3):
            results |= {result.request_id: result for result in gang.step()}
        if request.request_id not in results:
            assert gang.abort(request.request_id)
    results |= drain(gang)
    assert gang.n_running == gang.n_waiting == 0
    assert {request.request_id for request in requests[1::2]} <= set(results)
    expected = run(engines[TINY], requests)
    check_equal(results, {key: expected[key] for key in results})


def test_ranks_send_what_the_formula_says(
    gang: Engine, checkpoints: dict[str, Checkpoint], clips: dict[str, np.ndarray]
) -> None:
    """A window, its prompt, 6 more tokens, and 3 steps of two slots."""
    executor, dims = gang.executor, checkpoints[TINY].dims
    assert isinstance(executor, Gang)
    executor.report()
    options = DecodingOptions(language="en", max_new_tokens=7)
    run(gang, [Request("clip", clips["librivox-0880.wav"], options)])
    for _ in range(3):
        executor.decode(Decode(1, 2, 40, (None, None))).get()
    for report in executor.report():
        wires = WireModel(dims, executor.mesh, report.rank, itemsize=4)
        expected = wires.encode(1) + wires.prefill(1, 4)
        for _ in range(6):
            expected += wires.decode(1, 4)
        for _ in range(3):
            expected += wires.decode(2, 4)
        assert (report.calls, report.sent_bytes) == (expected.calls, expected.sent_bytes)


def test_searches_of_several_sizes_in_a_pipeline(
    checkpoints: dict[str, Checkpoint], engines: dict[str, Engine], clips: dict[str, np.ndarray]
) -> None:
    """The last stage tells the first ones which texts go on, of all searches of a step at once."""
    requests = [
        Request(f"{name} {beam_size}", pcm, DecodingOptions(language="en", beam_size=beam_size))
        for name, pcm in list(clips.items())[:2]
        for beam_size in (3, 2)
    ]
    with gang_of(checkpoints[TINY], 1, [4, 2, 2], EngineConfig(max_slots=10)) as pipeline:
        check_equal(run(pipeline, requests), run(engines[TINY], requests))


@pytest.mark.more
@pytest.mark.parametrize(("tensor", "layers"), [(1, [6, 2]), (2, [6, 2])])
def test_keywords_are_favoured_as_by_one_rank(
    tensor: int,
    layers: list[int],
    checkpoints: dict[str, Checkpoint],
    engines: dict[str, Engine],
    clips: dict[str, np.ndarray],
) -> None:
    """Their tokens lie on several ranks, which all follow the same paths."""
    keywords = ("ill-disposed", "Dashwode", "amiable", "leasure", "coldharted")
    requests = [
        Request(
            f"{name} {beam_size} {n_keywords}",
            pcm,
            DecodingOptions(
                language="en",
                beam_size=beam_size,
                keywords=keywords[:n_keywords],
                keyword_boost=3.0,
                keywords_in_prompt=False,
            ),
        )
        for name, pcm in list(clips.items())[:2]
        for beam_size, n_keywords in ((1, 5), (3, 5), (2, 2), (2, 0))
    ]
    expected = run(engines[TINY], requests)
    assert any("Dashwode" in result.text for result in expected.values())
    with gang_of(checkpoints[TINY], tensor, layers, EngineConfig(max_slots=10)) as gang:
        check_equal(run(gang, requests), expected)


@pytest.mark.parametrize(
    ("tensor", "layers"),
    [
        (2, [6, 2]),
        *(pytest.param(*mesh, marks=pytest.mark.more) for mesh in ((2, [8]), (1, [5, 3]))),
    ],
)
def test_words_are_those_of_one_rank(
    tensor: int,
    layers: list[int],
    checkpoints: dict[str, Checkpoint],
    engines: dict[str, Engine],
    clips: dict[str, np.ndarray],
) -> None:
    """Heads lie on ranks, and layers on stages: each sends what its heads attended to."""
    options = DecodingOptions(language="en", words=True)
    requests = [Request(name, pcm, options) for name, pcm in list(clips.items())[:3]]
    expected = run(engines[TINY], requests)
    with gang_of(checkpoints[TINY], tensor, layers, EngineConfig(max_slots=4)) as gang:
        found = run(gang, requests)
    for key, result in expected.items():
        spans = [
            [(w.text, w.start_s, w.end_s) for s in each.segments for w in s.words]
            for each in (result, found[key])
        ]
        assert spans[0] == spans[1] and spans[0]


@pytest.mark.sharded
def test_late_reading_changes_nothing(
    checkpoints: dict[str, Checkpoint], engines: dict[str, Engine], requests: list[Request]
) -> None:
    """As on GPUs, where tokens go from the last stage to the first before the leader knows them."""
    config = EngineConfig(max_slots=5, lag_steps=2)
    with gang_of(checkpoints[TINY], 1, [5, 3], config) as engine:
        check_equal(run_mixed(engine, requests, 3), run(engines[TINY], requests))


def test_twenty_heads_over_eight_ranks(clips: dict[str, np.ndarray]) -> None:
    dims = replace(
        MODEL_SIZES["tiny"],
        n_audio_state=160,
        n_audio_head=20,
        n_audio_layer=2,
        n_text_state=160,
        n_text_head=20,
        n_text_layer=2,
    )
    opener = partial(random_checkpoint, "twenty", dims)
    options = DecodingOptions(language="en", max_new_tokens=20)
    requests = [Request(name, pcm, options) for name, pcm in list(clips.items())[:2]]
    config = EngineConfig(max_slots=2)
    expected = run(Engine(opener(), config), requests)
    with local_gang(opener, Mesh(cut_stages(dims, [4]), 8), config) as engine:
        check_equal(run(engine, requests), expected)


@pytest.mark.sharded
@pytest.mark.parametrize("precision", [Precision.INT8, Precision.BFLOAT16])
def test_few_bits_hear_the_same_words(
    precision: Precision, checkpoints: dict[str, Checkpoint], clips: dict[str, np.ndarray]
) -> None:
    """Five ranks hold 409 or 410 hidden units each, which not every kernel takes; each quantises
    its own, so the last bits differ from one rank's."""
    request = Request("clip", clips["librivox-0880.wav"])
    config = EngineConfig(max_slots=4, precision=precision)
    alone = run_alone(Engine(checkpoints[BASE], config), request)
    with gang_of(checkpoints[BASE], 5, [12], config) as engine:
        result = run_alone(engine, request)
    assert result.tokens == alone.tokens
    assert result.avg_logprob == pytest.approx(alone.avg_logprob, abs=0.05)


@pytest.mark.sharded
def test_ranks_do_not_grow(
    checkpoints: dict[str, Checkpoint], clips: dict[str, np.ndarray]
) -> None:
    """What was sent is let go."""
    options = DecodingOptions(max_new_tokens=4)
    with gang_of(checkpoints[TINY], 1, [4, 2, 2]) as engine:
        sizes = []
        for _ in range(5):
            run(engine, [Request(str(i), clips["librivox-0880.wav"], options) for i in range(40)])
            assert isinstance(engine.executor, Gang)
            sizes.append([report.rss_bytes for report in engine.executor.report()])
    window_bytes = 1500 * 384 * 4
    assert all(
        after - before < 20 * window_bytes
        for before, after in zip(sizes[0], sizes[-1], strict=True)
    ), sizes


@pytest.mark.sharded
@pytest.mark.parametrize(("tensor_parallel", "cut"), [(4, [64]), (2, [32, 32]), (1, [16] * 4)])
def test_large_v3_takes_the_memory_that_the_formula_says(
    tensor_parallel: int, cut: list[int], clips: dict[str, np.ndarray]
) -> None:
    """Its real sizes and random weights, in bfloat16 over four ranks."""
    opener = partial(random_checkpoint, "large-v3", LARGE_V3)
    mesh = Mesh(cut_stages(LARGE_V3, cut), tensor_parallel)
    config = EngineConfig(precision=Precision.BFLOAT16, max_slots=2)
    on_cpu = Arithmetic.of(torch.device("cpu"))
    uses = [
        rank_memory(LARGE_V3, config, on_cpu, mesh.stages, index, tensor_parallel)
        for index in range(len(cut))
    ]
    options = DecodingOptions(language="en", max_new_tokens=8)
    with local_gang(opener, mesh, config) as engine:
        executor = engine.executor
        assert isinstance(executor, Gang)
        loaded = executor.report()
        result = run_alone(engine, Request("clip", clips["librivox-0880.wav"], options))
        assert len(result.tokens) == 8
        reports = executor.report()
    for before, after in zip(loaded, reports, strict=True):
        use = uses[mesh.stage_of(after.rank)]
        if mesh.tensor_rank_of(after.rank) == 0:  # others may have a token id less
            assert after.device_bytes == use.weights + use.cache
        grown = after.rss_bytes - after.bare_rss_bytes
        print(f"rank {after.rank}: {grown / 1e6:.0f} MB, formula {use.total / 1e6:.0f}")
        assert grown == pytest.approx(use.total, rel=0.1)
        # What was read at once beside what stays: the largest tensor, in float32.
        largest = LARGE_V3.n_vocab * LARGE_V3.n_text_state * 4
        peak = before.peak_rss_bytes - before.bare_rss_bytes
        assert peak < 1.1 * (use.weights + use.cache + largest)


@pytest.mark.sharded
@pytest.mark.parametrize("model", [TINY, BASE])
@pytest.mark.parametrize(("tensor_parallel", "cut"), MESHES)
def test_every_mesh_gives_the_tokens_of_one_rank(
    model: str,
    tensor_parallel: int,
    cut: list[int] | None,
    checkpoints: dict[str, Checkpoint],
    engines: dict[str, Engine],
    clips: dict[str, np.ndarray],
) -> None:
    checkpoint = checkpoints[model]
    n_layers = checkpoint.dims.n_audio_layer + checkpoint.dims.n_text_layer
    counts = [n_layers] if cut is None else [*cut[:-1], n_layers - sum(cut[:-1])]
    requests = mixed(clips, 5, checkpoint.dims.is_multilingual)
    with gang_of(checkpoint, tensor_parallel, counts) as engine:
        check_equal(run_mixed(engine, requests, 5), run(engines[model], requests))


@pytest.mark.sharded
@pytest.mark.parametrize("cut", [[1, 11], [5, 3, 4], [7, 5], [11, 1], [1] * 12], ids=str)
def test_every_cut_gives_the_tokens_of_one_rank(
    cut: list[int],
    checkpoints: dict[str, Checkpoint],
    engines: dict[str, Engine],
    clips: dict[str, np.ndarray],
) -> None:
    requests = mixed(clips, 2, multilingual=True)
    with gang_of(checkpoints[BASE], 1, cut) as engine:
        check_equal(run_mixed(engine, requests, 9), run(engines[BASE], requests))

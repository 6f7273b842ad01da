"""Short windows: the encoder sees a chunk and a margin, and the decoder reads no more than that."""

from collections.abc import Iterator
from dataclasses import replace
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
    Precision,
    Request,
    Result,
    Window,
)
from engine.kernels import native, native_builds
from engine.model.cross_cache import DenseCrossCache, Int8CrossCache, WindowStates
from engine.model.window_lengths import WindowLengths
from engine.window import FRAME_SAMPLES, MIN_FRAMES, N_FRAMES, STEP_FRAMES, short_frames
from tests.conftest import MODELS
from tests.support.gangs import check_equal, gang_of
from tests.support.oracle import Oracle
from tests.support.params import more_but
from tests.support.running import run, run_alone

TINY = MODELS[0]
SECOND = 50 * FRAME_SAMPLES
CPU = torch.device("cpu")
LENGTHS_S = (1.0, 3.0, 6.5, 10.0)
SHORT = EngineConfig(max_slots=7, window=Window.SHORT)
CONFIGS = {
    "float32": SHORT,
    "bfloat16": replace(SHORT, precision=Precision.BFLOAT16),
    "int8": replace(SHORT, precision=Precision.INT8),
    "absorbed": replace(SHORT, cross_attention=CrossAttentionMode.ABSORBED),
    "8 bits": replace(
        SHORT, cross_attention=CrossAttentionMode.CACHED_8BIT, int8_self_attention=True
    ),
    "int8, absorbed": replace(
        SHORT, precision=Precision.INT8, cross_attention=CrossAttentionMode.ABSORBED
    ),
}


def requests_of(clips: dict[str, np.ndarray]) -> list[Request]:
    """Pieces of clips of several lengths, with several texts and without, one of them whole."""
    few = DecodingOptions(language="en", max_new_tokens=12)
    options = [
        few,
        replace(few, words=True),
        replace(few, beam_size=2),
        replace(few, temperature=0.7, seed=4, best_of=2),
    ]
    long = np.concatenate(list(clips.values()))
    pieces = [long[: round(length_s * SECOND)] for length_s in LENGTHS_S]
    asked = [
        Request(f"{i}", pcm, options[i % len(options)], group=f"{i}")
        for i, pcm in enumerate(pieces + pieces[2:])
    ]
    return [*asked, Request("whole", pieces[1], options[0], window=Window.EXACT)]


def numbers(result: Result) -> tuple[object, ...]:
    """All that is computed, to the bit."""
    return (
        result.tokens,
        result.avg_logprob,
        result.no_speech_prob,
        result.n_frames,
        [segment.words for segment in result.segments],
    )


@pytest.mark.parametrize("name", more_but(("int8", "absorbed"), CONFIGS))
def test_a_result_does_not_depend_on_its_company(
    name: str, checkpoints: dict[str, Checkpoint], clips: dict[str, np.ndarray]
) -> None:
    """Nor on windows that were in its slot before, which are longer."""
    engine, requests = Engine(checkpoints[TINY], CONFIGS[name]), requests_of(clips)
    together = {key: numbers(result) for key, result in run(engine, requests).items()}
    alone = {r.request_id: numbers(run_alone(engine, r)) for r in reversed(requests)}
    assert together == alone
    fresh = Engine(checkpoints[TINY], replace(CONFIGS[name], encode_batch=3))
    assert {key: numbers(result) for key, result in run(fresh, requests).items()} == alone


def test_without_native_kernels(
    checkpoints: dict[str, Checkpoint], clips: dict[str, np.ndarray]
) -> None:
    with native_builds.disabled():
        config = replace(
            SHORT, precision=Precision.BFLOAT16, cross_attention=CrossAttentionMode.CACHED_8BIT
        )
        engine, requests = Engine(checkpoints[TINY], config), requests_of(clips)
        together = {key: numbers(result) for key, result in run(engine, requests).items()}
        assert together == {r.request_id: numbers(run_alone(engine, r)) for r in requests}


def test_who_asks_for_the_whole_window_gets_what_an_exact_engine_gives(
    engines: dict[str, Engine], checkpoints: dict[str, Checkpoint], clips: dict[str, np.ndarray]
) -> None:
    asked = [replace(request, window=Window.EXACT) for request in requests_of(clips)]
    short = run(Engine(checkpoints[TINY], SHORT), asked)
    exact = run(engines[TINY], asked)
    assert {k: numbers(r) for k, r in short.items()} == {k: numbers(r) for k, r in exact.items()}
    assert {result.n_frames for result in exact.values()} == {N_FRAMES}


def test_who_asks_for_a_short_window_gets_one_of_any_engine_on_a_cpu(
    engines: dict[str, Engine], checkpoints: dict[str, Checkpoint], clips: dict[str, np.ndarray]
) -> None:
    """Beside others who get whole ones, as looks of live speech are beside chunks of files."""
    requests = requests_of(clips)
    asked = [replace(request, window=Window.SHORT) for request in requests[::2]]
    found = run(engines[TINY], [*asked, *requests[1::2]])
    short = run(Engine(checkpoints[TINY], SHORT), asked)
    exact = run(engines[TINY], requests[1::2])
    assert any(result.n_frames < N_FRAMES for result in short.values())
    assert {k: numbers(r) for k, r in found.items()} == {
        k: numbers(r) for k, r in {**short, **exact}.items()
    }


def test_an_engine_without_short_windows_gives_whole_ones(
    checkpoints: dict[str, Checkpoint], clips: dict[str, np.ndarray]
) -> None:
    """As on a GPU, whatever is asked for."""
    engine = Engine(checkpoints[TINY], _WholeAlone(max_slots=7))
    asked = [replace(request, window=Window.SHORT) for request in requests_of(clips)[:3]]
    assert {result.n_frames for result in run(engine, asked).values()} == {N_FRAMES}


class _WholeAlone(EngineConfig):
    """A configuration whose slots have no room for short windows."""

    has_short_windows = False


def test_frames_of_a_window(
    checkpoints: dict[str, Checkpoint], clips: dict[str, np.ndarray]
) -> None:
    results = run(Engine(checkpoints[TINY], SHORT), requests_of(clips))
    expected = [short_frames(round(s * SECOND), SHORT.margin_frames, 1500) for s in LENGTHS_S]
    assert [results[f"{i}"].n_frames for i in range(len(LENGTHS_S))] == expected
    assert expected[0] == N_FRAMES > max(expected[1:]) and len(set(expected)) == len(LENGTHS_S)
    assert results["whole"].n_frames == N_FRAMES


@pytest.mark.parametrize("margin", [0, 1, 64, 200])
def test_lengths_are_few_and_leave_a_margin(margin: int) -> None:
    lengths = {}
    for n_samples in range(1, N_FRAMES * FRAME_SAMPLES + 1, 777):
        frames = lengths[n_samples] = short_frames(n_samples, margin, N_FRAMES)
        assert frames == N_FRAMES or frames * FRAME_SAMPLES >= n_samples + margin * FRAME_SAMPLES
        assert frames == N_FRAMES or frames % STEP_FRAMES == 0
        assert frames == N_FRAMES or n_samples > (MIN_FRAMES - 1) * FRAME_SAMPLES
    assert len(set(lengths.values())) <= N_FRAMES // STEP_FRAMES + 1
    assert short_frames(N_FRAMES * FRAME_SAMPLES, margin, N_FRAMES) == N_FRAMES


def test_a_margin_is_not_negative() -> None:
    with pytest.raises(ValueError, match="margin_frames must not be negative, got -1"):
        EngineConfig(margin_frames=-1)


def test_states_are_those_of_transformers_with_fewer_positions(
    engines: dict[str, Engine], oracles: dict[str, Oracle], clips: dict[str, np.ndarray]
) -> None:
    pcm, n_frames = next(iter(clips.values()))[: 5 * SECOND], 384
    runner, oracle = engines[TINY].executor.runner, oracles[TINY]
    with torch.inference_mode():
        found = runner.encode_part([pcm], range(4), n_frames)
        encoder = oracle.model.model.encoder
        mel = oracle.mel(pcm)[..., : 2 * n_frames]
        x = torch.nn.functional.gelu(encoder.conv1(mel))
        x = torch.nn.functional.gelu(encoder.conv2(x)).transpose(1, 2)
        x = x + encoder.embed_positions.weight[:n_frames]
        for layer in encoder.layers:
            x = layer(x, attention_mask=None)
        expected = encoder.layer_norm(x)
    assert found.shape == (1, n_frames, 384)
    assert float((found - expected).abs().max()) < 1e-3


@pytest.fixture(params=["dense", "8 bits", "absorbed"])
def cache(request: pytest.FixtureRequest) -> Any:
    lengths = WindowLengths(4, 192, CPU, may_be_short=True)
    kinds: dict[str, Any] = {
        "dense": lambda: DenseCrossCache((4, 2, 192, 64), CPU, torch.float32, lengths),
        "8 bits": lambda: Int8CrossCache((4, 2, 192, 64), CPU, torch.float32, lengths),
        "absorbed": lambda: WindowStates((4, 192, 128), CPU, torch.float32, lengths),
    }
    return kinds[request.param]()


@pytest.mark.parametrize("slots", [slice(0, 4), torch.tensor([2, 2, 0, 3])], ids=["range", "some"])
def test_where_the_host_knows_no_length_a_mask_gives_the_same(
    cache: Any, slots: slice | torch.Tensor
) -> None:
    """As on a GPU without our own kernels. What lies behind a window is loud."""
    generator = torch.Generator().manual_seed(1)
    width = 128 if isinstance(cache, WindowStates) else 256
    for slot, n_frames in enumerate((192, 64, 64, 128)):
        where = slice(slot, slot + 1)
        cache._lengths.put(where, 192)
        cache.fill(50 * torch.randn(1, 192, width, generator=generator), where)
        cache._lengths.put(where, n_frames)
        cache.fill(torch.randn(1, n_frames, width, generator=generator), where)
    queries = torch.randn(4, 2, 128, generator=generator)
    runs = cache.attend(queries, slots)
    frames = cache._lengths.frames
    known = frames[slots] if isinstance(slots, torch.Tensor) else frames
    mask = torch.arange(192) < known[:, None]
    assert torch.allclose(cache._attend(queries, slots, 192, mask), runs, atol=1e-5)


@pytest.mark.skipif(not native_builds.serves(CPU), reason="no native kernels here")
def test_native_kernels_read_no_further_than_a_window() -> None:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor([192, 64, 128])
    loud, plain = (native.Int8CrossCache(3, 2, 192, lengths) for _ in range(2))
    loud.fill(50 * torch.randn(3, 192, 256, generator=generator).bfloat16(), torch.arange(3))
    for slot, n_frames in enumerate(lengths.tolist()):
        kv = torch.randn(1, n_frames, 256, generator=generator).bfloat16()
        for each in (loud, plain):
            each.fill(kv, torch.tensor([slot]))
    queries, slots = torch.randn(4, 128, generator=generator), torch.tensor([1, 0, 2, 1])
    assert torch.equal(loud.attend(queries, slots), plain.attend(queries, slots))


@pytest.fixture(scope="module")
def gang(checkpoints: dict[str, Checkpoint]) -> Iterator[Engine]:
    """An encoder's part, one of both, and a decoder's part, two ranks each."""
    config = EngineConfig(max_slots=6, encode_batch=2, window=Window.SHORT)
    with gang_of(checkpoints[TINY], 2, [3, 3, 2], config) as engine:
        yield engine


def test_a_gang_gives_the_tokens_of_one_rank(
    gang: Engine, checkpoints: dict[str, Checkpoint], clips: dict[str, np.ndarray]
) -> None:
    requests = [r for r in requests_of(clips) if r.options.n_texts <= gang.max_texts]
    expected = run(Engine(checkpoints[TINY], SHORT), requests)
    check_equal(run(gang, requests), expected)

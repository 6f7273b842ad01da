"""Encoding beside decoding, and reading tokens late: the same results, and nothing left behind."""

import threading

import numpy as np
import pytest
import torch

from engine import (
    Checkpoint,
    DecodingOptions,
    Engine,
    EngineConfig,
    EngineError,
    Precision,
    Request,
    Result,
)
from engine.kernels import native_builds
from tests.engine.test_invariance import mixed_requests, numbers
from tests.support.running import drain, run, run_alone

MODEL = "demo:tiny.en"
CLIP = "librivox-0870.wav"


def mixed(clips: dict[str, np.ndarray]) -> list[Request]:
    """Of one clip with every second option and of the next with the others; and one that ends with
    its first token."""
    only_one = Request("one", clips[CLIP], DecodingOptions(max_new_tokens=1))
    found, names = [only_one], list(clips)
    for request in mixed_requests(clips, 1):
        name, option = request.request_id.rsplit("-", 1)
        if (names.index(name) + int(option)) % 2 == 0:
            found.append(request)
    return found


def engine_of(checkpoints: dict[str, Checkpoint], **changes: object) -> Engine:
    values: dict[str, object] = {"precision": Precision.INT8, "max_slots": 5} | changes
    return Engine(checkpoints[MODEL], EngineConfig(**values))  # type: ignore[arg-type]


PRECISIONS = [Precision.INT8, pytest.param(Precision.BFLOAT16, marks=pytest.mark.more)]


@pytest.fixture(scope="module", params=PRECISIONS)
def alone(
    request: pytest.FixtureRequest,
    checkpoints: dict[str, Checkpoint],
    clips: dict[str, np.ndarray],
) -> tuple[Precision, dict[str, Result]]:
    """One by one, each window encoded before anything is decoded."""
    engine = engine_of(checkpoints, precision=request.param, max_slots=1, overlap_encoding=False)
    return request.param, {r.request_id: run_alone(engine, r) for r in mixed(clips)}


def test_the_words_are_right(
    alone: tuple[Precision, dict[str, Result]],
    clips: dict[str, np.ndarray],
    transcripts: dict[str, str],
) -> None:
    from benchmarks.scoring import wer

    heard = {"librivox-0870.wav": "0", "librivox-0880.wav": "1"}
    names = list(heard)
    text = " ".join(alone[1][f"{name}-{option}"].text for name, option in heard.items())
    assert wer(" ".join(transcripts[name] for name in names), text, "en").rate < 0.1


@pytest.mark.parametrize(
    "changes",
    [
        {"overlap_encoding": False},
        {"overlap_encoding": True},
        {"overlap_encoding": True, "max_slots": 16},
        {"overlap_encoding": True, "lag_steps": 1},
        {"overlap_encoding": False, "lag_steps": 3, "encode_batch": 4},
    ],
    ids=str,
)
def test_the_way_of_running_changes_no_bit(
    changes: dict[str, object],
    alone: tuple[Precision, dict[str, Result]],
    checkpoints: dict[str, Checkpoint],
    clips: dict[str, np.ndarray],
) -> None:
    precision, expected = alone
    results = run(engine_of(checkpoints, precision=precision, **changes), mixed(clips))
    assert {k: numbers(r) for k, r in results.items()} == {
        k: numbers(r) for k, r in expected.items()
    }


def test_the_number_of_threads_changes_no_bit(
    alone: tuple[Precision, dict[str, Result]],
    checkpoints: dict[str, Checkpoint],
    clips: dict[str, np.ndarray],
) -> None:
    precision, expected = alone
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        results = run(engine_of(checkpoints, precision=precision), mixed(clips))
    finally:
        torch.set_num_threads(before)
    assert {k: numbers(r) for k, r in results.items()} == {
        k: numbers(r) for k, r in expected.items()
    }


@pytest.mark.more
@pytest.mark.parametrize("precision", PRECISIONS)
def test_torchs_kernels_hold_as_well(
    precision: Precision, checkpoints: dict[str, Checkpoint], clips: dict[str, np.ndarray]
) -> None:
    """What runs where the native kernels were not compiled, or do not know the processor."""
    requests = mixed(clips)
    with native_builds.disabled():
        alone = engine_of(checkpoints, precision=precision, max_slots=1, overlap_encoding=False)
        expected = {r.request_id: numbers(run_alone(alone, r)) for r in requests}
        results = run(engine_of(checkpoints, precision=precision, max_slots=16), requests)
    assert {k: numbers(r) for k, r in results.items()} == expected


def test_float32_reads_late_to_the_bit(
    checkpoints: dict[str, Checkpoint],
    engines: dict[str, Engine],
    clips: dict[str, np.ndarray],
) -> None:
    late = Engine(checkpoints[MODEL], EngineConfig(lag_steps=2))
    results, expected = run(late, mixed(clips)), run(engines[MODEL], mixed(clips))
    assert {k: numbers(r) for k, r in results.items()} == {
        k: numbers(r) for k, r in expected.items()
    }


def test_an_error_of_the_encoding_thread_ends_the_engine(
    checkpoints: dict[str, Checkpoint],
    clips: dict[str, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = engine_of(checkpoints)
    encode = engine.executor.runner.encode

    def fails_elsewhere(*arguments: object) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise torch.OutOfMemoryError("no room")
        encode(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(engine.executor.runner, "encode", fails_elsewhere)
    for request in mixed(clips)[:4]:
        engine.add_request(request)
    with pytest.raises(torch.OutOfMemoryError):
        drain(engine)
    with pytest.raises(EngineError, match="earlier step failed"):
        engine.step()


@pytest.mark.parametrize("lag_steps", [0, 2])
def test_aborted_at_any_time_frees_its_slot(
    lag_steps: int, checkpoints: dict[str, Checkpoint], clips: dict[str, np.ndarray]
) -> None:
    """Waiting, being encoded, or decoded."""
    engine = engine_of(checkpoints, lag_steps=lag_steps)
    requests = mixed(clips)
    for request in requests:
        engine.add_request(request)
    results: dict[str, Result] = {}
    for request in requests[::2]:
        results |= {result.request_id: result for result in engine.step()}
        if request.request_id not in results:
            assert engine.abort(request.request_id)
            assert not engine.abort(request.request_id)
    results |= drain(engine)
    assert {request.request_id for request in requests[1::2]} <= set(results)
    assert engine.n_running == engine.n_waiting == 0
    again = run(engine, mixed(clips)[1:2])
    assert again[requests[1].request_id].text


def test_torch_keeps_its_threads(
    checkpoints: dict[str, Checkpoint], clips: dict[str, np.ndarray]
) -> None:
    before = torch.get_num_threads()
    run(engine_of(checkpoints), mixed(clips))
    assert torch.get_num_threads() == before

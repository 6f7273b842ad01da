"""An engine in its thread: the same results, errors to whom they belong, and no hanging callers."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError

import numpy as np
import pytest
import torch

from deployments.errors import EngineStoppedError
from deployments.replicas.engine_thread import EngineThread
from engine import (
    Checkpoint,
    DecodingOptions,
    Engine,
    EngineConfig,
    Request,
    RequestError,
    Result,
    default_precision,
)
from tests.support.running import run_alone

CONFIG = EngineConfig(precision=default_precision(torch.device("cpu")), max_slots=4)
"""The fastest that this machine has."""


class BreakableEngine(Engine):
    """Breaks in its next step when told to, or stays in it."""

    breaks = False
    held: threading.Event | None = None

    def step(self) -> list[Result]:
        if self.breaks:
            raise RuntimeError("CUDA error: out of luck")
        if self.held is not None:
            self.held.wait(30)
        return super().step()


@pytest.fixture
def thread(checkpoints: dict[str, Checkpoint]) -> Iterator[EngineThread]:
    thread = EngineThread(lambda: BreakableEngine(checkpoints["demo:tiny.en"], CONFIG))
    yield thread
    thread.close()


def requests(clips: dict[str, np.ndarray], **options: str) -> list[Request]:
    decoding = DecodingOptions(**options)  # type: ignore[arg-type]
    return [Request(name, pcm, decoding) for name, pcm in clips.items()]


def test_results_are_those_of_the_engine(
    thread: EngineThread, checkpoints: dict[str, Checkpoint], clips: dict[str, np.ndarray]
) -> None:
    futures = {request.request_id: thread.submit(request) for request in requests(clips)}
    engine = Engine(checkpoints["demo:tiny.en"], CONFIG)
    for request in requests(clips):
        alone = run_alone(engine, request)
        got = futures[request.request_id].result(60)
        assert got.tokens == alone.tokens and got.avg_logprob == alone.avg_logprob
    load = thread.load
    assert load.n_waiting == load.n_used == 0
    assert 0 < load.n_steps and 1 <= load.n_rows / load.n_steps <= CONFIG.max_slots


def test_a_search_counts_with_all_its_slots(
    thread: EngineThread, clips: dict[str, np.ndarray]
) -> None:
    before = thread.load
    options = DecodingOptions(beam_size=3)
    thread.submit(Request("search", clips["librivox-0890.wav"], options)).result(60)
    after = thread.load
    assert (after.n_rows - before.n_rows) == 3 * (after.n_steps - before.n_steps)


def test_a_bad_request_fails_alone(thread: EngineThread, clips: dict[str, np.ndarray]) -> None:
    good, *_ = requests(clips)
    bad, *_ = requests(clips, language="fr")
    bad = Request("bad", bad.pcm, bad.options)
    futures = [thread.submit(request) for request in (good, bad, good)]
    assert futures[0].result(60).tokens
    with pytest.raises(RequestError, match="unsupported language"):
        futures[1].result(60)
    thread.check(60)
    assert futures[2].result(60).tokens == futures[0].result().tokens


def test_a_call_that_comes_twice_is_decoded_once(
    thread: EngineThread, clips: dict[str, np.ndarray]
) -> None:
    engine = thread.engine
    assert isinstance(engine, BreakableEngine)
    engine.held = threading.Event()
    request, *_ = requests(clips)
    first, second = thread.submit(request), thread.submit(request)
    engine.held.set()
    assert first.result(60) is second.result(60)
    assert thread.submit(request).result(60).tokens == first.result().tokens


def test_abort_frees_the_slot(thread: EngineThread, clips: dict[str, np.ndarray]) -> None:
    engine = thread.engine
    assert isinstance(engine, BreakableEngine)
    engine.held = threading.Event()
    first, second, *_ = requests(clips)
    aborted, kept = thread.submit(first), thread.submit(second)
    thread.abort(first.request_id)
    thread.abort("nobody")
    engine.held.set()
    assert kept.result(60).tokens
    with pytest.raises(CancelledError):
        aborted.result(60)
    assert thread.submit(first).result(60).tokens, "its id is free again"


def test_a_broken_engine_fails_everyone_and_says_so(
    checkpoints: dict[str, Checkpoint], clips: dict[str, np.ndarray]
) -> None:
    told: list[BaseException] = []
    thread = EngineThread(
        lambda: BreakableEngine(checkpoints["demo:tiny.en"], CONFIG), on_failure=told.append
    )
    assert isinstance(thread.engine, BreakableEngine)
    thread.engine.breaks = True
    futures = [thread.submit(request) for request in requests(clips)]
    for future in futures:
        with pytest.raises(EngineStoppedError, match="out of luck"):
            future.result(60)
    assert [type(error) for error in told] == [RuntimeError]
    with pytest.raises(EngineStoppedError, match="out of luck"):
        thread.check(60)
    with pytest.raises(EngineStoppedError):
        thread.submit(requests(clips)[0])
    thread.abort("anything")
    thread.close()


def test_a_step_that_does_not_end_is_noticed(
    thread: EngineThread, clips: dict[str, np.ndarray]
) -> None:
    engine = thread.engine
    assert isinstance(engine, BreakableEngine)
    thread.check(0.2)
    engine.held = threading.Event()
    future = thread.submit(requests(clips)[0])
    deadline = time.monotonic() + 20
    while True:
        try:
            thread.check(0.2)
        except EngineStoppedError as error:
            assert "hangs" in str(error)
            break
        assert time.monotonic() < deadline
        time.sleep(0.05)
    engine.held.set()
    assert future.result(60).tokens
    thread.check(0.2)


def test_closing_fails_what_is_unfinished(
    checkpoints: dict[str, Checkpoint], clips: dict[str, np.ndarray]
) -> None:
    thread = EngineThread(lambda: BreakableEngine(checkpoints["demo:tiny.en"], CONFIG))
    assert isinstance(thread.engine, BreakableEngine)
    thread.engine.held = threading.Event()
    futures = [thread.submit(request) for request in requests(clips)]
    threading.Timer(0.2, thread.engine.held.set).start()
    thread.close()
    unfinished = [future for future in futures if future.exception(5) is not None]
    assert len(unfinished) >= len(futures) - 1
    assert all(isinstance(future.exception(), EngineStoppedError) for future in unfinished)


def test_a_model_that_cannot_be_loaded_is_the_callers_error() -> None:
    with pytest.raises(RuntimeError, match="no weights"):
        EngineThread(_no_weights)


def _no_weights() -> Engine:
    raise RuntimeError("no weights")

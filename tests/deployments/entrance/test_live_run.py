"""A live session over replicas, without Ray: an engine in a thread plays the replica."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator

import numpy as np
import pytest
import torch

from deployments.entrance import live
from deployments.entrance.live import LiveRun
from deployments.errors import ChunkFailedError, TierUnavailableError
from deployments.live.events import Completed, Delta, Event, Failed
from deployments.live.formats import AudioFormat
from deployments.live.options import SessionOptions, TurnOptions
from deployments.live.session import LiveSession
from deployments.live.stretch import Model
from deployments.messages import Chunk, to_chunk_result, to_request
from deployments.replicas.engine_thread import EngineThread
from deployments.replicas.tier_client import ChunkLostError, Decoded
from engine import (
    Checkpoint,
    DecodingOptions,
    Engine,
    EngineConfig,
    RequestError,
    default_precision,
)
from tests.support.live_text import is_right

Decode = Callable[[Chunk, str], Awaitable[Decoded]]
CONFIG = EngineConfig(precision=default_precision(torch.device("cpu")), max_slots=4)


@pytest.fixture(scope="module")
def engine(checkpoints: dict[str, Checkpoint]) -> Iterator[EngineThread]:
    thread = EngineThread(lambda: Engine(checkpoints["demo:tiny.en"], CONFIG))
    yield thread
    thread.close()


@pytest.fixture(scope="module")
def decode(engine: EngineThread) -> Decode:
    async def decode(chunk: Chunk, tier: str) -> Decoded:
        assert tier == "tiny.en"
        future = engine.submit(to_request(chunk))
        try:
            result = await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            engine.abort(chunk.key)
            raise
        return Decoded(to_chunk_result(result, tier), 0, 0.1)

    return decode


@pytest.fixture(scope="module")
def pcm(clips: dict[str, np.ndarray]) -> np.ndarray:
    pause = np.zeros(16_000, np.int16)
    clip = clips["librivox-0870.wav"]
    return np.concatenate([pause, clip, pause, clip, pause])


@pytest.fixture(autouse=True)
def _no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_PAUSE_S", 0.01)


def new_run(engine: EngineThread, decode: Decode, turns: TurnOptions | None) -> LiveRun:
    model = Model("tiny.en", engine.engine.tokenizer.vocabulary)
    options = SessionOptions(DecodingOptions(language="en"), turns)
    session = LiveSession("session", options, model)
    return LiveRun(session, AudioFormat("pcm16", 16_000), decode, lambda tier, stages: None)


def hear(run: LiveRun, pcm: np.ndarray, pause_s: float = 0.01) -> list[Event]:
    """Feed audio a hundred times as fast as it was spoken, or so."""

    async def go() -> list[Event]:
        async def feed() -> None:
            for start in range(0, len(pcm), 3_200):
                await run.append(pcm[start : start + 3_200].tobytes())
                await asyncio.sleep(pause_s)
            run.finish()

        feeding = asyncio.create_task(feed())
        try:
            return [event async for event in run.events() if not isinstance(event, live.Note)]
        finally:
            await feeding
            await run.close()

    return asyncio.run(go())


def texts(events: list[Event]) -> list[str]:
    completed = [event for event in events if isinstance(event, Completed)]
    for item in completed:
        deltas = [e.text for e in events if isinstance(e, Delta) and e.item_id == item.item_id]
        assert "".join(deltas) == item.text
    return [event.text for event in completed]


def test_two_turns(engine: EngineThread, decode: Decode, pcm: np.ndarray) -> None:
    run = new_run(engine, decode, TurnOptions())
    said = texts(hear(run, pcm))
    assert len(said) == 2 and all(map(is_right, said)), said
    assert run.work.n_chunks >= 2 and 14 < run.audio_s < 17


def test_lost_looks_cost_no_word(engine: EngineThread, decode: Decode, pcm: np.ndarray) -> None:
    chance = random.Random(3)
    n_lost = n_in_a_row = 0

    async def unlucky(chunk: Chunk, tier: str) -> Decoded:
        nonlocal n_lost, n_in_a_row
        # A look that is lost three times in a row is given up.
        if n_in_a_row < 2 and chance.random() < 0.4:
            n_lost, n_in_a_row = n_lost + 1, n_in_a_row + 1
            raise ChunkLostError(2)
        n_in_a_row = 0
        return await decode(chunk, tier)

    said = texts(hear(new_run(engine, unlucky, TurnOptions()), pcm, 0.03))
    assert len(said) == 2 and all(map(is_right, said)) and n_lost, said


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ChunkLostError(2), ChunkFailedError),
        (TierUnavailableError("the tier cannot be started"), TierUnavailableError),
        (RequestError("no such language"), RequestError),
        (RuntimeError("a fault"), RuntimeError),
    ],
)
def test_what_cannot_be_decoded_is_told(
    engine: EngineThread, pcm: np.ndarray, error: Exception, kind: type[Exception]
) -> None:
    async def broken(chunk: Chunk, tier: str) -> Decoded:
        raise error

    events = hear(new_run(engine, broken, None), pcm)
    failures = [event for event in events if isinstance(event, Failed)]
    assert failures and all(isinstance(failure.error, kind) for failure in failures)


def test_audio_waits_while_text_is_far_behind(
    engine: EngineThread, decode: Decode, pcm: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "MAX_BEHIND_S", 4.0)
    run = new_run(engine, decode, TurnOptions())
    kept: list[float] = []

    async def watched(chunk: Chunk, tier: str) -> Decoded:
        kept.append(run.session.lag_s)
        await asyncio.sleep(0.2)
        return await decode(chunk, tier)

    run._decode = watched
    said = texts(hear(run, np.tile(pcm, 2), 0.0))
    assert len(said) == 4 and all(map(is_right, said)), said
    assert max(kept) < 6.0


def test_closing_stops_the_work(engine: EngineThread, decode: Decode, pcm: np.ndarray) -> None:
    async def go() -> None:
        run = new_run(engine, decode, TurnOptions())
        await run.append(pcm[:80_000].tobytes())
        assert run._tasks
        await run.close()
        assert [event async for event in run.events()][-1] is not None
        for _ in range(100):
            if not engine.load.n_used and not engine.load.n_waiting:
                return
            await asyncio.sleep(0.05)
        raise AssertionError("the engine still works")

    asyncio.run(go())

"""Retries of lost chunks: which calls are made, and who is blamed. Ray's handle is played."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError

from deployments.errors import TierUnavailableError
from deployments.messages import STARTED, Chunk, ChunkResult
from deployments.replicas.tier_client import ChunkLostError, TierClient
from engine import DecodingOptions, RequestError

CHUNK = Chunk("request", 3, np.zeros(16_000, np.int16), DecodingOptions())


def result(chunk: Chunk) -> ChunkResult:
    timings = {"waiting": 0.0, "prefill": 0.0, "decode": 0.0}
    return ChunkResult(chunk.key, (), (), "en", 1.0, 0.0, 0.0, 0.0, 1.0, "stop", "m", timings)


class Call:
    """One call's answer: awaited or iterated, and cancelled."""

    def __init__(self, chunk: Chunk, script: list[Any]) -> None:
        self.chunk, self.script, self.cancelled = chunk, script, False

    def __await__(self) -> Any:
        return self._only().__await__()

    async def _only(self) -> Any:
        return await self._play(self.script[0])

    async def __aiter__(self) -> AsyncIterator[Any]:
        for item in self.script:
            yield await self._play(item)

    async def _play(self, item: Any) -> Any:
        if isinstance(item, BaseException):
            raise item
        if item == "forever":
            await asyncio.sleep(1000)
        return result(self.chunk) if item == "result" else item

    def cancel(self) -> None:
        self.cancelled = True


class Handle:
    """Answers call after call from a script."""

    def __init__(self, *scripts: list[Any]) -> None:
        self.scripts = list(scripts)
        self.calls: list[Call] = []
        self.names: list[str] = []

    def options(self, stream: bool) -> "Handle":
        assert stream
        return self

    def __getattr__(self, name: str) -> Any:
        def remote(chunk: Chunk) -> Call:
            self.names.append(name)
            self.calls.append(Call(chunk, self.scripts.pop(0)))
            return self.calls[-1]

        return type("Method", (), {"remote": staticmethod(remote)})


def died() -> ActorDiedError:
    return ActorDiedError()


def preempted() -> ActorDiedError:
    error = ActorDiedError()
    error._preempted = True
    return error


def decode(handle: Handle) -> Any:
    client = TierClient("tier", handle)  # type: ignore[arg-type]
    return asyncio.run(client.decode(CHUNK))


def test_an_undisturbed_chunk_is_one_call() -> None:
    handle = Handle(["result"])
    decoded = decode(handle)
    assert decoded.n_retries == 0 and decoded.result.key == "request/3/0"
    assert handle.names == ["decode"]


def test_a_lost_chunk_runs_again_alone() -> None:
    handle = Handle([died()], [STARTED, "result"])
    decoded = decode(handle)
    assert decoded.n_retries == 1 and decoded.result.key == "request/3/1"
    assert handle.names == ["decode", "decode_suspect"]


def test_two_replicas_that_die_of_it_are_enough() -> None:
    handle = Handle([died()], [STARTED, died()], [STARTED, "result"])
    with pytest.raises(ChunkLostError) as caught:
        decode(handle)
    assert caught.value.attempts == 2 and len(handle.calls) == 2


@pytest.mark.parametrize(
    "innocent", [died, preempted, lambda: ActorUnavailableError("x", b"1" * 16)]
)
def test_who_was_not_decoded_when_the_replica_died_is_not_blamed(
    innocent: Callable[[], Exception],
) -> None:
    handle = Handle([died()], [innocent()], [innocent()], [STARTED, "result"])
    decoded = decode(handle)
    assert decoded.n_retries == 3 and decoded.result.key == "request/3/3"


def test_a_preempted_replica_is_nobodys_fault() -> None:
    handle = Handle([preempted()], [STARTED, preempted()], [STARTED, died()], [STARTED, "result"])
    assert decode(handle).n_retries == 3


def test_what_the_model_refuses_is_not_tried_again() -> None:
    handle = Handle([RequestError("unsupported language")])
    with pytest.raises(RequestError):
        decode(handle)
    assert len(handle.calls) == 1


def test_a_tier_that_cannot_start_is_unavailable() -> None:
    from ray.serve._private.common import DeploymentID
    from ray.serve.exceptions import DeploymentUnavailableError

    handle = Handle([DeploymentUnavailableError(DeploymentID("tier", "murmur"))])
    with pytest.raises(TierUnavailableError, match="'tier'"):
        decode(handle)


@pytest.mark.parametrize("scripts", [[["forever"]], [[died()], [STARTED, "forever"]]])
def test_cancelling_cancels_the_call(scripts: list[list[Any]]) -> None:
    handle = Handle(*scripts)

    async def leave() -> None:
        client = TierClient("tier", handle)  # type: ignore[arg-type]
        task = asyncio.create_task(client.decode(CHUNK))
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    assert handle.calls[-1].cancelled


def test_a_tier_that_answers_nobody_is_down_until_it_answers() -> None:
    """Nobody waits for it for ever, and one at a time tries."""
    handle = Handle(["forever"], ["forever"], ["result"], ["result"])

    async def go() -> None:
        client = TierClient("tier", handle, stalled_after_s=0.5)  # type: ignore[arg-type]
        with pytest.raises(TierUnavailableError):
            await client.decode(CHUNK)
        assert handle.calls[0].cancelled
        trial = asyncio.create_task(client.decode(CHUNK))
        await asyncio.sleep(0.1)
        for _ in range(3):
            with pytest.raises(TierUnavailableError):
                await client.decode(CHUNK)
        assert len(handle.calls) == 2, "others are refused at once"
        with pytest.raises(TierUnavailableError):
            await trial
        assert client.last_decoded == float("-inf")
        assert (await client.decode(CHUNK)).n_retries == 0
        assert (await client.decode(CHUNK)).n_retries == 0
        assert client.last_decoded > 0

    asyncio.run(go())

"""Chunks to a tier's replicas and results back, through a Serve handle: the one place that retries.

Serve does not run a call again whose replica died. A chunk that was lost is decoded again on
another replica, and there beside no other such chunk: if that replica dies as well, it is known of
which, and only that one fails.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

from ray.exceptions import ActorUnavailableError, ObjectLostError, RayActorError, WorkerCrashedError
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

from deployments.errors import EngineStoppedError, TierUnavailableError
from deployments.messages import Chunk, ChunkResult
from deployments.replicas.replica import STARTED
from deployments.tier import TierInfo

MAX_ATTEMPTS = 2
"""Replicas that may die of one chunk."""
STALLED_AFTER_S = 300.0
"""Long enough to load a large model."""
_WATCH_PERIOD_S = 1.0
_PAUSE_S = 0.1
"""Before a call whose replica was lost: Serve needs a moment to learn of it."""

_T = TypeVar("_T")
_LOST = (RayActorError, ObjectLostError, WorkerCrashedError, EngineStoppedError)


class ChunkLostError(Exception):
    """A chunk's replicas died, `attempts` of them."""

    def __init__(self, attempts: int) -> None:
        super().__init__(f"{attempts} replicas were lost")
        self.attempts = attempts


@dataclass(frozen=True, slots=True)
class Decoded:
    """A chunk's result, how many times it ran again, the seconds of the run that gave it, and those
    that it was held before."""

    result: ChunkResult
    n_retries: int
    round_trip_s: float
    held_s: float = 0.0


class TierClient:
    """Calls one tier.

    Args:
        name: the tier's.
        handle: of its deployment.
        stalled_after_s: without an answer to anybody for so long, the tier is taken for down.
    """

    def __init__(
        self,
        name: str,
        handle: DeploymentHandle[Any],
        stalled_after_s: float = STALLED_AFTER_S,
    ) -> None:
        self._stalled_after_s = stalled_after_s
        self.name = name
        self._handle = handle
        self.last_answer = float("-inf")
        """When it last answered any call, in seconds of the monotonic clock."""
        self.last_decoded = float("-inf")
        """When it last decoded a chunk."""
        self._n_out = 0
        self._is_down = False
        self._info: TierInfo | None = None
        self._vocabulary: tuple[bytes, ...] | None = None

    async def info(self) -> TierInfo:
        """What its model can do; asked once."""
        if self._info is None:
            info: TierInfo = await self._watched(self._ask("describe"))
            self._info = info
        return self._info

    async def vocabulary(self) -> tuple[bytes, ...]:
        """The bytes of each text token, by id; asked once."""
        if self._vocabulary is None:
            vocabulary: tuple[bytes, ...] = await self._watched(self._ask("vocabulary"))
            self._vocabulary = vocabulary
        return self._vocabulary

    async def decode(self, chunk: Chunk) -> Decoded:
        """Decode a chunk on whichever replica, on another one if that is lost. Cancelling this
        stops the decoding.

        Raises:
            ChunkLostError: replicas died of it, as many as may.
            RequestError: the model cannot do what it asks.
            TierUnavailableError: there are no replicas, and none can be started.
        """
        try:
            decoded = await self._watched(self._decode_until_done(chunk))
        except DeploymentUnavailableError as error:
            raise self._unavailable() from error
        self.last_decoded = time.monotonic()
        return decoded

    async def _watched(self, call: Coroutine[Any, Any, _T]) -> _T:
        """Wait for a call as long as the tier answers any. Serve's router waits for replicas for
        ever, and who waits with it would fill the ingress, to the loss of other tiers."""
        if self._is_down and self._n_out:  # one at a time finds out whether it is back
            call.close()
            raise self._unavailable()
        task, began = asyncio.ensure_future(call), time.monotonic()
        self._n_out += 1
        try:
            while not (await asyncio.wait({task}, timeout=_WATCH_PERIOD_S))[0]:
                if time.monotonic() - max(began, self.last_answer) > self._stalled_after_s:
                    self._is_down = True
                    raise self._unavailable()
            result = task.result()
            self.last_answer, self._is_down = time.monotonic(), False
            return result
        finally:
            self._n_out -= 1
            if not task.done():
                task.cancel()
                await asyncio.wait({task})

    async def _decode_until_done(self, chunk: Chunk) -> Decoded:
        began = time.perf_counter()
        try:
            result = await self._decode(chunk)
            return Decoded(result, 0, time.perf_counter() - began)
        except _LOST as error:
            n_deaths = int(not _is_preemption(error))
        n_retries = 0
        while n_deaths < MAX_ATTEMPTS:
            await asyncio.sleep(_PAUSE_S)
            n_retries += 1
            is_running = False
            try:
                async with aclosing(self._retry(replace(chunk, attempt=n_retries))) as events:
                    async for event in events:
                        if event != STARTED:
                            result = cast(ChunkResult, event)
                            return Decoded(result, n_retries, time.perf_counter() - began)
                        is_running, began = True, time.perf_counter()
            except _LOST as error:
                # Of those that wait for their turn in a replica, none made it die.
                n_deaths += int(is_running and not _is_preemption(error))
        raise ChunkLostError(n_deaths)

    async def _decode(self, chunk: Chunk) -> ChunkResult:
        response = self._handle.decode.remote(chunk)
        try:
            return cast(ChunkResult, await response)
        except asyncio.CancelledError:
            response.cancel()  # type: ignore[no-untyped-call]
            raise

    async def _retry(self, chunk: Chunk) -> AsyncGenerator[str | ChunkResult, None]:
        remote = self._handle.options(stream=True).decode_suspect.remote(chunk)
        events = cast("DeploymentResponseGenerator[Any]", remote)
        try:
            async for event in events:
                yield event
        except asyncio.CancelledError:
            events.cancel()  # type: ignore[no-untyped-call]
            raise

    async def _ask(self, method: str) -> Any:
        """Call a method without side effects, until a replica answers it."""
        while True:
            try:
                return await getattr(self._handle, method).remote()
            except _LOST:
                await asyncio.sleep(_PAUSE_S)
            except DeploymentUnavailableError as error:
                raise self._unavailable() from error

    def _unavailable(self) -> TierUnavailableError:
        return TierUnavailableError(f"the tier {self.name!r} cannot be started")


def _is_preemption(error: BaseException) -> bool:
    """Whether the replica was lost for reasons that no chunk can be blamed for."""
    if isinstance(error, ActorUnavailableError | ObjectLostError):
        return True  # the network, or another node's memory
    return isinstance(error, RayActorError) and bool(error.preempted)

"""Sends chunks to a tier's replicas through a Serve handle. This is the one place that retries.

Serve does not repeat a call whose replica died. A chunk that was lost is decoded again on another
replica, where no other lost chunk runs at the same time. If that replica dies as well, this shows
which chunk killed it, and only this chunk fails.
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
from deployments.messages import STARTED, Chunk, ChunkResult
from deployments.tier import TierInfo

MAX_ATTEMPTS = 2
"""Number of replica deaths after which a chunk fails."""
STALLED_AFTER_S = 300.0
"""Default time without an answer after which a tier counts as down. Long enough to load a large
model."""
_WATCH_PERIOD_S = 1.0
_PAUSE_S = 0.1
"""Pause before a call is repeated. Serve needs a moment to notice that the replica was lost."""

_T = TypeVar("_T")
_LOST = (RayActorError, ObjectLostError, WorkerCrashedError, EngineStoppedError)


class ChunkLostError(Exception):
    """The chunk was lost: `attempts` replicas died while they decoded it."""

    def __init__(self, attempts: int) -> None:
        super().__init__(f"{attempts} replicas were lost")
        self.attempts = attempts


@dataclass(frozen=True, slots=True)
class Decoded:
    """A chunk's result.

    Attributes:
        n_retries: how many times the chunk was decoded again.
        round_trip_s: seconds of the run that gave the result.
        held_s: seconds that the ingress held the chunk before it was sent.
    """

    result: ChunkResult
    n_retries: int
    round_trip_s: float
    held_s: float = 0.0


class TierClient:
    """Calls one tier.

    Args:
        name: name of the tier.
        handle: handle of the tier's deployment.
        stalled_after_s: if the tier answers no call for this long, it counts as down.

    Attributes:
        version: `TierSpec.version` that the tier's replicas have, or will have soon; empty: any.
    """

    def __init__(
        self,
        name: str,
        handle: DeploymentHandle[Any],
        stalled_after_s: float = STALLED_AFTER_S,
    ) -> None:
        self.stalled_after_s = stalled_after_s
        self.version = ""
        self.name = name
        self._handle = handle
        self.last_answer = float("-inf")
        """When the tier last answered any call, in seconds of the monotonic clock."""
        self.last_decoded = float("-inf")
        """When the tier last decoded a chunk, by the same clock."""
        self._n_out = 0
        self._is_down = False
        self._info: TierInfo | None = None
        self._vocabulary: tuple[bytes, ...] | None = None

    async def info(self) -> TierInfo:
        """What the tier's model can do. A tier is asked once for each version of its spec, and as
        long as replicas of another version may answer, every time."""
        if self._info is None or (self.version and self._info.version != self.version):
            info: TierInfo = await self._watched(self._ask("describe"))
            self._info, self._vocabulary = info, None
        return self._info

    async def vocabulary(self) -> tuple[bytes, ...]:
        """The bytes of each text token, by id. As `info`."""
        info = await self.info()
        if self._vocabulary is None:
            vocabulary: tuple[bytes, ...] = await self._watched(self._ask("vocabulary"))
            if info is not self._info:
                return vocabulary
            self._vocabulary = vocabulary
        return self._vocabulary

    async def decode(self, chunk: Chunk) -> Decoded:
        """Decode a chunk on any replica, and on another one if that is lost. Cancelling this call
        stops the decoding.

        Raises:
            ChunkLostError: `MAX_ATTEMPTS` replicas died while they decoded the chunk.
            RequestError: the model cannot do what the chunk asks for.
            TierUnavailableError: there are no replicas, and none can be started.
        """
        try:
            decoded = await self._watched(self._decode_until_done(chunk))
        except DeploymentUnavailableError as error:
            raise self._unavailable() from error
        self.last_decoded = time.monotonic()
        return decoded

    async def _watched(self, call: Coroutine[Any, Any, _T]) -> _T:
        """Wait for a call for as long as the tier answers any call. Serve's router waits for
        replicas for ever, and calls that wait with it would fill the ingress at the expense of
        other tiers."""
        if self._is_down and self._n_out:  # one call at a time tests whether it is back
            call.close()
            raise self._unavailable()
        task, began = asyncio.ensure_future(call), time.monotonic()
        self._n_out += 1
        try:
            while not (await asyncio.wait({task}, timeout=_WATCH_PERIOD_S))[0]:
                if time.monotonic() - max(began, self.last_answer) > self.stalled_after_s:
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
                # A chunk that still waits for its turn in a replica did not kill it.
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
        """Call a method that has no side effects, until a replica answers."""
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
    """Whether the replica was lost for a reason that no chunk can have caused."""
    if isinstance(error, ActorUnavailableError | ObjectLostError):
        return True  # the network, or memory of another node
    return isinstance(error, RayActorError) and bool(error.preempted)

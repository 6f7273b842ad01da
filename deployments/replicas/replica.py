"""A replica of a tier: one engine behind asynchronous calls.

Chunks queue in the engine, whose queue is ordered by priority and fair; Serve's own queues stay
empty. The event loop only hands chunks to the engine and waits for results.

Torch is imported with the engine: ingresses and Serve's controller import this module, too.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

import ray
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from deployments import metrics
from deployments.errors import EngineStoppedError
from deployments.messages import STARTED, Chunk, ChunkResult, to_chunk_result, to_request
from deployments.replicas.engine_thread import EngineLoad, EngineThread
from deployments.replicas.idle_cores import IdleCores
from deployments.replicas.speed import SpeedMeter
from deployments.reports import ReplicaReport
from deployments.tier import TierInfo, TierSpec, spec_of

if TYPE_CHECKING:
    from engine import Engine

logger = logging.getLogger("ray.serve")

STUCK_AFTER_S = 120.0
"""An engine step that takes longer counts as hung. The slowest real step is an encoder batch of a
large model on a slow CPU."""
_SUSPECT_LEAD = 1_000_000
_REPORT_PERIOD_S = 1.0


class Replica:
    """Decodes a tier's chunks with one engine, on one device or on several.

    Args:
        board: handle of the board's deployment.
        spec: what the tier runs; by default what the environment says.

    Raises:
        EngineError: the model cannot be found, split or loaded.
    """

    def __init__(self, board: DeploymentHandle[Any], spec: TierSpec | None = None) -> None:
        self._spec = spec = spec or spec_of(os.environ)
        self._board = board
        self._speed = SpeedMeter(spec.max_slots)
        self._group = ray.util.get_current_placement_group()
        self._engine = EngineThread(self._load, on_failure=_end_process, cores=self._find_cores)
        # Chunks that may have killed a replica run one at a time. If this replica dies too, the
        # cause is known.
        self._suspects = asyncio.Lock()
        self._slots = metrics.SLOTS.gauge()
        self._in_use = metrics.SLOTS_IN_USE.gauge()
        self._waiting = metrics.CHUNKS_WAITING.gauge()
        self._fill = metrics.BATCH_FILL.histogram()
        self._reporting: asyncio.Task[None] | None = None

    async def decode(self, chunk: Chunk) -> ChunkResult:
        """Decode a chunk. Cancelling the call frees its slot.

        Raises:
            RequestError: the model cannot do what the chunk asks for.
            EngineStoppedError: the engine has stopped.
        """
        future = self._engine.submit(to_request(chunk))
        try:
            result = await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            self._engine.abort(chunk.key)
            raise
        self._speed.add(chunk.duration_s, chunk.options.n_texts)
        return to_chunk_result(result, chunk.adapter or self._spec.name)

    async def decode_suspect(self, chunk: Chunk) -> AsyncIterator[str | ChunkResult]:
        """Decode a chunk whose last replica died. Only one such chunk runs at a time.

        Yields:
            `STARTED` when the chunk's turn comes, then its result. If this replica dies before
            `STARTED`, this chunk was not the cause.
        """
        async with self._suspects:
            yield STARTED
            # It goes before all others: the shorter it waits, the less likely it is blamed for a
            # failure that another chunk caused.
            yield await self.decode(replace(chunk, priority=chunk.priority - _SUSPECT_LEAD))

    async def describe(self) -> TierInfo:
        engine = self._engine.engine
        return TierInfo(
            model=self._spec.model,
            precision=engine.config.precision.value,
            languages=tuple(engine.tokenizer.languages),
            multilingual=engine.tokenizer.multilingual,
            max_slots=engine.config.max_slots,
            max_texts=engine.max_texts,
            version=self._spec.version,
        )

    async def vocabulary(self) -> tuple[bytes, ...]:
        """The bytes of each text token, by id."""
        return self._engine.engine.tokenizer.vocabulary

    async def check_health(self) -> None:
        """Check the engine. Serve calls this regularly, first when the engine is loaded. If the
        engine hangs, the process ends at once: Serve would stop the replica gracefully, and wait
        for calls that never end while the replica still holds its GPU."""
        if self._reporting is None or self._reporting.done():
            self._reporting = asyncio.create_task(self._report())
        try:
            self._engine.check(STUCK_AFTER_S)
        except EngineStoppedError as error:
            _end_process(error)

    def _load(self) -> Engine:
        import torch

        from engine import Engine, default_precision

        if self._spec.sharding is not None:
            from deployments.replicas.sharded_replica import load_sharded_engine

            return load_sharded_engine(self._spec, self._spec.sharding, self._group)
        # Called in the engine's thread, so that the setting applies to this thread, too.
        torch.set_num_threads(self._spec.threads)
        config = self._spec.engine_config(default_precision(torch.device(self._spec.device)))
        return Engine.load(self._spec.model, config, dict(self._spec.adapters))

    def _find_cores(self, engine: Engine) -> IdleCores | None:
        """What lends the engine cores that are idle, where the tier's settings allow it."""
        own, most = self._spec.threads, self._spec.threads_when_idle or 0
        if most <= own or self._spec.sharding is not None:
            return None
        if engine.config.depends_on_threads:
            logger.warning("cpus_when_idle is not used: float32 numbers depend on the threads")
            return None
        import torch

        try:
            return IdleCores(own, most, torch.set_num_threads)
        except OSError as error:
            logger.warning("cpus_when_idle is not used: %s", error)
            return None

    async def _report(self) -> None:
        """Report every second that the replica is alive and how busy its engine is."""
        tags = {"tier": self._spec.name}
        self._slots.set(self._spec.max_slots, tags)
        sender, before = uuid.uuid4().hex, self._engine.load
        telling: asyncio.Task[None] | None = None
        while True:
            load = self._engine.load
            self._speed.tick(load.n_used, load.n_waiting, time.monotonic())
            report = ReplicaReport(self._speed.rtfx, load.n_used, load.n_waiting)
            # Do not wait for the board. Keep at most one call open, because calls would pile up
            # while the board is unavailable.
            if telling is None or telling.done():
                telling = asyncio.create_task(self._tell(sender, report))
            await asyncio.sleep(_REPORT_PERIOD_S)
            load = self._engine.load
            self._in_use.set(load.n_used, tags)
            self._waiting.set(load.n_waiting, tags)
            if load.n_steps > before.n_steps:
                self._fill.observe(_fill(before, load) / self._spec.max_slots, tags)
            before = load

    async def _tell(self, sender: str, report: ReplicaReport) -> None:
        try:
            await self._board.report_replica.remote(self._spec.name, sender, report)
        except (RayError, RayServeException) as error:
            logger.warning("the board does not answer: %s", error)


def _fill(before: EngineLoad, after: EngineLoad) -> float:
    """Mean number of sequences per step between two readings."""
    return (after.n_rows - before.n_rows) / (after.n_steps - before.n_steps)


def _end_process(error: BaseException) -> NoReturn:
    """End the process at once, as in a crash: the slots of a broken engine are in an unknown state.
    Serve then starts a new replica, and the ingress sends the chunks elsewhere."""
    logger.critical("the engine has stopped, so the replica ends", exc_info=error)
    logging.shutdown()
    os._exit(1)

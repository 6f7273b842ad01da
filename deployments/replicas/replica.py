"""A tier's replica: one engine behind asynchronous calls.

The engine's queue is the cluster's queue: it is ordered and fair, and Serve's own stay empty. The
event loop does nothing but hand chunks over and wait for results.
"""

import asyncio
import logging
import os
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, NoReturn

import ray
import torch
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from deployments import metrics
from deployments.errors import EngineStoppedError
from deployments.messages import Chunk, ChunkResult, to_chunk_result, to_request
from deployments.replicas.engine_thread import EngineLoad, EngineThread
from deployments.replicas.sharded_replica import load_sharded_engine
from deployments.replicas.speed import SpeedMeter
from deployments.reports import ReplicaReport
from deployments.tier import TierInfo, TierSpec
from engine import SAMPLE_RATE, Engine, default_precision

logger = logging.getLogger("ray.serve")

STARTED = "started"
STUCK_AFTER_S = 120.0
"""A step that takes longer hangs: the slowest real one is an encoder batch of a large model on a
slow CPU."""
_SUSPECT_LEAD = 1_000_000
_REPORT_PERIOD_S = 1.0


class Replica:
    """Serves one tier's chunks with one engine, be it on one device or on many.

    Raises:
        EngineError: the model cannot be had, split or loaded.
    """

    def __init__(self, spec: TierSpec, board: DeploymentHandle[Any]) -> None:
        self._spec = spec
        self._board = board
        self._speed = SpeedMeter(spec.max_slots)
        self._group = ray.util.get_current_placement_group()
        self._engine = EngineThread(self._load, on_failure=_end_process)
        # One at a time of those that a replica may have died of, so that if this one dies too, it
        # is known of which.
        self._suspects = asyncio.Lock()
        self._slots = metrics.SLOTS.gauge()
        self._in_use = metrics.SLOTS_IN_USE.gauge()
        self._waiting = metrics.CHUNKS_WAITING.gauge()
        self._fill = metrics.BATCH_FILL.histogram()
        self._reporting: asyncio.Task[None] | None = None

    async def decode(self, chunk: Chunk) -> ChunkResult:
        """Decode a chunk; cancelling the call frees its slot.

        Raises:
            RequestError: the model cannot do what it asks.
            EngineStoppedError: the engine is closed.
        """
        future = self._engine.submit(to_request(chunk))
        try:
            result = await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            self._engine.abort(chunk.key)
            raise
        self._speed.add(len(chunk.pcm) / SAMPLE_RATE)
        return to_chunk_result(result, self._spec.name)

    async def decode_suspect(self, chunk: Chunk) -> AsyncIterator[str | ChunkResult]:
        """Decode a chunk whose last replica died, beside no other such one.

        Yields:
            `STARTED` when it is its turn, then its result. If this replica dies before the first,
            it was not this chunk's doing.
        """
        async with self._suspects:
            yield STARTED
            # Before all others: the less it waits, the less it is blamed for what others do.
            yield await self.decode(replace(chunk, priority=chunk.priority - _SUSPECT_LEAD))

    async def describe(self) -> TierInfo:
        engine = self._engine.engine
        return TierInfo(
            model=self._spec.model,
            precision=engine.config.precision.value,
            languages=tuple(engine.tokenizer.languages),
            multilingual=engine.tokenizer.multilingual,
            max_slots=engine.config.max_slots,
        )

    async def vocabulary(self) -> tuple[bytes, ...]:
        """The bytes of each text token, by id."""
        return self._engine.engine.tokenizer.vocabulary

    async def check_health(self) -> None:
        """Called by Serve, the first time when the engine is loaded. An engine that hangs ends its
        process: Serve would stop the replica gracefully, and wait for calls that never end while it
        holds its GPU."""
        if self._reporting is None or self._reporting.done():
            self._reporting = asyncio.create_task(self._report())
        try:
            self._engine.check(STUCK_AFTER_S)
        except EngineStoppedError as error:
            _end_process(error)

    def _load(self) -> Engine:
        if self._spec.sharding is not None:
            return load_sharded_engine(self._spec, self._spec.sharding, self._group)
        # In the engine's thread, so that it is this thread's number, too.
        torch.set_num_threads(self._spec.threads)
        config = self._spec.engine_config(default_precision(torch.device(self._spec.device)))
        return Engine.load(self._spec.model, config)

    async def _report(self) -> None:
        """Say how busy the engine is, every second, and that it is there."""
        tags = {"tier": self._spec.name}
        self._slots.set(self._spec.max_slots, tags)
        sender, before = uuid.uuid4().hex, self._engine.load
        telling: asyncio.Task[None] | None = None
        while True:
            load = self._engine.load
            self._speed.tick(load.n_running, load.n_waiting, time.monotonic())
            report = ReplicaReport(self._speed.rtfx, load.n_running, load.n_waiting)
            # Not waited for, but for no more than one: while the board is away they would pile up.
            if telling is None or telling.done():
                telling = asyncio.create_task(self._tell(sender, report))
            await asyncio.sleep(_REPORT_PERIOD_S)
            load = self._engine.load
            self._in_use.set(load.n_running, tags)
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
    """Sequences a step, on average between two readings."""
    return (after.n_rows - before.n_rows) / (after.n_steps - before.n_steps)


def _end_process(error: BaseException) -> NoReturn:
    """A broken engine's slots are in an unknown state: end at once, as after a crash, so that Serve
    brings a new replica and the ingress sends the chunks elsewhere."""
    logger.critical("the engine has stopped, so the replica ends", exc_info=error)
    logging.shutdown()
    os._exit(1)

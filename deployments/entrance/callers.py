"""Watches the processes that call the ingress: when a caller is gone, its run has to end.

When an HTTP client goes away, its call is cancelled. When a Ray process is killed, its call is not,
and Ray would let the call run to its end. Serve does not tell a replica which process calls it, so
callers identify themselves (`TranscribeOptions.caller`). Ray's global control service (GCS) knows
which processes are alive.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager

import ray

# Ray's public APIs about processes need its dashboard, which a small cluster does not run.
from ray._private.state import state
from ray.core.generated.gcs_pb2 import WorkerTableData  # type: ignore[attr-defined]

from deployments.errors import DeadlineError, StoppedError

logger = logging.getLogger("ray.serve")

PERIOD_S = 1.0


class RunEnd:
    """The latest time at which a run ends: at its deadline, or at once if its caller is gone or
    somebody stops it.

    Args:
        deadline_s: seconds from now.
    """

    def __init__(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._ends = asyncio.get_running_loop().time() + deadline_s
        self._step: asyncio.Timeout | None = None
        self._error: BaseException | None = None

    @asynccontextmanager
    async def step(self) -> AsyncIterator[None]:
        """Limit the time of one step of the run. Wrap each step separately, so that the code that
        consumes the results between steps is never cancelled.

        Raises:
            TimeoutError: the end was reached.
        """
        async with asyncio.timeout_at(self._ends) as self._step:
            try:
                yield
            finally:
                self._step = None

    def abandon(self) -> None:
        """End the run at once, because its caller is gone."""
        self._end(asyncio.CancelledError("the process that called is gone"))

    def stop(self) -> None:
        """End the run at once, because somebody wants it; the caller is told."""
        self._end(StoppedError("the request was stopped by an operator of the cluster"))

    def _end(self, error: BaseException) -> None:
        self._error = self._error or error
        self._ends = asyncio.get_running_loop().time()
        if self._step is not None:
            self._step.reschedule(self._ends)

    def error(self) -> BaseException:
        """The error that a run raises after its end."""
        return self._error or DeadlineError(self._deadline_s)


class Callers:
    """Ends the runs of one ingress whose caller is gone.

    Args:
        find_gone: returns which of the given Ray worker IDs are known to be dead. It may block.
    """

    def __init__(self, find_gone: Callable[[Collection[str]], set[str]]) -> None:
        self._find_gone = find_gone
        self._runs: dict[str, list[RunEnd]] = {}
        self._looking: asyncio.Task[None] | None = None
        # A separate thread, because a query blocks while the GCS is unavailable.
        self._thread = ThreadPoolExecutor(1, "murmur-callers")

    @contextmanager
    def watch(self, caller: str | None, run: RunEnd) -> Iterator[None]:
        """Within this context, abandon the run if its caller dies.

        Args:
            caller: the caller's Ray worker ID; None: unknown, so nothing is watched.
        """
        if caller is None:
            yield
            return
        self._runs.setdefault(caller, []).append(run)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        try:
            yield
        finally:
            self._runs[caller].remove(run)
            if not self._runs[caller]:
                del self._runs[caller]

    async def _look(self) -> None:
        """Look for dead callers every `PERIOD_S`, until no run is watched."""
        loop = asyncio.get_running_loop()
        while self._runs:
            await asyncio.sleep(PERIOD_S)
            try:
                gone = await loop.run_in_executor(self._thread, self._find_gone, [*self._runs])
            except Exception:  # border of the task: unchecked callers count as alive
                logger.warning("the GCS does not say which callers live", exc_info=True)
                continue
            for caller in gone & self._runs.keys():
                logger.info("the caller %s is gone", caller)
                for run in self._runs[caller]:
                    run.abandon()


def gone_workers(worker_ids: Collection[str]) -> set[str]:
    """The given Ray worker IDs whose process or node is dead, according to the GCS. An ID that the
    GCS does not know may be alive, because a GCS without persistent storage forgets all workers
    when it restarts. Blocks while the GCS is unavailable."""
    nodes = {node["NodeID"]: node["Alive"] for node in ray.nodes()}  # type: ignore[no-untyped-call]
    return {worker_id for worker_id in worker_ids if _is_gone(worker_id, nodes)}


def _is_gone(worker_id: str, nodes: dict[str, bool]) -> bool:
    accessor = state._connect_and_get_accessor()
    found = accessor.get_worker_info(ray.WorkerID.from_hex(worker_id))
    if found is None:
        return False
    worker = WorkerTableData.FromString(found)
    return not worker.is_alive or not nodes.get(worker.worker_address.node_id.hex(), True)

"""Processes that wait for runs: a run whose caller is gone has to end.

A client that goes away over HTTP cancels its call; a Ray process that is killed does not, and Ray
would let its call run to the end. Serve does not tell a replica who calls it, so callers say so
themselves (`TranscribeOptions.caller`). The GCS knows which processes live.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager

import ray

# Ray's public ways to ask for a process need its dashboard, which a small cluster does without.
from ray._private.state import state
from ray.core.generated.gcs_pb2 import WorkerTableData  # type: ignore[attr-defined]

from deployments.errors import DeadlineError

logger = logging.getLogger("ray.serve")

PERIOD_S = 1.0


class RunEnd:
    """When a run ends at the latest: at its deadline, or at once if its caller is gone.

    Args:
        deadline_s: from now.
    """

    def __init__(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._ends = asyncio.get_running_loop().time() + deadline_s
        self._step: asyncio.Timeout | None = None
        self._abandoned = False

    @asynccontextmanager
    async def step(self) -> AsyncIterator[None]:
        """Around each step of the run, for a consumer's own time is not to be cancelled.

        Raises:
            TimeoutError: the end is there.
        """
        async with asyncio.timeout_at(self._ends) as self._step:
            try:
                yield
            finally:
                self._step = None

    def abandon(self) -> None:
        """The caller is gone."""
        self._abandoned = True
        self._ends = asyncio.get_running_loop().time()
        if self._step is not None:
            self._step.reschedule(self._ends)

    def error(self) -> BaseException:
        """What a run that is over raises."""
        if self._abandoned:
            return asyncio.CancelledError("the process that called is gone")
        return DeadlineError(self._deadline_s)


class Callers:
    """Tells runs of one ingress that their caller is gone.

    Args:
        find_gone: which of some Ray worker IDs are known to be dead. It may block.
    """

    def __init__(self, find_gone: Callable[[Collection[str]], set[str]]) -> None:
        self._find_gone = find_gone
        self._runs: dict[str, list[RunEnd]] = {}
        self._looking: asyncio.Task[None] | None = None
        # Of its own: where the GCS is away a question waits, and nothing else is to wait for that.
        self._thread = ThreadPoolExecutor(1, "murmur-callers")

    @contextmanager
    def watch(self, caller: str | None, run: RunEnd) -> Iterator[None]:
        """Abandon a run when its caller dies, within.

        Args:
            caller: its Ray worker ID; None: unknown.
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
        """Until nobody waits."""
        loop = asyncio.get_running_loop()
        while self._runs:
            await asyncio.sleep(PERIOD_S)
            try:
                gone = await loop.run_in_executor(self._thread, self._find_gone, [*self._runs])
            except Exception:  # the border of the task: who cannot be asked for is taken to live
                logger.warning("the GCS does not say which callers live", exc_info=True)
                continue
            for caller in gone & self._runs.keys():
                logger.info("the caller %s is gone", caller)
                for run in self._runs[caller]:
                    run.abandon()


def gone_workers(worker_ids: Collection[str]) -> set[str]:
    """Those of some Ray worker IDs that the GCS knows to be dead, or to have been on a node that
    is. One that it does not know may live: a GCS without a disk forgets when it starts again.
    Blocks while the GCS is away."""
    nodes = {node["NodeID"]: node["Alive"] for node in ray.nodes()}  # type: ignore[no-untyped-call]
    return {worker_id for worker_id in worker_ids if _is_gone(worker_id, nodes)}


def _is_gone(worker_id: str, nodes: dict[str, bool]) -> bool:
    accessor = state._connect_and_get_accessor()
    found = accessor.get_worker_info(ray.WorkerID.from_hex(worker_id))
    if found is None:
        return False
    worker = WorkerTableData.FromString(found)
    return not worker.is_alive or not nodes.get(worker.worker_address.node_id.hex(), True)

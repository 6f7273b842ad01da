"""Runs an engine in its own thread: any thread submits requests and gets futures of the results.

The engine is synchronous and belongs to one thread. Between two steps, this thread takes in the
requests that have arrived, so a caller never waits for a step. This module does not depend on Ray
or asyncio.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deployments.errors import EngineStoppedError
from deployments.replicas.idle_cores import IdleCores
from engine import EngineError, Request, Result

if TYPE_CHECKING:
    from engine import Engine


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """How busy an engine is: chunks that wait, and slots in use. `n_steps` and `n_rows` (slots in
    use, summed over steps) only grow. The ratio of their differences between two readings is the
    mean batch size."""

    n_waiting: int
    n_used: int
    n_steps: int
    n_rows: int


@dataclass(frozen=True, slots=True)
class _Submitted:
    request: Request
    future: Future[Result]
    at_s: float


@dataclass(frozen=True, slots=True)
class _Waiting:
    """The futures that get a result; there are several if the same call came more than once.
    `inbox_s` is how long the request was in the inbox."""

    futures: list[Future[Result]]
    inbox_s: float


@dataclass(frozen=True, slots=True)
class _Aborted:
    request_id: str


class EngineThread:
    """Runs an engine.

    Args:
        load: creates the engine; called on the thread.
        on_failure: called on the thread with the error that broke the engine, before futures fail.
        cores: gets to know on the thread when the engine works and when it rests; None: threads
            stay as they are.

    Raises:
        EngineError: the engine cannot be loaded.
    """

    def __init__(
        self,
        load: Callable[[], Engine],
        on_failure: Callable[[BaseException], None] | None = None,
        cores: Callable[[Engine], IdleCores | None] | None = None,
    ) -> None:
        self._load = load
        self._find_cores = cores
        self._cores: IdleCores | None = None
        self._on_failure = on_failure
        self._inbox: queue.SimpleQueue[_Submitted | _Aborted | None] = queue.SimpleQueue()
        self._waiting: dict[str, _Waiting] = {}
        self._loaded: Future[Engine] = Future()
        self._step_began: float | None = None
        self._stopped: BaseException | None = None
        # Once `_stopped` is set, nothing may be put in the inbox, because nobody would take it.
        self._lock = threading.Lock()
        self._load_now = EngineLoad(0, 0, 0, 0)
        self._thread = threading.Thread(target=self._run, name="murmur-engine", daemon=True)
        self._thread.start()
        self.engine = self._loaded.result()

    @property
    def load(self) -> EngineLoad:
        """The load after the last step."""
        return self._load_now

    def submit(self, request: Request) -> Future[Result]:
        """Queue a chunk. A chunk whose id is queued or running already is not decoded twice: keys
        identify the work, and Serve may deliver a call a second time.

        Returns:
            A future of the result. It fails with RequestError if the model cannot do what the
            request asks for, or with EngineStoppedError. Cancelling the future does not stop the
            decoding: see `abort`.

        Raises:
            EngineStoppedError: the engine has stopped.
        """
        future: Future[Result] = Future()
        self._put(_Submitted(request, future, time.perf_counter()))
        return future

    def abort(self, request_id: str) -> None:
        """Stop decoding a request, if it is queued or running. Its future is cancelled."""
        try:
            self._put(_Aborted(request_id))
        except EngineStoppedError:
            return  # a stopped engine decodes nothing

    def check(self, stuck_after_s: float) -> None:
        """Raise EngineStoppedError if the engine failed or a step has taken `stuck_after_s`."""
        if self._stopped is not None:
            raise EngineStoppedError(f"the engine has stopped: {self._stopped}")
        try:
            self.engine.check()
        except EngineError as error:
            raise EngineStoppedError(f"the engine has failed: {error}") from error
        began = self._step_began
        if began is not None and (took_s := time.monotonic() - began) > stuck_after_s:
            raise EngineStoppedError(f"the engine hangs: a step has taken {took_s:.0f} s so far")

    def close(self) -> None:
        """Stop after the current step. Unfinished requests fail with EngineStoppedError."""
        self._inbox.put(None)
        self._thread.join()

    def _put(self, message: _Submitted | _Aborted) -> None:
        with self._lock:
            if self._stopped is not None:
                raise EngineStoppedError(f"the engine has stopped: {self._stopped}")
            self._inbox.put(message)

    def _run(self) -> None:
        try:
            engine = self._load()
        except BaseException as error:  # border of the thread: the constructor raises it
            self._loaded.set_exception(error)
            return
        if self._find_cores is not None:
            self._cores = self._find_cores(engine)
        self._loaded.set_result(engine)
        try:
            self._serve(engine)
        except BaseException as error:  # border of the thread: every caller gets it
            self._stop(error)
            if self._on_failure is not None:
                self._on_failure(error)
        else:
            self._stop(EngineStoppedError("it was closed"))
        if self._cores is not None:
            self._cores.close()
        engine.close()
        self._fail_all()

    def _serve(self, engine: Engine) -> None:
        while True:
            if not self._take_in(engine):
                return
            self._step_began = time.monotonic()
            if self._cores is not None:
                self._cores.working(_has_little_to_do(engine))
            results = engine.step()
            self._step_began = None
            before = self._load_now
            n_rows = before.n_rows + engine.n_used_in_step
            self._load_now = EngineLoad(
                engine.n_waiting, engine.n_used_slots, before.n_steps + 1, n_rows
            )
            for result in results:
                waiting = self._waiting.pop(result.request_id)
                # To the caller, time in the inbox is waiting time like that in the engine.
                result.timings_s["waiting"] += waiting.inbox_s
                for future in waiting.futures:
                    if future.set_running_or_notify_cancel():
                        future.set_result(result)

    def _take_in(self, engine: Engine) -> bool:
        """Take in what has arrived. Blocks while there is nothing to do. Returns False to close."""
        while True:
            if not engine.has_unfinished and self._cores is not None:
                self._cores.resting()
            try:
                message = self._inbox.get(block=not engine.has_unfinished)
            except queue.Empty:
                return True
            if message is None:
                return False
            if isinstance(message, _Submitted):
                self._add(engine, message)
            elif engine.abort(message.request_id):
                for future in self._waiting.pop(message.request_id).futures:
                    future.cancel()

    def _add(self, engine: Engine, submitted: _Submitted) -> None:
        known = self._waiting.get(submitted.request.request_id)
        if known is not None:
            known.futures.append(submitted.future)
            return
        try:
            engine.add_request(submitted.request)
        except EngineError as error:
            if submitted.future.set_running_or_notify_cancel():
                submitted.future.set_exception(error)
        else:
            inbox_s = time.perf_counter() - submitted.at_s
            self._waiting[submitted.request.request_id] = _Waiting([submitted.future], inbox_s)

    def _stop(self, error: BaseException) -> None:
        with self._lock:
            self._stopped = error

    def _fail_all(self) -> None:
        error = EngineStoppedError(f"the engine has stopped: {self._stopped}")
        futures = [future for waiting in self._waiting.values() for future in waiting.futures]
        while not self._inbox.empty():
            message = self._inbox.get()
            if isinstance(message, _Submitted):
                futures.append(message.future)
        for future in futures:
            if future.set_running_or_notify_cancel():
                future.set_exception(error)


def _has_little_to_do(engine: Engine) -> bool:
    """Whether half of the slots would stay free if all that waits had one."""
    return 2 * (engine.n_used_slots + engine.n_waiting) <= engine.config.max_slots

"""The leader's lines to all ranks: orders out, answers in, and a watch on which ranks still answer.

The leader notices a dead rank at once, because its line closes, and one that hangs or is cut off
because it answers no pings. So a gang may idle for hours with no collective under way.
"""

import queue
import selectors
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

from engine.errors import EngineError, GangError
from engine.gang.connection import Connection, pack
from engine.gang.orders import Answer, Close, Failed, Ping, Pong


@dataclass(frozen=True, slots=True)
class GangLimits:
    """How long a gang's members wait for each other, in seconds.

    Args:
        ping_s: time between pings, which ranks answer whatever else they do.
        silent_s: a rank that has answered no ping for so long counts as hung; a rank that got no
            ping for so long has lost its leader.
        work_s: an operation that takes longer counts as hung. The slowest real one is encoding a
            batch with a large model on a slow CPU.
        load_s: limit for all ranks to arrive and load their weights.
    """

    ping_s: float = 1.0
    silent_s: float = 10.0
    work_s: float = 300.0
    load_s: float = 900.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.silent_s < 2 * self.ping_s:
            raise ValueError("silent_s must be at least twice ping_s")


class Lines:
    """Lines to ranks 0 to n-1. One thread uses them; `check` may be called from any."""

    def __init__(self, connections: list[Connection], limits: GangLimits) -> None:
        self._connections = connections
        self._limits = limits
        for connection in connections:  # a node may die in the middle of a message
            connection.limit_receive(limits.silent_s)
        self._answers: queue.SimpleQueue[tuple[int, Answer] | None] = queue.SimpleQueue()
        self._error: EngineError | None = None
        self._closed = self._let_go = False
        self._judges = False
        self._heard_s = [time.monotonic()] * len(connections)
        self._watch = threading.Thread(target=self._run, name="murmur-gang", daemon=True)
        self._watch.start()

    def begin_to_judge(self) -> None:
        """From now on a silent rank counts as hung. Before, it may be busy with its imports."""
        self._heard_s = [time.monotonic()] * len(self._connections)
        self._judges = True

    def send(self, ranks: Iterable[int], order: object) -> None:
        """Send an order to some ranks, or at the start their part; does not wait.

        Raises:
            GangError: the gang has failed.
        """
        self.check()
        frame = pack(order)
        for rank in ranks:
            try:
                self._connections[rank].send_frame(frame)
            except OSError as error:
                self._fail(GangError(f"rank {rank} is gone: {error}"))
                self.check()

    def answer(self, wait: bool, limit_s: float | None = None) -> tuple[int, Answer] | None:
        """The next answer and its rank; None if there is none and `wait` is False.

        Args:
            limit_s: how long to wait; by default as long as work may take.

        Raises:
            GangError: the gang has failed, or nobody answered for too long.
        """
        limit_s = self._limits.work_s if limit_s is None else max(limit_s, 0.0)
        try:
            item = self._answers.get(wait, limit_s)
        except queue.Empty:
            if wait:
                self._fail(GangError(f"no rank has finished its work within {limit_s:.0f} s"))
            self.check()
            return None
        if item is None:
            self.check()
        return item

    def check(self) -> None:
        """Raises GangError if the gang has failed or was closed."""
        if self._error is not None:
            raise self._error
        if self._closed:
            raise GangError("the gang was closed")

    def close(self) -> None:
        """Make all ranks end; ranks that hang are left alone."""
        self._closed = True
        self._answers.put(None)  # wakes who waits for one
        frame = pack(Close())
        for connection in self._connections:
            try:
                connection.send_if_free(frame)
            except OSError:
                continue  # it is gone already
        self._watch.join(self._limits.silent_s)
        self._let_go = True
        for connection in self._connections:
            connection.close()
        self._watch.join()

    def _fail(self, error: EngineError) -> None:
        """Record why the gang ends and close the lines, which ends the ranks."""
        if self._error is None and not self._closed:
            self._error = error
            self._answers.put(None)
            for connection in self._connections:
                connection.close()

    def _run(self) -> None:
        try:
            self._watch_over()
        except Exception as error:  # the border of the thread: otherwise nobody would watch
            self._fail(GangError(f"its watch has failed: {error!r}"))

    def _watch_over(self) -> None:
        """Take in answers and ping, until the gang ends."""
        with selectors.DefaultSelector() as selector:
            for rank, connection in enumerate(self._connections):
                selector.register(connection, selectors.EVENT_READ, rank)
            next_ping_s = before_s = time.monotonic()
            while self._error is None and not self._let_go and selector.get_map():
                for key, _ in selector.select(self._limits.ping_s / 2):
                    self._take_in(key.data, selector)
                now_s = time.monotonic()
                if now_s - before_s > self._limits.silent_s / 2:
                    # This process itself stood still and could hear nobody.
                    self._heard_s = [now_s] * len(self._connections)
                before_s = now_s
                if now_s >= next_ping_s and not self._closed:
                    next_ping_s = now_s + self._limits.ping_s
                    self._ping(now_s)

    def _take_in(self, rank: int, selector: selectors.BaseSelector) -> None:
        try:
            answer = self._connections[rank].receive()
        except (OSError, EOFError) as error:
            if self._error is None:
                selector.unregister(self._connections[rank])
                self._fail(GangError(f"rank {rank} has died: {error}"))
            return
        self._heard_s[rank] = time.monotonic()
        if isinstance(answer, Failed):
            kind = EngineError if answer.is_input else GangError
            self._fail(kind(f"rank {rank}: {answer.reason}"))
        elif not isinstance(answer, Pong):
            self._answers.put((rank, answer))

    def _ping(self, now_s: float) -> None:
        for rank, heard_s in enumerate(self._heard_s):
            if self._judges and now_s - heard_s > self._limits.silent_s:
                silent_s = now_s - heard_s
                self._fail(GangError(f"rank {rank} hangs: it has been silent for {silent_s:.1f} s"))
                return
        frame = pack(Ping())
        for rank, connection in enumerate(self._connections):
            try:
                connection.send_if_free(frame)
            except OSError as error:
                self._fail(GangError(f"rank {rank} is gone: {error}"))
                return

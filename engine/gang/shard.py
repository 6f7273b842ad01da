"""A rank: executes the leader's orders with its slice of its stage's layers.

A separate thread reads the line to the leader and answers pings. If the line closes, the leader is
gone or has given up the gang. Then the process ends, because the rank may be waiting forever in a
collective for another rank that died.
"""

import os
import queue
import threading
import time
from collections.abc import Callable

import torch

from engine.decoding.sampler import Sampled
from engine.devices import peak_resident_bytes, resident_bytes
from engine.errors import EngineError
from engine.gang.connection import Connection
from engine.gang.lines import GangLimits
from engine.gang.orders import (
    Close,
    Detect,
    Encode,
    Encoded,
    Expect,
    Failed,
    Fill,
    Order,
    Ping,
    Pong,
    RankReport,
    Release,
    Report,
    Values,
)
from engine.parallel.place import Inbound, Place
from engine.parallel.traffic import Traffic
from engine.runner import ModelRunner
from engine.steps import Align, Begin, Decode
from engine.transfer import Download, Pending


class OrderReader:
    """Reads a rank's line, on a thread.

    Args:
        on_lost: called on the thread when the leader is gone.
    """

    def __init__(
        self, connection: Connection, limits: GangLimits, on_lost: Callable[[str], None]
    ) -> None:
        self._connection = connection
        self._silent_s = limits.silent_s
        self._on_lost = on_lost
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._heard_s = time.monotonic()
        self.idle_s = 0.0
        threading.Thread(target=self._read, name="murmur-orders", daemon=True).start()
        threading.Thread(target=self._watch, name="murmur-watch", daemon=True).start()

    def next(self) -> Order:
        """The next order; waits for it."""
        began = time.perf_counter()
        order = self._orders.get()
        self.idle_s += time.perf_counter() - began
        return order

    def _read(self) -> None:
        try:
            while True:
                order: Order = self._connection.receive()
                self._heard_s = time.monotonic()
                if isinstance(order, Ping):
                    self._connection.send(Pong())
                    continue
                self._orders.put(order)
                if isinstance(order, Close):
                    return
        except (OSError, EOFError) as error:
            self._on_lost(f"the leader is gone: {error}")

    def _watch(self) -> None:
        """Notice a leader that stopped or is cut off, which does not close the line."""
        before_s = time.monotonic()
        while True:
            time.sleep(self._silent_s / 4)
            now_s = time.monotonic()
            if now_s - before_s > self._silent_s / 2:
                self._heard_s = now_s  # this process itself stood still
            before_s = now_s
            # A large frame may take long, and no ping comes before it ends.
            silent_s = now_s - max(self._heard_s, self._connection.heard_s)
            if silent_s > self._silent_s:
                self._on_lost(f"the leader has been silent for {silent_s:.1f} s")


class Answers:
    """Sends answers in order, when the device has got so far, without making orders wait."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._waiting: queue.Queue[tuple[Pending, Encoded | None]] = queue.Queue()
        self._thread: threading.Thread | None = None

    def values(self, *tensors: torch.Tensor) -> None:
        """Answer with the result of an order."""
        self.when_ready(Download(*tensors), None)

    def encoded(self, batch: int, states: torch.Tensor) -> None:
        """Answer that a batch is encoded, once these states are computed."""
        self.when_ready(Download(states.flatten()[:1]), Encoded(batch))

    def when_ready(self, values: Pending, answer: Encoded | None) -> None:
        """Answer when these values have arrived, by default with the values themselves."""
        if self._thread is None and values.ready:
            self._send(values, answer)
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="murmur-answers", daemon=True)
            self._thread.start()
        self._waiting.put((values, answer))

    def _run(self) -> None:
        try:
            while True:
                self._send(*self._waiting.get())
        except BaseException as error:  # the border of the thread: device faults surface here
            say_why(self._connection, error)
            end_process(str(error))

    def _send(self, values: Pending, answer: Encoded | None) -> None:
        columns = values.get()
        if answer is None:
            self._connection.send(Values(tuple(column.numpy() for column in columns)))
        else:
            self._connection.send(answer)


class Shard:
    """Executes orders."""

    def __init__(
        self,
        runner: ModelRunner,
        rank: int,
        connection: Connection,
        reader: OrderReader,
        traffic: Traffic,
        bare_rss_bytes: int = 0,
    ) -> None:
        self._bare_rss_bytes = bare_rss_bytes
        self._runner = runner
        self._rank = rank
        self._connection = connection
        self._reader = reader
        self._traffic = traffic
        self._place: Place = runner.place
        self._speaks = self._place.group.rank == 0
        self._answers = Answers(connection)
        self._inbound: dict[int, Inbound] = {}
        self._windows: dict[int, torch.Tensor] = {}
        self._reported_s = time.perf_counter()

    def run(self) -> None:
        """Execute orders until the order to end."""
        while not isinstance(order := self._reader.next(), Close):
            self.do(order)

    def do(self, order: Order) -> None:
        match order:
            case Decode():
                self._answer(self._runner.decode(order))
            case Begin():
                begun = self._runner.begin(order)
                if begun is not None:
                    self._answer(*begun)
            case Align():
                maps = self._runner.align(order)
                if maps is not None and self._speaks:
                    self._answers.values(*maps)
            case Detect(slot, adapter):
                probabilities = self._runner.detect_language(slot, adapter)
                if probabilities is not None and self._speaks:
                    self._answers.values(probabilities)
            case Release(slot):
                self._runner.release(slot)
            case Expect():
                self._expect(order)
            case Encode():
                self._encode(order)
            case Fill(batch, slots, adapter):
                self._runner.fill(self._take_windows(batch), slots, adapter)
            case Report():
                self._connection.send(self._report())
            case _:
                raise AssertionError(f"no order for a rank: {order}")

    def _answer(self, sampled: Sampled | None, *more: torch.Tensor) -> None:
        if sampled is not None and self._speaks:
            self._answers.values(*sampled.columns, *more)

    def _expect(self, order: Expect) -> None:
        dims, place = self._runner.dims, self._place
        assert place.wires is not None
        shape = (order.n, order.n_frames, dims.n_audio_state)
        source = place.index - 1 if place.stage.encoder else place.encoders[-1]
        dtype = self._runner.formats.dtype
        self._inbound[order.batch] = place.wires.windows.expect(shape, dtype, source)

    def _take_windows(self, batch: int) -> torch.Tensor:
        """A batch in its current state of encoding: from this stage, or from another one."""
        if batch in self._windows:
            return self._windows.pop(batch)
        return self._inbound.pop(batch).get()

    def _encode(self, order: Encode) -> None:
        x = order.pcm if order.pcm is not None else self._take_windows(order.batch)
        layers = range(order.start, order.stop)
        states = self._runner.encode_part(x, layers, order.n_frames, order.adapter)
        place = self._place
        if order.stop < len(place.stage.encoder):
            self._windows[order.batch] = states
        else:
            self._hand_on(order.batch, states)
        if self._speaks:
            self._answers.encoded(order.batch, states)

    def _hand_on(self, batch: int, states: torch.Tensor) -> None:
        """Send what this stage encoded to the next encoder stage, or else to all stages that
        decode."""
        place = self._place
        is_last = place.index == place.encoders[-1]
        for stage in place.decoders if is_last else [place.index + 1]:
            if stage == place.index:
                self._windows[batch] = states
            else:
                assert place.wires is not None
                place.wires.windows.send(states, stage)

    def _report(self) -> RankReport:
        now_s = time.perf_counter()
        waited = self._traffic.waited_s
        report = RankReport(
            rank=self._rank,
            elapsed_s=now_s - self._reported_s,
            idle_s=self._reader.idle_s
            + sum(waited.get(kind, 0.0) for kind in ("windows", "hidden", "tokens")),
            collective_s=waited.get("reduce", 0.0) + waited.get("gather", 0.0),
            calls=dict(self._traffic.calls.items()),
            sent_bytes=dict(self._traffic.sent_bytes.items()),
            device_bytes=self._runner.n_bytes,
            bare_rss_bytes=self._bare_rss_bytes,
            rss_bytes=resident_bytes(),
            peak_rss_bytes=peak_resident_bytes(),
        )
        self._traffic.clear()
        self._reader.idle_s, self._reported_s = 0.0, now_s
        return report


def end_process(reason: str) -> None:
    """End at once, because whatever the process waits for will not come."""
    os._exit(1)


def say_why(connection: Connection, error: BaseException) -> None:
    """Tell the leader why this rank ends."""
    is_input = isinstance(error, EngineError)
    reason = str(error) if is_input else f"{type(error).__name__}: {error}"
    try:
        connection.send(Failed(reason, is_input))
    except OSError:
        pass  # the leader has gone, too

"""Encodes admitted windows while others are decoded.

A decoder step waits for memory and an encoder for arithmetic, so each hides the other's cost. The
engine decides which windows are encoded and in which order they join; this module only decides
where they are encoded.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

import torch

from engine.config import EngineConfig
from engine.precision import Offload
from engine.sequence import Sequence as Running

# Computes the windows of some sequences, as one batch, into their slots.
Encode = Callable[[Sequence[Running]], None]


class Encoding(Protocol):
    """Windows on their way into slots."""

    @property
    def room(self) -> int:
        """How many more sequences may be submitted now."""

    def submit(self, sequences: Sequence[Running]) -> None: ...

    def collect(self, n_decoding: int) -> list[Running]:
        """Sequences whose windows are in their slots; waits for one if nothing is decoding.

        Args:
            n_decoding: sequences that the caller is decoding meanwhile.
        """

    def beside(self) -> AbstractContextManager[None]:
        """A context in which the caller's work shares the device with the encoding."""


class InlineEncoding:
    """Encodes on the calling thread, when results are collected.

    Args:
        batch: sequences encoded at once; a newcomer waits for one such batch at most.
    """

    def __init__(self, encode: Encode, batch: int) -> None:
        self._encode = encode
        self._batch = batch
        self._pending: list[Running] = []

    @property
    def room(self) -> int:
        return self._batch - len(self._pending)

    def submit(self, sequences: Sequence[Running]) -> None:
        self._pending += sequences

    def collect(self, n_decoding: int) -> list[Running]:
        done, self._pending = self._pending, []
        if done:
            self._encode(done)
        return done

    def beside(self) -> AbstractContextManager[None]:
        return nullcontext()


class StreamEncoding:
    """Encodes batches on a CUDA stream of its own; the host only launches.

    Args:
        batch: sequences encoded at once.
    """

    _IN_FLIGHT = 2

    def __init__(self, encode: Encode, batch: int, device: torch.device) -> None:
        self._encode = encode
        self._batch = batch
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._in_flight: deque[tuple[torch.cuda.Event, list[Running]]] = deque()

    @property
    def room(self) -> int:
        return self._batch if len(self._in_flight) < self._IN_FLIGHT else 0

    def submit(self, sequences: Sequence[Running]) -> None:
        if not sequences:
            return
        with torch.cuda.stream(self._stream):
            self._encode(sequences)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(self._stream)
        self._in_flight.append((event, list(sequences)))

    def collect(self, n_decoding: int) -> list[Running]:
        if not n_decoding and self._in_flight:
            self._in_flight[0][0].synchronize()
        done: list[Running] = []
        while self._in_flight and self._in_flight[0][0].query():  # type: ignore[no-untyped-call]
            event, sequences = self._in_flight.popleft()
            torch.cuda.current_stream(self._stream.device).wait_event(event)
            done += sequences
        return done

    def beside(self) -> AbstractContextManager[None]:
        return nullcontext()


class ThreadEncoding:
    """Encodes on a thread of its own with half of the CPU's threads, window by window.

    While less than a third of the slots are decoding, the calling thread encodes as well, because a
    decoder step costs little more for more sequences. A lone window, with nothing else to do, gets
    all threads.

    Args:
        n_slots: sequences that can be decoded at once.
    """

    _IN_FLIGHT = 3  # being encoded, next, and one that the calling thread may take

    def __init__(self, encode: Encode, n_slots: int) -> None:
        self._encode = encode
        self._enough = max(1, n_slots // 3)
        self._submitted: list[Running] = []
        self._futures: dict[Future[None], Running] = {}
        self._helped: list[Running] = []
        self._worker = ThreadPoolExecutor(
            1, "murmur-encode", initializer=lambda: torch.set_num_threads(_half())
        )

    @property
    def room(self) -> int:
        return self._IN_FLIGHT - len(self._submitted) - len(self._futures)

    def submit(self, sequences: Sequence[Running]) -> None:
        self._submitted += sequences

    def collect(self, n_decoding: int) -> list[Running]:
        if not n_decoding and not self._futures and len(self._submitted) == 1:
            lone = self._submitted.pop()
            self._encode([lone])
            return [lone]
        for sequence in self._submitted:
            self._futures[self._worker.submit(self._encode, [sequence])] = sequence
        self._submitted.clear()
        if n_decoding < self._enough and not any(future.done() for future in self._futures):
            self._help()
        if not n_decoding and self._futures and not self._helped:
            wait(self._futures, return_when=FIRST_COMPLETED)
        return self._take_done()

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Leave the encoding thread its half of the CPU while it is busy."""
        total = torch.get_num_threads()
        busy = any(not future.done() for future in self._futures)
        torch.set_num_threads(total - _half() if busy and total > 1 else total)
        try:
            yield
        finally:
            torch.set_num_threads(total)

    def _help(self) -> None:
        """Encode a window that the thread has not started."""
        for future, sequence in reversed(self._futures.items()):
            if future.cancel():
                with self.beside():
                    self._encode([sequence])
                self._helped.append(self._futures.pop(future))
                return

    def _take_done(self) -> list[Running]:
        done = [future for future in self._futures if future.done()]
        for future in done:
            future.result()  # raises what the thread raised
        helped, self._helped = self._helped, []
        return helped + [self._futures.pop(future) for future in done]


def make_encoding(encode: Encode, config: EngineConfig) -> Encoding:
    """The encoding that suits device and number format."""
    if config.overlap_encoding and not config.on_cpu:
        return StreamEncoding(encode, config.encode_limit, torch.device(config.device))
    if encodes_on_two_threads(config):
        return ThreadEncoding(encode, config.max_slots)
    return InlineEncoding(encode, config.encode_limit)


def encodes_on_two_threads(config: EngineConfig) -> bool:
    """Whether a CPU encodes on a separate thread, with the calling thread helping.

    Not where numbers depend on the number of threads, and not with streamed layers: two threads
    must not use their place on the device at once.
    """
    is_resident = config.offload is Offload.NONE
    may = config.overlap_encoding and config.on_cpu and torch.get_num_threads() > 1
    return may and is_resident and not config.depends_on_threads


def _half() -> int:
    return max(1, torch.get_num_threads() // 2)

"""Transcribes one file with replicas: drives the state machine `Transcription` on an event loop.

Threads read the audio and find the speech in it, one block ahead of what is needed. Each chunk is
sent as soon as it is known and the limit of chunks in flight allows. Results come back in any
order.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from deployments.audio.reading import AudioLimits, Source, read_audio
from deployments.errors import AudioError, ChunkFailedError, NoTierError, TierUnavailableError
from deployments.messages import Chunk, TranscriptSegment, key_of_chunk
from deployments.replicas.tier_client import ChunkLostError, Decoded
from deployments.transcript.piece import Piece
from deployments.transcript.transcription import Transcription
from engine import SAMPLE_RATE

BLOCK_S = 30.0
"""Seconds of audio per block."""
_T = TypeVar("_T")

Decode = Callable[[Chunk], Awaitable[Decoded]]


@dataclass(slots=True)
class TierWork:
    """What a tier did for a request. `device_s` is the replica time that it took."""

    n_chunks: int = 0
    device_s: float = 0.0


@dataclass(slots=True)
class Work:
    """The work done for a request so far: seconds by stage, summed over blocks and chunks, and what
    each tier did."""

    n_chunks: int = 0
    n_retries: int = 0
    n_tokens: int = 0
    stages_s: dict[str, float] = field(default_factory=dict)
    tiers: dict[str, TierWork] = field(default_factory=dict)

    def add(self, stage: str, seconds: float) -> None:
        self.stages_s[stage] = self.stages_s.get(stage, 0.0) + seconds

    def add_chunk(self, decoded: Decoded) -> dict[str, float]:
        """Count a chunk. Returns the seconds of its stages."""
        self.n_chunks += 1
        self.n_retries += decoded.n_retries
        self.n_tokens += len(decoded.result.tokens)
        tier = self.tiers.setdefault(decoded.result.model, TierWork())
        tier.n_chunks += 1
        tier.device_s += decoded.result.device_s
        stages = dict(decoded.result.timings_s)
        stages["hops"] = max(0.0, decoded.round_trip_s - sum(stages.values()))
        stages["held"] = decoded.held_s
        for stage, seconds in stages.items():
            self.add(stage, seconds)
        return stages


@dataclass(frozen=True, slots=True)
class _Cut:
    """The result of reading a block: pieces of speech, how far the file was read, whether it ended
    there, and the error if it could not be read further."""

    pieces: list[Piece]
    read_s: float
    ended: bool
    error: AudioError | None = None


class _Reader:
    """Reads a file and finds the speech in it, block by block, on threads."""

    def __init__(
        self,
        source: Source,
        limits: AudioLimits,
        on_open: Callable[[float | None], None],
        transcription: Transcription,
        work: Work,
        threads: Executor,
    ) -> None:
        self._blocks = read_audio(
            source,
            limits,
            BLOCK_S,
            on_open,
            transcription.report,
            transcription.options.track_wish,
        )
        self._transcription = transcription
        self._work = work
        self._threads = threads
        self._reading: Future[_Cut] | None = None
        self._n_read = 0

    def read(self) -> "asyncio.Future[_Cut]":
        """Start to read the next block."""
        self._reading = self._threads.submit(self._read)
        return asyncio.wrap_future(self._reading)

    def close(self) -> None:
        """Close the audio decoder, as soon as no thread reads from it."""
        if self._reading is None or self._reading.done() or self._reading.cancel():
            self._threads.submit(self._blocks.close)
        else:
            self._reading.add_done_callback(lambda _: self._blocks.close())

    def _read(self) -> _Cut:
        pieces: list[Piece] = []
        error = None
        try:
            while (block := self._next()) is not None:
                pieces += self._timed("vad", partial(self._transcription.cut, block))
                self._n_read += len(block)
                if len(block) == BLOCK_S * SAMPLE_RATE:
                    return _Cut(pieces, self._n_read / SAMPLE_RATE, False)
                # Only the last block is shorter. Reading on to the end here saves another round
                # trip to the thread.
        except AudioError as fault:
            error = fault
        pieces += self._timed("vad", self._transcription.cut_end)
        return _Cut(pieces, self._n_read / SAMPLE_RATE, True, error)

    def _next(self) -> npt.NDArray[np.int16] | None:
        return self._timed("read", lambda: next(self._blocks, None))

    def _timed(self, stage: str, do: Callable[[], _T]) -> _T:
        began = time.perf_counter()
        try:
            return do()
        finally:
            self._work.add(stage, time.perf_counter() - began)


class RemoteRun:
    """The run of one request.

    Args:
        transcription: the file's state.
        decode: sends a chunk to a replica.
        max_in_flight: maximum number of chunks in replicas at once.
        on_chunk: called for each finished chunk, with its tier and the seconds of its stages.
        on_progress: called with the seconds of audio read so far, and those that are not final yet.
        partial: whether the readable part of broken audio is transcribed before the error is
            raised.
    """

    def __init__(
        self,
        transcription: Transcription,
        decode: Decode,
        max_in_flight: int,
        on_chunk: Callable[[str, dict[str, float]], None],
        on_progress: Callable[[float, float], None],
        partial: bool,
    ) -> None:
        self.transcription = transcription
        self.work = Work()
        self._decode = decode
        self._max_in_flight = max_in_flight
        self._on_chunk = on_chunk
        self._on_progress = on_progress
        self._partial = partial
        self._to_send: deque[Chunk] = deque()
        self._in_flight: dict[asyncio.Task[Decoded], Chunk] = {}
        self._error: AudioError | None = None
        self._read_s = 0.0

    async def segments(
        self,
        source: Source,
        limits: AudioLimits,
        on_open: Callable[[float | None], None],
        threads: Executor,
    ) -> AsyncGenerator[list[TranscriptSegment], None]:
        """Transcribe the file. Yields segments as they become final, in file order. Yields an empty
        list first, if the beginning of the audio could be read but no segment is final yet: errors
        in the beginning of the audio would have been raised by then. Closing this generator stops
        all work.

        Raises:
            AudioError: the audio cannot be used, or cannot be read to its end.
            ChunkFailedError: a chunk killed as many replicas as it is allowed to.
            RequestError: the model cannot do what the request asks for.
        """
        reader = _Reader(source, limits, on_open, self.transcription, self.work, threads)
        reading: asyncio.Future[_Cut] | None = reader.read()
        begun = False
        try:
            while reading is not None or self._in_flight:
                wanted: list[asyncio.Future[Any]] = [*self._in_flight]
                if reading is not None:
                    wanted.append(reading)
                await asyncio.wait(wanted, return_when=asyncio.FIRST_COMPLETED)
                if reading is not None and reading.done():
                    self._to_send.extend(self._take(reading.result()))
                    reading = None
                ready: list[TranscriptSegment] = []
                for task in [task for task in self._in_flight if task.done()]:
                    ready += self._accept(task)
                if reading is None and not self.transcription.ended and self._wants_audio():
                    reading = reader.read()
                self._send()
                self._on_progress(self._read_s, self.transcription.unfinished_s)
                is_under_way = reading is not None or bool(self._in_flight)
                if ready or (is_under_way and not begun):
                    begun = True
                    yield ready
            if self._error is not None:
                raise self._error
        finally:
            if reading is not None:
                reading.cancel()
            reader.close()
            await self._stop()

    def _wants_audio(self) -> bool:
        """Whether to read on. Chunks that wait for earlier ones fill memory, so reading must not
        run far ahead; but a file with nothing to decode cannot progress without more audio."""
        is_busy = self._in_flight or self._to_send
        return self.transcription.n_unfinished < 2 * self._max_in_flight or not is_busy

    def _take(self, cut: _Cut) -> Iterable[Chunk]:
        self._read_s = cut.read_s
        if cut.error is not None:
            if not self._partial:
                raise cut.error
            self._error = cut.error
        if cut.ended:
            return self.transcription.end(cut.pieces)
        return self.transcription.take(cut.pieces)

    def _accept(self, task: "asyncio.Task[Decoded]") -> list[TranscriptSegment]:
        chunk = self._in_flight.pop(task)
        try:
            decoded = task.result()
        except ChunkLostError as error:
            start_s, end_s = self.transcription.span_s(key_of_chunk(chunk.key))
            raise ChunkFailedError(start_s, end_s, error.attempts) from error
        except (NoTierError, TierUnavailableError):
            without = self.transcription.give_up(key_of_chunk(chunk.key))
            if without is None:
                raise
            progress = without
        else:
            self._on_chunk(decoded.result.model, self.work.add_chunk(decoded))
            progress = self.transcription.accept(decoded.result)
        self._to_send.extend(progress.chunks)
        return progress.segments

    def _send(self) -> None:
        while self._to_send and len(self._in_flight) < self._max_in_flight:
            chunk = self._to_send.popleft()
            self._in_flight[asyncio.ensure_future(self._decode(chunk))] = chunk

    async def _stop(self) -> None:
        """Cancel the chunks in flight, because nobody waits for them any more."""
        for task in self._in_flight:
            task.cancel()
        await asyncio.gather(*self._in_flight, return_exceptions=True)

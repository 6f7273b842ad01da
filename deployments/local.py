"""Transcribes files with one engine in this process.

All files share the engine's batch. Audio is read only as far ahead as the engine needs, so memory
use does not grow with the length of a file.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from deployments.audio.reading import AudioLimits, Source, read_audio
from deployments.errors import DeploymentError
from deployments.messages import (
    Chunk,
    ChunkResult,
    Transcript,
    TranscriptSegment,
    to_chunk_result,
    to_request,
)
from deployments.transcript.options import TranscriptionOptions
from deployments.transcript.piece import Piece
from deployments.transcript.transcription import Transcription
from engine import Engine


@dataclass(frozen=True, slots=True)
class Job:
    """A file to transcribe. `name` is unique and identifies the file in every event."""

    name: str
    source: Source
    options: TranscriptionOptions = field(default_factory=TranscriptionOptions)


@dataclass(frozen=True, slots=True)
class SegmentsReady:
    """Final segments of a file, in file order. `decoded_s` is how much of its audio was read."""

    name: str
    segments: tuple[TranscriptSegment, ...]
    decoded_s: float


@dataclass(frozen=True, slots=True)
class FileDone:
    """A file's whole transcript."""

    name: str
    transcript: Transcript


@dataclass(frozen=True, slots=True)
class FileFailed:
    """A file that could not be read to its end. `transcript` contains the part that was read."""

    name: str
    error: DeploymentError
    transcript: Transcript


_MIN_WAITING = 4
"""Minimum number of chunks to keep waiting for a slot, while the files have more."""

Event = SegmentsReady | FileDone | FileFailed


class _OpenFile:
    """A file that a thread reads one block ahead while the engine runs."""

    def __init__(
        self, job: Job, limits: AudioLimits, detect: bool, reader: ThreadPoolExecutor
    ) -> None:
        self.name = job.name
        self.transcription = Transcription(job.name, job.options, detect)
        self.error: DeploymentError | None = None
        self.exhausted = False
        self._blocks = read_audio(
            job.source,
            limits,
            report=self.transcription.report,
            wish=job.options.track_wish,
        )
        self._reader = reader
        self._ahead = reader.submit(self._read)

    @property
    def is_ready(self) -> bool:
        """Whether `read` would return at once."""
        return self._ahead.done()

    def read(self) -> list[Chunk]:
        """Take the next block. Returns the chunks that it completes."""
        try:
            pieces = self._ahead.result()
        except DeploymentError as error:
            # The audio read before the error is still transcribed.
            self.error, pieces = error, None
        if pieces is None:
            self.exhausted = True
            return self.transcription.finish()
        self._ahead = self._reader.submit(self._read)
        return self.transcription.take(pieces)

    def _read(self) -> list[Piece] | None:
        """Read a block and find the speech in it. Returns None at the end of the file."""
        block = next(self._blocks, None)
        return None if block is None else self.transcription.cut(block)

    def wants_audio(self, max_unfinished: int) -> bool:
        """Whether to read on. Chunks are not final until all earlier ones are, so reading
        far ahead would only fill memory; but a file with nothing in flight cannot progress without
        more audio."""
        state = self.transcription
        return state.n_unfinished < max_unfinished or not state.n_in_flight

    def close(self) -> None:
        self._ahead.cancel()
        wait([self._ahead])
        self._blocks.close()


class LocalTranscriber:
    """Runs jobs on an engine, on the calling thread.

    Args:
        engine: must not be used elsewhere at the same time.
        limits: limits of each file.
        max_open_files: files read at once.
    """

    def __init__(
        self, engine: Engine, limits: AudioLimits | None = None, max_open_files: int = 4
    ) -> None:
        self._engine = engine
        self._limits = limits or AudioLimits()
        self._max_open_files = max_open_files
        self._reader = ThreadPoolExecutor(max_open_files, "murmur-read")
        self._open: dict[str, _OpenFile] = {}
        self._chunk_owner: dict[str, str] = {}

    def run(self, jobs: Iterable[Job]) -> Iterator[Event]:
        """Transcribe the jobs. Yields events as they occur; those of several files are interleaved.

        Raises:
            RequestError: a job asks for something that the model cannot do.
            ValueError: two open jobs have the same name.
        """
        pending = iter(jobs)
        try:
            self._open_more(pending)
            while self._open:
                self._fill()
                for result in self._engine.step():
                    yield from self._deliver(to_chunk_result(result, self._engine.model_name))
                yield from self._close_done()
                self._open_more(pending)
        finally:
            self._abandon()

    def _open_more(self, pending: Iterator[Job]) -> None:
        while len(self._open) < self._max_open_files:
            job = next(pending, None)
            if job is None:
                return
            self._engine.tokenizer.check(job.options.decoding)
            if job.name in self._open:
                raise ValueError(f"two jobs are called {job.name!r}")
            detect = self._engine.tokenizer.multilingual
            self._open[job.name] = _OpenFile(job, self._limits, detect, self._reader)

    def _fill(self) -> None:
        """Read from each file in turn until enough chunks wait for the engine's next steps. Reading
        more would delay the engine, which waits meanwhile."""
        slots = self._engine.config.max_slots
        enough = max(_MIN_WAITING, 2 * self._engine.config.encode_limit)
        progressed = True
        while progressed and self._engine.n_waiting < enough:
            progressed = False
            for file in self._open.values():
                # Block on the reader only if the engine has nothing to do.
                ready = file.is_ready or not self._engine.has_unfinished
                if ready and not file.exhausted and file.wants_audio(4 * slots):
                    self._submit(file.name, file.read())
                    progressed = True

    def _submit(self, name: str, chunks: Iterable[Chunk]) -> None:
        for chunk in chunks:
            self._chunk_owner[chunk.key] = name
            self._engine.add_request(to_request(chunk))

    def _deliver(self, result: ChunkResult) -> Iterator[Event]:
        file = self._open[self._chunk_owner.pop(result.key)]
        progress = file.transcription.accept(result)
        self._submit(file.name, progress.chunks)
        if progress.segments:
            yield SegmentsReady(file.name, tuple(progress.segments), file.transcription.duration_s)

    def _close_done(self) -> Iterator[Event]:
        for file in [f for f in self._open.values() if f.transcription.done]:
            del self._open[file.name]
            file.close()
            transcript = file.transcription.transcript()
            if file.error is None:
                yield FileDone(file.name, transcript)
            else:
                yield FileFailed(file.name, file.error, transcript)

    def _abandon(self) -> None:
        """Abort all chunks and close all files, for a caller that stops early."""
        for key in self._chunk_owner:
            self._engine.abort(key)
        self._chunk_owner.clear()
        for file in self._open.values():
            file.close()
        self._open.clear()

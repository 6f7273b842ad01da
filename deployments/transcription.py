"""One file's way from audio to transcript, as a state machine that does no input or output.

Audio goes in, chunks to decode come out; their results go in, in any order, and final segments come
out in file order. Whoever drives it (the command line over a local engine, the ingress over
replicas) only carries chunks to engines and results back.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from deployments.chunking import SAMPLE_RATE, Chunker, ChunkingOptions, Piece
from deployments.fallback import FallbackOptions, best_result, is_silence, looks_wrong
from deployments.messages import Chunk, ChunkResult, Transcript, TranscriptSegment
from deployments.stitching import ReorderBuffer, place_segments, undecoded_from
from deployments.vad import VadOptions
from engine import DecodingOptions

MAX_CONTEXT_TEMPERATURE = 0.5
MAX_CONTEXT_TOKENS = 223
"""What a prompt holds: half of the text context, less the token that announces it."""


@dataclass(frozen=True, slots=True)
class TranscriptionOptions:
    """What a caller asks of a file.

    Args:
        decoding: options of every chunk; its language None means that the file's first speech
            tells the language of all of it.
        fallback: when to decode again.
        detections: chunks that may be asked for the language, one after another, until one is
            sure of it (a probability of one half).
        tail_s: speech that a chunk leaves without text is decoded again if it is longer than this.
        context_chunks: this many chunks in a row are decoded one after another, each with the text
            of those before it as its prompt; the next row starts afresh, so that rows run side by
            side. 1: every chunk alone, all at once.
    """

    decoding: DecodingOptions = field(default_factory=DecodingOptions)
    fallback: FallbackOptions = field(default_factory=FallbackOptions)
    chunking: ChunkingOptions = field(default_factory=ChunkingOptions)
    vad: VadOptions = field(default_factory=VadOptions)
    detections: int = 3
    tail_s: float = 1.0
    context_chunks: int = 1
    priority: int = 0

    def __post_init__(self) -> None:
        if self.context_chunks < 1:
            raise ValueError(f"context_chunks must be at least 1, got {self.context_chunks}")
        if self.detections < 1:
            raise ValueError(f"detections must be at least 1, got {self.detections}")


@dataclass
class _Part:
    """A piece of the file and what was decoded of it so far."""

    index: int
    piece: Piece
    segments: list[TranscriptSegment] = field(default_factory=list)
    tried: list[ChunkResult] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Progress:
    """What a result leads to: chunks to decode, and segments that are final now."""

    chunks: list[Chunk]
    segments: list[TranscriptSegment]


class Transcription:
    """State of one file.

    Args:
        request_id: unique; part of every chunk's key.
        detect: whether the language is to be detected: no language given, and a model that
            knows several.
    """

    def __init__(self, request_id: str, options: TranscriptionOptions, detect: bool) -> None:
        self.request_id = request_id
        self.options = options
        self.language = options.decoding.language
        self.segments: list[TranscriptSegment] = []
        self._detecting = detect and options.decoding.language is None
        self._votes: dict[str, float] = {}
        self._n_votes = 0
        self._chunker = Chunker(options.chunking, options.vad)
        self._order = ReorderBuffer()
        self._parts: dict[int, _Part] = {}
        self._held: list[_Part] = []
        self._in_flight: dict[str, _Part] = {}
        self._contexts: dict[int, tuple[int, ...]] = {}
        self._n_parts = 0
        self._n_chunks = 0
        self._ended = False

    @property
    def duration_s(self) -> float:
        """Seconds of audio taken so far."""
        return self._chunker.n_samples / SAMPLE_RATE

    @property
    def n_unfinished(self) -> int:
        """Parts of the file that are not final yet: what bounds how far ahead to read."""
        return len(self._parts) + self._order.n_held

    @property
    def done(self) -> bool:
        return self._ended and not self._parts

    def push(self, pcm: npt.NDArray[np.int16]) -> list[Chunk]:
        """Take the file's next samples; returns chunks to decode."""
        return self._take(self._chunker.push(pcm))

    def finish(self) -> list[Chunk]:
        """The file has ended; returns chunks to decode."""
        self._ended = True
        return self._take(self._chunker.finish())

    def accept(self, result: ChunkResult) -> Progress:
        """Take a chunk's result. A second result of the same chunk is ignored."""
        part = self._in_flight.pop(result.key, None)
        if part is None:
            return Progress([], [])
        if result.finish_reason == "detected":
            self._vote(result)
            return Progress(self._release(), [])
        if self.language is None:
            self.language = result.language
        return self._judge(part, result)

    def transcript(self) -> Transcript:
        """The file's text so far."""
        return Transcript(
            text="".join(segment.text for segment in self.segments).strip(),
            language=self.language or "en",
            duration_s=self.duration_s,
            task=self.options.decoding.task,
            segments=tuple(self.segments),
        )

    def _take(self, pieces: Iterable[Piece]) -> list[Chunk]:
        for piece in pieces:
            part = _Part(self._n_parts, piece)
            self._n_parts += 1
            self._parts[part.index] = part
            self._held.append(part)
        return self._release()

    def _release(self) -> list[Chunk]:
        """Let held parts go once the language is known."""
        if self._detecting:
            return self._detect()
        ready = [part for part in self._held if self._has_context(part.index)]
        self._held = [part for part in self._held if part not in ready]
        return [self._chunk(part) for part in ready]

    def _has_context(self, index: int) -> bool:
        return self._begins_row(index) or index in self._contexts

    def _begins_row(self, index: int) -> bool:
        return index % self.options.context_chunks == 0

    def _detect(self) -> list[Chunk]:
        """Ask the next part for the language. A file of one part needs no separate asking."""
        if self._in_flight or (self._n_parts <= max(1, self._n_votes) and not self._ended):
            return []
        if self._n_parts > self._n_votes and self._n_parts > 1:
            return [self._chunk(self._held[self._n_votes], detect=True)]
        self._decide()
        return self._release()

    def _vote(self, result: ChunkResult) -> None:
        self._n_votes += 1
        language, probability = result.language, result.language_prob
        self._votes[language] = self._votes.get(language, 0.0) + probability
        if probability >= 0.5 or self._n_votes >= self.options.detections:
            self._decide()

    def _decide(self) -> None:
        self._detecting = False
        if self._votes:
            self.language = max(self._votes, key=self._votes.__getitem__)

    def _judge(self, part: _Part, result: ChunkResult) -> Progress:
        fallback = self.options.fallback
        part.tried.append(result)
        more = len(part.tried) < len(fallback.temperatures)
        if more and looks_wrong(result, fallback):
            return Progress([self._chunk(part)], [])
        return self._settle(part, best_result(part.tried, fallback))

    def _settle(self, part: _Part, result: ChunkResult) -> Progress:
        """Keep a result, and go on with what it left undecoded."""
        part.tried = []
        if is_silence(result, self.options.fallback):
            return self._emit(part)
        segments = place_segments(part.piece, result)
        start = undecoded_from(part.piece, result, self.options.tail_s)
        if start is None:
            part.segments += segments
            return self._emit(part)
        # A segment that the token limit cut off is decoded again with the rest.
        part.segments += segments if result.segments[-1].end_s is not None else segments[:-1]
        part.piece = part.piece.tail(start)
        return Progress([self._chunk(part)], [])

    def _emit(self, part: _Part) -> Progress:
        """A part is final: its segments get in line, its text becomes the next part's prompt."""
        del self._parts[part.index]
        self._hand_on_context(part)
        ready = list(self._order.put(part.index, part.segments))
        self.segments += ready
        return Progress(self._release(), ready)

    def _hand_on_context(self, part: _Part) -> None:
        context = self._contexts.pop(part.index, ())
        if self._begins_row(part.index + 1):
            return
        # Hot text is a guess, and guesses breed: as openai/whisper, start afresh behind one.
        hot = any(segment.temperature > MAX_CONTEXT_TEMPERATURE for segment in part.segments)
        tokens = tuple(token for segment in part.segments for token in segment.tokens)
        self._contexts[part.index + 1] = () if hot else (context + tokens)[-MAX_CONTEXT_TOKENS:]

    def _chunk(self, part: _Part, detect: bool = False) -> Chunk:
        decoding = replace(
            self.options.decoding,
            language=self.language,
            temperature=self.options.fallback.temperatures[len(part.tried)],
            seed=part.index,
            previous_tokens=self._contexts.get(part.index, ()),
        )
        if detect:
            decoding = replace(decoding, task="detect_language")
        chunk = Chunk(
            request_id=self.request_id,
            index=self._n_chunks,
            pcm=part.piece.pcm,
            options=decoding,
            priority=self.options.priority,
        )
        self._n_chunks += 1
        self._in_flight[chunk.key] = part
        return chunk

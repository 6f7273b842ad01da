"""One file's way from audio to transcript, as a state machine that does no input or output.

Audio goes in, chunks to decode come out; their results go in, in any order, and final segments come
out in file order. Whoever drives it (the command line over a local engine, the ingress over
replicas) only carries chunks to engines and results back.
"""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from deployments.cascade import LANGUAGE, PROBABILITY, Ladder
from deployments.chunking import Chunker, ChunkingOptions, Piece
from deployments.context import RowContext, with_text
from deployments.fallback import FallbackOptions, best_result, is_silence, looks_wrong
from deployments.language import LanguageVote
from deployments.messages import (
    Chunk,
    ChunkResult,
    Escalation,
    Transcript,
    TranscriptSegment,
    key_of_chunk,
)
from deployments.stitching import (
    ReorderBuffer,
    is_cut_short,
    place_segments,
    repeats_itself,
    undecoded_from,
)
from deployments.trials import Trial, Trials
from deployments.vad import VadOptions
from engine import SAMPLE_RATE, DecodingOptions

MIN_SPLIT_S = 4.0
"""A piece whose text does not fit the token limit is halved, down to this length."""


@dataclass(frozen=True, slots=True)
class TranscriptionOptions:
    """What a caller asks of a file.

    Args:
        decoding: options of every chunk. Its language None means that the file's first speech
            tells the language of all of it. Temperatures are those of `fallback`, and previous
            tokens come from the file itself, so neither may be set here.
        fallback: when to decode again.
        detections: chunks that may be asked for the language, one after another, until one is
            sure of it (a probability of one half).
        tail_s: speech that a chunk leaves without text is decoded again if it is longer than this.
        ladder: None: all chunks go to one tier. It needs `context_chunks` 1: a tier's tokens mean
            something else to another one.
        context_chunks: length of a row of chunks that are decoded one after another, each with the
            text of those before it as its prompt; rows run side by side. 1: every chunk alone, all
            at once.
    """

    decoding: DecodingOptions = field(default_factory=DecodingOptions)
    fallback: FallbackOptions = field(default_factory=FallbackOptions)
    chunking: ChunkingOptions = field(default_factory=ChunkingOptions)
    vad: VadOptions = field(default_factory=VadOptions)
    detections: int = 3
    tail_s: float = 1.0
    context_chunks: int = 1
    priority: int = 0
    ladder: Ladder | None = None

    def __post_init__(self) -> None:
        if self.context_chunks < 1:
            raise ValueError(f"context_chunks must be at least 1, got {self.context_chunks}")
        if self.ladder is not None and self.context_chunks > 1:
            raise ValueError("chunks that are told the text before them stay on one tier")
        if self.detections < 1:
            raise ValueError(f"detections must be at least 1, got {self.detections}")
        if self.decoding.task == "detect_language":
            raise ValueError("a file is transcribed or translated; detection is a part of both")
        if self.decoding.temperature != 0.0:
            raise ValueError("set the temperatures in fallback, not in decoding")
        if self.decoding.previous_tokens:
            raise ValueError("previous tokens come from the file: set a prompt instead")


@dataclass(eq=False)
class _Part:
    """A piece of the file: what is being decoded of it, what is left, and what there is already.

    `tried` holds the results for `piece` of the tier that it has come to; `above` is the quality
    that this has more of; `doubted` and `escalation` are the last of the tiers before it, `lower`
    their surest result of which nothing else was wrong; `trials` are those that wait for what comes
    of it, and `stays` says that one of them kept it from a better tier; `n_done` counts the pieces
    before this one.
    """

    index: int
    piece: Piece
    rest: list[Piece] = field(default_factory=list)
    segments: list[TranscriptSegment] = field(default_factory=list)
    tried: list[ChunkResult] = field(default_factory=list)
    above: int | None = None
    doubted: ChunkResult | None = None
    escalation: Escalation | None = None
    lower: ChunkResult | None = None
    trials: list[Trial] = field(default_factory=list)
    stays: bool = False
    n_done: int = 0

    @property
    def duration_s(self) -> float:
        """Of the audio that is not decoded yet."""
        return self.piece.duration_s + sum(piece.duration_s for piece in self.rest)


@dataclass(frozen=True, slots=True)
class Progress:
    """What a result leads to: chunks to decode, and segments that are final now."""

    chunks: list[Chunk]
    segments: list[TranscriptSegment]


@dataclass(frozen=True, slots=True)
class _Attempt:
    """How a piece is decoded: at which temperature, and with which text before it."""

    temperature: float
    context: tuple[int, ...]


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
        self.escalations: list[Escalation] = []
        detecting = detect and self.language is None
        self._vote = LanguageVote(options.detections) if detecting else None
        self._chunker = Chunker(options.chunking, options.vad)
        self._context = RowContext(options.context_chunks)
        self._order = ReorderBuffer()
        self._parts: dict[int, _Part] = {}
        self._held: list[_Part] = []
        self._in_flight: dict[str, _Part] = {}
        self._trials: Trials[_Part] = Trials()
        self._n_parts = 0
        self._n_chunks = 0
        self._ended = False

    @property
    def duration_s(self) -> float:
        """Seconds of audio taken so far."""
        return self._chunker.n_samples / SAMPLE_RATE

    @property
    def n_in_flight(self) -> int:
        """Chunks that were given out and whose results are awaited."""
        return len(self._in_flight)

    @property
    def n_unfinished(self) -> int:
        """Parts of the file that are not final yet: what bounds how far ahead to read."""
        return len(self._parts) + self._order.n_held

    @property
    def unfinished_s(self) -> float:
        """Seconds of audio in parts that are not final yet."""
        return sum(part.duration_s for part in self._parts.values())

    @property
    def ended(self) -> bool:
        """Whether the file's end was reached."""
        return self._ended

    @property
    def done(self) -> bool:
        return self._ended and not self._parts

    def span_s(self, key: str) -> tuple[float, float]:
        """Where a chunk's audio lies in the file, from start to end in seconds.

        Args:
            key: of a chunk whose result is awaited, without the attempt.
        """
        piece = self._in_flight[key].piece
        return piece.file_time_s(0), piece.file_time_s(piece.duration_s, is_end=True)

    def push(self, pcm: npt.NDArray[np.int16]) -> list[Chunk]:
        """Take the file's next samples; returns chunks to decode."""
        return self.take(self.cut(pcm))

    def cut(self, pcm: npt.NDArray[np.int16]) -> list[Piece]:
        """Find the speech in the file's next samples; returns what `take` is to get. The longer
        part of `push`; it touches nothing that other methods change, so it may run on a thread of
        its own."""
        return list(self._chunker.push(pcm))

    def take(self, pieces: Iterable[Piece]) -> list[Chunk]:
        """Take what `cut` returned, in order; returns chunks to decode."""
        return self._take(pieces)

    def finish(self) -> list[Chunk]:
        """The file has ended; returns chunks to decode."""
        return self.end(self.cut_end())

    def cut_end(self) -> list[Piece]:
        """Find the speech that is left at the file's end; returns what `end` is to get. May run on
        a thread of its own, as `cut`."""
        return list(self._chunker.finish())

    def end(self, pieces: Iterable[Piece]) -> list[Chunk]:
        """Take what `cut_end` returned; returns chunks to decode."""
        self._ended = True
        return self._take(pieces)

    def accept(self, result: ChunkResult) -> Progress:
        """Take a chunk's result, of whichever attempt. A second one of a chunk is ignored."""
        part = self._in_flight.pop(key_of_chunk(result.key), None)
        if part is None:
            return Progress([], [])
        if self._vote is not None and not self._vote.decided:
            self._vote.add(result.language, result.language_prob)
            return Progress(self._release(), [])
        if self.language is None:
            self.language = result.language
        return self._with_followers(self._judge(part, result))

    def give_up(self, key: str) -> Progress | None:
        """Make do with the text that a chunk has already: the better tier that it went to is away.

        Args:
            key: of a chunk whose result is awaited, without the attempt.

        Returns:
            None: it has no text.
        """
        part = self._in_flight[key]
        if part.above is None:  # nothing was tried yet, or its caller named the tier
            return None
        del self._in_flight[key]
        if part.tried:
            tried = best_result(part.tried, self.options.fallback)
            return self._with_followers(self._settle(part, tried))
        assert part.doubted is not None, "a chunk goes up because of a result"
        self.escalations[:] = [each for each in self.escalations if each is not part.escalation]
        if self.language is None:
            self.language = part.doubted.language
        return self._with_followers(self._settle(part, part.lower or part.doubted))

    def transcript(self) -> Transcript:
        """The file's text so far."""
        return Transcript(
            text="".join(segment.text for segment in self.segments).strip(),
            language=self.language or "en",
            duration_s=self.duration_s,
            task=self.options.decoding.task,
            segments=tuple(self.segments),
            escalations=tuple(self.escalations),
        )

    def _take(self, pieces: Iterable[Piece]) -> list[Chunk]:
        for piece in pieces:
            part = _Part(self._n_parts, piece)
            self._n_parts += 1
            self._parts[part.index] = part
            self._held.append(part)
        return self._release()

    def _release(self) -> list[Chunk]:
        """Let held parts go whose language and context are known."""
        if self._vote is not None and not self._vote.decided:
            return self._ask_for_language(self._vote)
        if self._vote is not None and self.language is None:
            self.language = self._vote.language
        ready = [part for part in self._held if self._context.is_known(part.index)]
        self._held = [part for part in self._held if not self._context.is_known(part.index)]
        return [self._chunk(part) for part in ready]

    def _ask_for_language(self, vote: LanguageVote) -> list[Chunk]:
        """Ask the next part for the language. A file of one part needs no separate asking."""
        if self._in_flight or (self._n_parts <= max(1, vote.n_votes) and not self._ended):
            return []
        if self._n_parts > vote.n_votes and self._n_parts > 1:
            part = self._held[vote.n_votes]
            asking = replace(self.options.decoding, task="detect_language")
            return [self._submit(part, asking)]
        vote.close()
        return self._release()

    def _judge(self, part: _Part, result: ChunkResult) -> Progress:
        part.tried.append(result)
        reason = self._doubt(part, result)
        if reason is None:
            return self._go_on(part)
        ladder = self.options.ladder
        if reason != LANGUAGE and ladder is not None and ladder.options.is_hopeless(result):
            trial = self._trials.join(result.model, part)
            if trial is None:
                return Progress([], [])
            part.trials.append(trial)
        return self._escalate(part, reason)

    def _doubt(self, part: _Part, result: ChunkResult) -> str | None:
        """Why a better tier is to try, and not this one hotter: what a small model does not hear,
        it does not hear at any temperature."""
        ladder = self.options.ladder
        if ladder is None or part.stays:
            return None
        if not ladder.options.is_hopeless(result):
            self._end_trials(part, helped=True)
        above = ladder.above(result.model, self.language, self.options.decoding.task)
        if above is None:  # what it is tried at now, no other tier is asked for
            part.above = ladder.below_best(self.language, self.options.decoding.task)
            return None
        return ladder.options.doubt(result, self.language)

    def _escalate(self, part: _Part, reason: str) -> Progress:
        """Have a better tier try."""
        ladder, result = self.options.ladder, part.tried[-1]
        assert ladder is not None, "without one nothing is doubted"
        part.escalation = Escalation(result.model, reason)
        self.escalations.append(part.escalation)
        if reason == PROBABILITY and not ladder.options.prefers(part.lower, result):
            part.lower = result
        if reason == LANGUAGE and self._n_parts == 1:
            self.language = self.options.decoding.language  # the better model may tell another
        part.doubted = result
        part.above = ladder.above(result.model, self.language, self.options.decoding.task)
        part.tried = []
        return Progress([self._chunk(part)], [])

    def _end_trials(self, part: _Part, helped: bool) -> None:
        for trial in part.trials:
            self._trials.end(trial, helped)
        part.trials = []

    def _with_followers(self, progress: Progress) -> Progress:
        """Progress, and that of the parts that waited for a trial which has ended."""
        released = self._trials.released()
        for part, helped in released:
            more = self._follow(part, helped)
            progress = Progress(progress.chunks + more.chunks, progress.segments + more.segments)
        return self._with_followers(progress) if released else progress

    def _follow(self, part: _Part, helped: bool) -> Progress:
        reason = self._doubt(part, part.tried[-1]) if helped else None
        part.stays = not helped
        return self._go_on(part) if reason is None else self._escalate(part, reason)

    def _go_on(self, part: _Part) -> Progress:
        """Another attempt at the same tier if the last one looks wrong, or what there is."""
        result, attempts = part.tried[-1], self._attempts(part)
        used_context = bool(attempts[len(part.tried) - 1].context)
        more = len(part.tried) < len(attempts)
        suspect = used_context and self._is_misled(part.piece, result)
        if more and (suspect or looks_wrong(result, self.options.fallback)):
            return Progress([self._chunk(part)], [])
        return self._settle(part, best_result(part.tried, self.options.fallback))

    def _is_misled(self, piece: Piece, result: ChunkResult) -> bool:
        """Whether the text before it may have led a model astray: into a loop, or past a sentence,
        which shows in text that ends early. What is really so shows again without that text."""
        left_out = undecoded_from(piece, result, 2 * self.options.tail_s) is not None
        return left_out or repeats_itself(result)

    def _attempts(self, part: _Part) -> list[_Attempt]:
        """With the text before it, without, and then hotter."""
        first, *hotter = self.options.fallback.temperatures
        context = with_text(self._context.tokens(part.index), part.segments)
        attempts = [_Attempt(first, ()), *(_Attempt(temperature, ()) for temperature in hotter)]
        has_context = self.options.context_chunks > 1 and context
        return [_Attempt(first, context), *attempts] if has_context else attempts

    def _settle(self, part: _Part, result: ChunkResult) -> Progress:
        """Keep a result, and go on with what it left undecoded."""
        ladder = self.options.ladder
        if part.lower is not None and ladder is not None:
            result = part.lower if ladder.options.prefers(part.lower, result) else result
        self._end_trials(part, helped=False)
        part.tried, part.n_done, part.stays = [], part.n_done + 1, False
        part.above = part.lower = part.doubted = part.escalation = None
        if not is_silence(result, self.options.fallback):
            self._keep(part, result)
        if not part.rest:
            return self._emit(part)
        part.piece = part.rest.pop(0)
        return Progress([self._chunk(part)], [])

    def _keep(self, part: _Part, result: ChunkResult) -> None:
        """Add a result's segments to its part, and what it left undecoded to the part's rest."""
        segments = place_segments(part.piece, result)
        start = undecoded_from(part.piece, result, self.options.tail_s)
        if start is not None:
            part.rest.insert(0, part.piece.tail(start))
            # A segment that the token limit cut off is decoded again with the rest.
            segments = segments if result.segments[-1].end_s is not None else segments[:-1]
        elif is_cut_short(result) and self._may_split(part.piece):
            part.rest[:0] = part.piece.halves()
            segments = []
        part.segments += segments

    def _may_split(self, piece: Piece) -> bool:
        limited_by_caller = self.options.decoding.max_new_tokens is not None
        return not limited_by_caller and piece.duration_s >= MIN_SPLIT_S

    def _emit(self, part: _Part) -> Progress:
        """A part is final: its segments get in line, its text becomes the next part's context."""
        del self._parts[part.index]
        self._context.hand_on(part.index, part.segments)
        ready = list(self._order.put(part.index, part.segments))
        self.segments += ready
        return Progress(self._release(), ready)

    def _chunk(self, part: _Part) -> Chunk:
        attempt = self._attempts(part)[len(part.tried)]
        place = f"{part.index}/{part.n_done}/{len(part.tried)}"
        decoding = replace(
            self.options.decoding,
            language=self.language,
            temperature=attempt.temperature,
            previous_tokens=attempt.context,
            # Of the place in the file alone: the same file gives the same text again.
            seed=self.options.decoding.seed + zlib.crc32(place.encode()),
        )
        return self._submit(part, decoding, part.above)

    def _submit(self, part: _Part, decoding: DecodingOptions, above: int | None = None) -> Chunk:
        chunk = Chunk(
            request_id=self.request_id,
            index=self._n_chunks,
            pcm=part.piece.pcm,
            options=decoding,
            priority=self.options.priority,
            above=above,
        )
        self._n_chunks += 1
        self._in_flight[key_of_chunk(chunk.key)] = part
        return chunk

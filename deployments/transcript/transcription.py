"""One file's way from audio to transcript, as a state machine that does no input or output.

Audio goes in, and chunks to decode come out. Their results go in, in any order, and final segments
come out in file order. The caller (the command line with a local engine, the ingress with replicas)
only carries chunks to engines and results back.
"""

import zlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from deployments.audio.report import MADE_UP, AudioReport
from deployments.messages import (
    Chunk,
    ChunkResult,
    Escalation,
    Transcript,
    TranscriptSegment,
    key_of_chunk,
)
from deployments.transcript.attempts import Attempts, Next, Part
from deployments.transcript.chunking import Chunker
from deployments.transcript.context import RowContext
from deployments.transcript.hallucination import without_made_up
from deployments.transcript.language import LanguageVote
from deployments.transcript.options import TranscriptionOptions
from deployments.transcript.piece import Piece
from deployments.transcript.stitching import ReorderBuffer, words_behind
from engine import SAMPLE_RATE, DecodingOptions, Window


@dataclass(frozen=True, slots=True)
class Progress:
    """What a result leads to: chunks to decode, and segments that are now final."""

    chunks: list[Chunk]
    segments: list[TranscriptSegment]


class Transcription:
    """State of one file.

    Args:
        request_id: unique; part of every chunk's key.
        detect: whether the model knows several languages, so that the file's language is to be
            detected unless `options` gives it.
    """

    def __init__(self, request_id: str, options: TranscriptionOptions, detect: bool) -> None:
        self.request_id = request_id
        self.options = options
        self.report = AudioReport()
        """To be filled by whoever reads the file's audio."""
        self.segments: list[TranscriptSegment] = []
        self._attempts = Attempts(options)
        by_file = not options.multilingual and options.decoding.language is None
        detecting = detect and by_file
        sure = None if options.only_language else LanguageVote.SURE
        self._vote = LanguageVote(options.detections, sure) if detecting else None
        self._chunker = Chunker(options.chunking, options.vad)
        self._context = RowContext(options.context_chunks)
        self._order = ReorderBuffer()
        self._parts: dict[int, Part] = {}
        self._held: list[Part] = []
        self._in_flight: dict[str, Part] = {}
        self._n_parts = 0
        self._n_chunks = 0
        self._words_end_s = 0.0
        self._ended = False

    @property
    def language(self) -> str | None:
        """ISO code; None while it is unknown."""
        return self._attempts.language

    @property
    def escalations(self) -> list[Escalation]:
        """Chunks that went to a more accurate tier so far."""
        return self._attempts.escalations

    @property
    def n_whole_again(self) -> int:
        """Chunks so far whose text from a short window was not taken."""
        return self._attempts.n_whole_again

    @property
    def duration_s(self) -> float:
        """Seconds of audio taken so far."""
        return self._chunker.n_samples / SAMPLE_RATE

    @property
    def n_in_flight(self) -> int:
        """Number of chunks that were handed out and whose results are awaited."""
        return len(self._in_flight)

    @property
    def n_unfinished(self) -> int:
        """Number of parts that are not final or wait for earlier ones. It bounds how far to read
        ahead."""
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
        """Start and end of a chunk's audio in the file, in seconds.

        Args:
            key: key of a chunk whose result is awaited, without the attempt.
        """
        return self._in_flight[key].piece.span_s

    def push(self, pcm: npt.NDArray[np.int16]) -> list[Chunk]:
        """Take the file's next samples; returns chunks to decode."""
        return self.take(self.cut(pcm))

    def cut(self, pcm: npt.NDArray[np.int16]) -> list[Piece]:
        """Find the speech in the file's next samples; returns pieces for `take`. This is the longer
        part of `push`. It touches nothing that other methods change, so it may run on a thread of
        its own."""
        return list(self._chunker.push(pcm))

    def take(self, pieces: Iterable[Piece]) -> list[Chunk]:
        """Take what `cut` returned, in order; returns chunks to decode."""
        return self._take(pieces)

    def finish(self) -> list[Chunk]:
        """Take the end of the file; returns chunks to decode."""
        return self.end(self.cut_end())

    def cut_end(self) -> list[Piece]:
        """Find the speech that is left at the file's end; returns pieces for `end`. Like `cut`, it
        may run on a thread of its own."""
        return list(self._chunker.finish())

    def end(self, pieces: Iterable[Piece]) -> list[Chunk]:
        """Take what `cut_end` returned; returns chunks to decode."""
        self._ended = True
        return self._take(pieces)

    def accept(self, result: ChunkResult) -> Progress:
        """Take a chunk's result, from whichever attempt. A second result for a chunk is ignored."""
        part = self._in_flight.pop(key_of_chunk(result.key), None)
        if part is None:
            return Progress([], [])
        if self._vote is not None and not self._vote.decided:
            self._vote.add(result.language_probs or [(result.language, result.language_prob)])
            return Progress(self._release(), [])
        is_only = self._n_parts == 1
        return self._after(part, self._attempts.judge(part, result, is_only))

    def give_up(self, key: str) -> Progress | None:
        """Make do with the text that a chunk already has, because the better tier that it went to
        is unavailable.

        Args:
            key: key of a chunk whose result is awaited, without the attempt.

        Returns:
            None if the chunk has no text.
        """
        part = self._in_flight[key]
        what = self._attempts.give_up(part)
        if what is None:
            return None
        del self._in_flight[key]
        return self._after(part, what)

    def transcript(self) -> Transcript:
        """The file's text so far."""
        ranking = self._vote.ranking if self.options.only_language and self._vote else ()
        return Transcript(
            text="".join(segment.text for segment in self.segments).strip(),
            language=self._main_language(),
            languages=tuple(dict.fromkeys(segment.language for segment in self.segments)),
            duration_s=self.duration_s,
            task="detect_language" if self.options.only_language else self.options.decoding.task,
            segments=tuple(self.segments),
            escalations=tuple(self.escalations),
            warnings=tuple(self.report.warnings),
            audio=self.report.info,
            language_probs=ranking,
        )

    def _main_language(self) -> str:
        """The language of the file, or the one in which most was said; empty if nothing was."""
        if self.options.only_language and self._vote is not None:
            return self._vote.language or ""
        if not self.segments:
            return ""
        if not self.options.multilingual:
            return self.language or "en"
        said_s: dict[str, float] = defaultdict(float)
        for segment in self.segments:
            said_s[segment.language] += segment.end_s - segment.start_s
        return max(said_s, key=said_s.__getitem__)

    def _take(self, pieces: Iterable[Piece]) -> list[Chunk]:
        for piece in pieces:
            part = Part(self._n_parts, piece)
            self._n_parts += 1
            self._parts[part.index] = part
            self._held.append(part)
        return self._release()

    def _release(self) -> list[Chunk]:
        """Let go of held parts whose language and context are known."""
        if self._vote is not None and not self._vote.decided:
            return self._ask_for_language(self._vote)
        if self.options.only_language:
            self._ended, self._held, self._parts = True, [], {}
            return []
        if self._vote is not None and self.language is None:
            self._attempts.language = self._vote.language
        ready = [part for part in self._held if self._context.is_known(part.index)]
        self._held = [part for part in self._held if not self._context.is_known(part.index)]
        for part in ready:
            part.context = self._context.tokens(part.index)
        return [self._chunk(part) for part in ready]

    def _ask_for_language(self, vote: LanguageVote) -> list[Chunk]:
        """Ask the next part for the language. A file of one part is not asked separately, unless
        nothing else is asked for."""
        enough = 1 if self.options.only_language else 2
        if self._in_flight or (self._n_parts < max(enough, vote.n_votes + 1) and not self._ended):
            return []
        if self._n_parts > vote.n_votes and self._n_parts >= enough:
            part = self._held[vote.n_votes]
            asking = replace(self.options.decoding, task="detect_language")
            return [self._submit(part, asking, whole_window=True)]
        vote.close()
        return self._release()

    def _after(self, part: Part, what: Next) -> Progress:
        """Do what comes next for a part, and for those that waited for its trial."""
        progress = self._go(part, what)
        while released := self._attempts.released():
            for follower, then in released:
                more = self._go(follower, then)
                progress = Progress(
                    progress.chunks + more.chunks, progress.segments + more.segments
                )
        return progress

    def _go(self, part: Part, what: Next) -> Progress:
        if what is Next.DECODE:
            return Progress([self._chunk(part)], [])
        return self._emit(part) if what is Next.EMIT else Progress([], [])

    def _emit(self, part: Part) -> Progress:
        """Finish a part: its segments get in line, and its text becomes the next part's context."""
        del self._parts[part.index]
        self._drop_made_up(part)
        self._context.hand_on(part.index, part.segments)
        ready = []
        for segment in self._order.put(part.index, part.segments):
            segment = words_behind(segment, self._words_end_s)
            self._words_end_s = segment.words[-1].end_s if segment.words else self._words_end_s
            ready.append(segment if self.options.with_words else replace(segment, words=()))
        self.segments += ready
        return Progress(self._release(), ready)

    def _drop_made_up(self, part: Part) -> None:
        """Leave out what looks made up, if the caller wishes so, and say it."""
        if self.options.hallucination_silence_threshold is None:
            return
        part.segments, dropped = without_made_up(
            part.segments, part.span_s, self.options.hallucination_silence_threshold
        )
        for segment in dropped:
            text = f"{segment.text.strip()!r} looked made up and was left out"
            self.report.warn(MADE_UP, text, segment.start_s, segment.end_s)

    def _chunk(self, part: Part) -> Chunk:
        attempt = self._attempts.next(part)
        place = f"{part.index}/{part.n_done}/{len(part.tried)}"
        asked = self.options.decoding
        decoding = replace(
            asked,
            keywords=asked.keywords if attempt.prompted else (),
            keyword_weights=asked.keyword_weights if attempt.prompted else (),
            prompt=asked.prompt if attempt.prompted else None,
            language=self._attempts.language_of(part),
            temperature=attempt.temperature,
            beam_size=attempt.beam_size,
            previous_tokens=attempt.context,
            # It depends only on the place in the file, so the same file gives the same text again.
            seed=asked.seed + zlib.crc32(place.encode()),
        )
        return self._submit(part, decoding, attempt.whole_window, part.above)

    def _submit(
        self, part: Part, decoding: DecodingOptions, whole_window: bool, above: int | None = None
    ) -> Chunk:
        chunk = Chunk(
            request_id=self.request_id,
            index=self._n_chunks,
            pcm=part.piece.pcm,
            options=decoding,
            priority=self.options.priority,
            above=above,
            speech=tuple(part.piece.speech_at()) if decoding.words else (),
            window=Window.EXACT if whole_window else None,
        )
        self._n_chunks += 1
        self._in_flight[key_of_chunk(chunk.key)] = part
        return chunk

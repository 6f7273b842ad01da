"""Chunk results -> segments on the file's clock, in file order."""

from collections.abc import Iterator

from deployments.messages import ChunkResult, TranscriptSegment
from deployments.transcript.chunking import Piece
from engine import SAMPLE_RATE, Segment

MIN_PROGRESS_S = 1.0
"""Of a chunk, before the rest of it is decoded again: bounds how often that can happen."""


def place_segments(piece: Piece, result: ChunkResult) -> list[TranscriptSegment]:
    """A chunk's segments on the file's clock. A segment without an end ends with the speech."""
    return [_place(piece, result, segment) for segment in result.segments]


def undecoded_from(piece: Piece, result: ChunkResult, tolerance_s: float) -> int | None:
    """The sample of a piece from which speech is left without text; None if there is none.

    The model may end a chunk early: its last timestamp precedes the last speech by more than
    `tolerance_s`, or the token limit cut the text off, in which case its open segment is decoded
    again from its start. A chunk without any text is not tried again, nor one that got nowhere.
    """
    if not result.segments:
        return None
    last = result.segments[-1]
    if last.end_s is None and result.finish_reason != "length":
        return None
    start_s = last.start_s if last.end_s is None else last.end_s
    start = round(start_s * SAMPLE_RATE)
    speech_end = piece.chunk_sample(piece.speech[-1].end)
    if start_s < MIN_PROGRESS_S or speech_end - start <= tolerance_s * SAMPLE_RATE:
        return None
    return start


def is_cut_short(result: ChunkResult) -> bool:
    """Whether the token limit cut the text off with no timestamp to tell where."""
    if result.finish_reason != "length" or not result.segments:
        return False
    last = result.segments[-1]
    return last.end_s is None and last.start_s < MIN_PROGRESS_S


def repeats_itself(result: ChunkResult) -> bool:
    """Whether three segments in a row say the same, as where a model is caught in a loop."""
    texts = [segment.text.strip().lower() for segment in result.segments]
    return any(a == b == c for a, b, c in zip(texts, texts[1:], texts[2:], strict=False))


class ReorderBuffer:
    """Lets parts through in order of their index, however they come in."""

    def __init__(self) -> None:
        self._next = 0
        self._done: dict[int, list[TranscriptSegment]] = {}

    @property
    def n_held(self) -> int:
        return len(self._done)

    def put(self, index: int, segments: list[TranscriptSegment]) -> Iterator[TranscriptSegment]:
        """Add the final segments of one part; yields those whose turn has come."""
        self._done[index] = segments
        while self._next in self._done:
            yield from self._done.pop(self._next)
            self._next += 1


def _place(piece: Piece, result: ChunkResult, segment: Segment) -> TranscriptSegment:
    start_s = piece.file_time_s(segment.start_s)
    if segment.end_s is None:
        end_s = piece.speech[-1].end / SAMPLE_RATE
    else:
        end_s = piece.file_time_s(segment.end_s, is_end=True)
    return TranscriptSegment(
        start_s=start_s,
        end_s=max(start_s, end_s),
        text=segment.text,
        tokens=segment.tokens,
        temperature=result.temperature,
        avg_logprob=result.avg_logprob,
        compression_ratio=result.compression_ratio,
        no_speech_prob=result.no_speech_prob,
        model=result.model,
        logprobs=segment.logprobs,
    )

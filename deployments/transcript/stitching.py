"""Chunk results -> segments on the file's clock, in file order."""

from collections.abc import Iterator
from dataclasses import replace

from deployments.messages import ChunkResult, TranscriptSegment
from deployments.transcript.piece import Piece
from engine import SAMPLE_RATE, Segment, Word
from engine.config import TIME_PRECISION_S


def place_segment(piece: Piece, result: ChunkResult, segment: Segment) -> TranscriptSegment:
    """A chunk's segment on the file's clock. A segment without an end ends with the speech, and one
    with words begins and ends with them."""
    words = tuple(_place_word(piece, word) for word in segment.words)
    start_s = words[0].start_s if words else piece.file_time_s(segment.start_s)
    if words:
        end_s = words[-1].end_s
    elif segment.end_s is None:
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
        words=words,
        language=result.language,
    )


def words_behind(segment: TranscriptSegment, earliest_s: float) -> TranscriptSegment:
    """A segment whose words begin no earlier than what was said before them ended: two looks at the
    same audio may disagree by a few frames."""
    words = []
    for word in segment.words:
        start_s = max(word.start_s, earliest_s)
        earliest_s = max(word.end_s, start_s + TIME_PRECISION_S)
        words.append(replace(word, start_s=start_s, end_s=earliest_s))
    if not words:
        return segment
    return replace(segment, start_s=words[0].start_s, end_s=words[-1].end_s, words=tuple(words))


def _place_word(piece: Piece, word: Word) -> Word:
    start_s = piece.file_time_s(word.start_s)
    return replace(word, start_s=start_s, end_s=piece.file_time_s(word.end_s, is_end=True))


def repeats_itself(result: ChunkResult) -> bool:
    """Whether three segments in a row say the same, as when a model is caught in a loop."""
    texts = [segment.text.strip().lower() for segment in result.segments]
    return any(a == b == c for a, b, c in zip(texts, texts[1:], texts[2:], strict=False))


class ReorderBuffer:
    """Lets parts out in the order of their index, whatever order they come in."""

    def __init__(self) -> None:
        self._next = 0
        self._done: dict[int, list[TranscriptSegment]] = {}

    @property
    def n_held(self) -> int:
        return len(self._done)

    def put(self, index: int, segments: list[TranscriptSegment]) -> Iterator[TranscriptSegment]:
        """Add the final segments of one part; yields all segments whose turn has come."""
        self._done[index] = segments
        while self._next in self._done:
            yield from self._done.pop(self._next)
            self._next += 1

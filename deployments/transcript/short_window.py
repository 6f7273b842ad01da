"""Whether to take the text of a short window, in which the encoder did not see all 30 s.

Whisper has learnt that silence fills the window behind the speech. Where too little of it follows,
a model may go on after the last word, until the token limit, or repeat what it wrote, and that
shows. Then the whole window is decoded, and its text is judged like any other. How probable a text
is tells little about its window: docs/decisions.md says how the limits were chosen.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from deployments.messages import ChunkResult
from deployments.transcript.cascade import token_prob
from deployments.transcript.echo import outruns_speech
from deployments.transcript.piece import Piece
from deployments.transcript.scripts import words
from engine import SAMPLE_RATE

_MIN_REPEATED = 2
_LATE_S = 2.0
"""Ends are often given a second too late, where the window is short. Loops run on for longer."""


@dataclass(frozen=True, slots=True)
class ShortWindowOptions:
    """When the text of a short window is doubted.

    Args:
        min_token_prob: text whose tokens are less probable than this on average.
        max_compression_ratio: text that compresses better than this.
        max_no_speech_prob: a chunk taken for silence with more than this probability.
        min_language_prob: a chunk whose language was told from itself with less than this.
    """

    min_token_prob: float = 0.5
    max_compression_ratio: float = 2.0
    max_no_speech_prob: float = 0.6
    min_language_prob: float = 0.5

    def doubt(self, piece: Piece, result: ChunkResult) -> str | None:
        """Why the text of a short window is not taken, in one word; None: it is."""
        text = "".join(segment.text for segment in result.segments)
        if result.finish_reason != "stop":
            return "length"
        if not words(text):
            return "empty"
        if result.language_prob < self.min_language_prob:
            return "language"
        if result.no_speech_prob > self.max_no_speech_prob:
            return "no_speech"
        if result.compression_ratio > self.max_compression_ratio or repeats_at_once(words(text)):
            return "repetition"
        if token_prob(result) < self.min_token_prob:
            return "probability"
        if outruns_speech(result.segments, piece.voiced_s(0, len(piece.pcm))):
            return "coverage"
        return "time" if _ends_behind(piece, result) else None


def repeats_at_once(said: Sequence[str]) -> bool:
    """Whether at least two words are said twice in a row."""
    for size in range(_MIN_REPEATED, len(said) // 2 + 1):
        for at in range(len(said) - 2 * size + 1):
            if said[at : at + size] == said[at + size : at + 2 * size]:
                return True
    return False


def _ends_behind(piece: Piece, result: ChunkResult) -> bool:
    """Whether a text is said to go on behind the chunk, in the silence of its window."""
    last = result.segments[-1]
    late_s = last.start_s if last.end_s is None else last.end_s
    return late_s > len(piece.pcm) / SAMPLE_RATE + _LATE_S

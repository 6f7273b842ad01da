"""Text that a model makes up where nobody speaks: openai/whisper's rule (`hallucination_silence_
threshold` in whisper/transcribe.py), by the times and probabilities of words.

Silence itself is never decoded here, but noise and music may pass for speech. A segment is dropped
if its words look made up and no words are near it, before or after.
"""

from collections.abc import Sequence

from deployments.messages import TranscriptSegment
from engine import Word

_N_WORDS = 8
"""The words at a segment's beginning that are looked at."""
_IMPROBABLE = 0.15
_SHORT_S, _LONG_S = 0.133, 2.0
_PER_SECOND_SHORT = 15.0
_MOST = 3.0
_NEAR_EDGE_S = 2.0
"""A chunk's edges count as silence for what is nearer to them than this."""


def is_made_up(segment: TranscriptSegment) -> bool:
    """Whether words are improbable, or too short or too long to have been said."""
    words = segment.words[:_N_WORDS]
    score = sum(map(_oddness, words))
    return bool(words) and (score >= _MOST or score + 0.01 >= len(words))


def without_made_up(
    segments: Sequence[TranscriptSegment], span_s: tuple[float, float], silence_s: float
) -> tuple[list[TranscriptSegment], list[TranscriptSegment]]:
    """The segments to keep, and those that look made up with silence around them.

    Args:
        segments: of a stretch of the file that was decoded as a whole, in order, with words.
        span_s: start and end of that stretch.
        silence_s: seconds without words, before and after, that count as silence.
    """
    kept: list[TranscriptSegment] = []
    dropped: list[TranscriptSegment] = []
    before_s, stop_s = span_s
    for index, segment in enumerate(segments):
        following = segments[index + 1] if index + 1 < len(segments) else None
        next_s = stop_s if following is None else following.start_s
        silent_before = (
            segment.start_s - before_s > silence_s or segment.start_s - span_s[0] < _NEAR_EDGE_S
        )
        silent_after = (
            next_s - segment.end_s > silence_s
            or stop_s - segment.end_s < _NEAR_EDGE_S
            or (following is not None and is_made_up(following))
        )
        if silent_before and silent_after and is_made_up(segment):
            dropped.append(segment)
        else:
            kept.append(segment)
            before_s = segment.end_s
    return kept, dropped


def _oddness(word: Word) -> float:
    duration_s = word.end_s - word.start_s
    improbable = float(word.probability < _IMPROBABLE)
    short = max(0.0, _SHORT_S - duration_s) * _PER_SECOND_SHORT
    return improbable + short + max(0.0, duration_s - _LONG_S)

"""Text where next to nothing was said: more letters than the clear speech there has room for.

Where there are only clicks and breath, a model that is given a prompt writes down the prompt or its
keywords. Someone who really says these words takes the time that they need.
"""

from collections.abc import Sequence

from deployments.messages import ChunkResult
from deployments.transcript.piece import Piece
from deployments.transcript.scripts import letters, words
from engine import SAMPLE_RATE, Segment

MAX_LETTERS_PER_S = 40.0
"""Per second of clear speech: three times the usual rate, and more than anybody says."""
_NGRAM = 3
_MIN_SHARE = 0.8
_MARGIN = round(0.5 * SAMPLE_RATE)


def outruns_speech(segments: Sequence[Segment], voiced_s: float) -> bool:
    """Whether nobody could say so much in `voiced_s` seconds of clear speech."""
    n_letters = sum(letters(segment.text) for segment in segments)
    return n_letters > MAX_LETTERS_PER_S * voiced_s


def without_echo(piece: Piece, result: ChunkResult, prompt: str | None) -> tuple[Segment, ...]:
    """A result's segments without those that repeat the prompt where there is hardly any speech."""
    if not prompt:
        return result.segments
    return tuple(s for s in result.segments if not _is_echo(piece, s, prompt))


def _is_echo(piece: Piece, segment: Segment, prompt: str) -> bool:
    start = round(segment.start_s * SAMPLE_RATE) - _MARGIN
    stop = len(piece.pcm) if segment.end_s is None else round(segment.end_s * SAMPLE_RATE)
    voiced_s = piece.voiced_s(start, stop + _MARGIN)
    return outruns_speech([segment], voiced_s) and _repeats(segment.text, prompt)


def _repeats(text: str, prompt: str) -> bool:
    """Whether nearly all three-word sequences of a text occur in the prompt. A shorter text must
    occur as a whole."""
    said, given = words(text), words(prompt)
    size = min(_NGRAM, len(said))
    if not size:
        return False
    known = {tuple(given[at : at + size]) for at in range(len(given) - size + 1)}
    ngrams = [tuple(said[at : at + size]) for at in range(len(said) - size + 1)]
    return sum(ngram in known for ngram in ngrams) >= _MIN_SHARE * len(ngrams)

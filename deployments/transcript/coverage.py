"""Speech whose words are missing from a chunk's text: what to keep, and what to decode again.

The model says where its text ends, and is not always right: it may give no end, give an end long
after the words, or skip a sentence. Voice activity detection knows where the speech is, so a text
is checked against that by its letters per second of speech.
"""

from dataclasses import dataclass, replace

from deployments.messages import ChunkResult
from deployments.transcript.piece import Piece
from deployments.transcript.scripts import letters
from engine import SAMPLE_RATE, Segment

MIN_PROGRESS_S = 1.0
"""How far a text must get in a chunk before the rest is decoded again. This bounds how often that
can happen."""
MIN_SPLIT_S = 4.0
"""A piece is not halved below this length."""
_SNAP_S = 1.0
"""A sentence that is said to end less than this after a pause really ended before the pause."""
_SENTENCE_ENDS = tuple(".?!\u2026\u3002\uff1f\uff01\u0964")
_AT_EDGE = round(0.3 * SAMPLE_RATE)
"""Timestamps are no more exact than this (in samples)."""


@dataclass(frozen=True, slots=True)
class CoverageOptions:
    """When words of the speech count as missing.

    Args:
        min_letters_per_s: text with fewer letters per second of clear speech leaves words out. They
            are counted as `scripts.letters` does.
        letters_per_s: the usual rate, which tells how much speech a text may stand for.
        min_missing_s: a text is decoded again only if, by that rate, it leaves at least this much
            speech without words.
        min_voiced_s: audio without any text is decoded again only if it has at least this much
            clear speech.
    """

    min_letters_per_s: float = 8.0
    letters_per_s: float = 12.0
    min_missing_s: float = 2.0
    min_voiced_s: float = 2.0

    def is_thin(self, text: str, voiced_s: float) -> bool:
        """Whether a text has too few letters for the speech that it claims to cover."""
        n_letters = letters(text)
        missing_s = voiced_s - n_letters / self.letters_per_s
        return n_letters < self.min_letters_per_s * voiced_s and missing_s >= self.min_missing_s


@dataclass(frozen=True, slots=True)
class Review:
    """The segments to keep of a chunk's text, and pieces to decode again, in order of time.

    `again` are those of the pieces that should give text that was left out, and more.
    """

    items: tuple[Segment | Piece, ...]
    again: tuple[Piece, ...] = ()

    @property
    def pieces(self) -> list[Piece]:
        return [item for item in self.items if isinstance(item, Piece)]


def review(
    piece: Piece,
    result: ChunkResult,
    tail_s: float,
    options: CoverageOptions,
    may_replace: bool,
    may_halve: bool,
) -> Review:
    """Check a chunk's text against its speech.

    Args:
        tail_s: speech between two segments, or after the last one, is decoded again if it is longer
            than this.
        may_replace: whether to decode again, in halves, audio whose text is too short or got
            nowhere.
        may_halve: whether to decode again, in halves, audio whose text the token limit cut off
            without a timestamp that tells where.
    """
    if not result.segments:
        return Review(())
    items: list[Segment | Piece] = []
    again: list[Piece] = []
    position = 0
    for index, segment in enumerate(result.segments):
        start = _sample(segment.start_s)
        if index and (gap := _gap(piece, position, start, tail_s)) is not None:
            items.append(gap)
        stop = _stop(piece, result, index)
        cut_off = segment.end_s is None and result.finish_reason == "length"
        look = may_replace and not cut_off
        halves = _halves_if_thin(piece, segment, start, stop, options) if look else []
        items += halves or [segment]
        again += halves
        position = stop
    last, done = items[-1], Review(tuple(items), tuple(again))
    tail = _tail(piece, result, tail_s)
    if isinstance(last, Piece):
        # Its halves end where the segment did.
        rest = () if tail is None else (piece.tail(position),)
        return Review((*items, *rest), tuple(again))
    if tail is not None:
        # A segment that the token limit cut off is decoded again with the rest.
        cut_off = last.end_s is None
        ended = [] if cut_off else [_ended_by(piece, last, tail)]
        return Review((*items[:-1], *ended, tail), tuple(again))
    if piece.duration_s >= MIN_SPLIT_S and last.start_s < MIN_PROGRESS_S:
        if last.end_s is None and result.finish_reason == "length":
            return Review((*items[:-1], *piece.halves()), tuple(again)) if may_halve else done
        if may_replace and _got_nowhere(piece, last, tail_s):
            halves = piece.halves()
            return Review((*items[:-1], *halves), (*again, *halves))
    return done


def undecoded_from(piece: Piece, result: ChunkResult, tail_s: float) -> int | None:
    """The sample of a piece from which speech is left after the last segment; None: there is none,
    or nothing tells where.

    Speech is left if the last timestamp precedes its end by more than `tail_s`, or if the token
    limit cut the text off. In the latter case the open segment is decoded again from its start. If
    a sentence is said to end just after a pause, decoding starts from that pause.
    """
    last = result.segments[-1]
    if last.end_s is None and result.finish_reason != "length":
        return None
    start_s = last.start_s if last.end_s is None else last.end_s
    start = _sample(start_s)
    if start_s < MIN_PROGRESS_S or _speech_end(piece) - start <= tail_s * SAMPLE_RATE:
        return None
    if last.end_s is None or not last.text.rstrip().endswith(_SENTENCE_ENDS):
        return start
    return _snapped(piece, start, _sample(last.start_s))


def _tail(piece: Piece, result: ChunkResult, tail_s: float) -> Piece | None:
    start = undecoded_from(piece, result, tail_s)
    return None if start is None else piece.tail(start)


def _got_nowhere(piece: Piece, last: Segment, tail_s: float) -> bool:
    """Whether all of a text ends before `MIN_PROGRESS_S`, and speech goes on."""
    if last.end_s is None or last.end_s >= MIN_PROGRESS_S:
        return False
    return _speech_end(piece) - _sample(last.end_s) > tail_s * SAMPLE_RATE


def _gap(piece: Piece, start: int, stop: int, tail_s: float) -> Piece | None:
    """The piece between two segments if it has whole regions of speech, longer than `tail_s`."""
    between = [
        (begin, end)
        for begin, end in piece.speech_at()
        if begin >= start - _AT_EDGE and end <= stop + _AT_EDGE
    ]
    if sum(end - begin for begin, end in between) <= tail_s * SAMPLE_RATE:
        return None
    return piece.between(min(start, between[0][0]), max(stop, between[-1][1]))


def _halves_if_thin(
    piece: Piece, segment: Segment, start: int, stop: int, options: CoverageOptions
) -> list[Piece]:
    """The audio of a segment with too little text, in two halves, cut near where its words may have
    ended; empty if the text is long enough."""
    # A segment that begins with the chunk includes the silence before it.
    start = 0 if segment.start_s < MIN_PROGRESS_S else start
    stop = min(stop, len(piece.pcm))
    if stop - start < MIN_SPLIT_S * SAMPLE_RATE:
        return []
    if not options.is_thin(segment.text, piece.voiced_s(start, stop)):
        return []
    stretch = piece.between(start, stop)
    if not stretch.speech:
        return []
    spoken_s = letters(segment.text) / options.letters_per_s
    return stretch.halves(_sample_of_voiced(stretch, spoken_s))


def _sample_of_voiced(piece: Piece, spoken_s: float) -> int:
    """The sample of a piece at which `spoken_s` seconds of clear speech have passed."""
    left = _sample(spoken_s)
    for run in piece.voiced:
        if left <= run.length:
            return piece.chunk_sample(run.start + left)
        left -= run.length
    return len(piece.pcm) // 2


def _stop(piece: Piece, result: ChunkResult, index: int) -> int:
    """The sample at which a segment ends. One without an end ends with the speech."""
    end_s = result.segments[index].end_s
    return max(_speech_end(piece), 1) if end_s is None else _sample(end_s)


def _snapped(piece: Piece, start: int, earliest: int) -> int:
    """A sample in the pause just before `start`, if `start` lies shortly after a pause; else
    `start`."""
    regions = piece.speech_at()
    for (_, end), (begin, _) in zip(regions, regions[1:], strict=False):
        if end > earliest and begin < start <= begin + _SNAP_S * SAMPLE_RATE:
            return max((end + begin) // 2, begin - _AT_EDGE)
    return start


def _ended_by(piece: Piece, segment: Segment, tail: Piece) -> Segment:
    """The segment, with an end no later than the beginning of the tail after it."""
    latest_s = (len(piece.pcm) - len(tail.pcm)) / SAMPLE_RATE
    assert segment.end_s is not None, "it was cut off otherwise"
    return replace(segment, end_s=min(segment.end_s, latest_s))


def _speech_end(piece: Piece) -> int:
    return piece.chunk_sample(piece.speech[-1].end)


def _sample(time_s: float) -> int:
    return round(time_s * SAMPLE_RATE)

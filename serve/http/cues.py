"""Lays words out as subtitles that people can read.

By default as broadcasters do (BBC and Netflix timed text guidelines): at most two lines of 42
characters, for at most seven seconds. Wide characters, as of Chinese, count as two. Cues end at the
ends of sentences and at pauses where they can.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from deployments.messages import TranscriptSegment
from engine import Word
from serve.http.cue_limits import CueLimits

_ENDS_SENTENCE = tuple(".?!\u2026\u3002\uff1f\uff01\u0964")
_ENDS_CLAUSE = tuple(",;:\uff0c\u3001\uff1b\uff1a\u2014")
_PAUSE_S = 0.3
_ABBREVIATION = re.compile(r"\W*(?:[^\W\d_]|[b-df-hj-np-tv-xz]+)\.", re.IGNORECASE)
"""One letter, or Latin letters without a vowel, such as `Mr.`: no sentence ends there."""
_SHORTEST_S = 5 / 6
"""Netflix's least duration of a cue."""
_COST_OF_HASTE = 0.5
_COST_OF_BREAK = {"sentence": 0.0, "clause": 0.3, "word": 0.8}
"""What it costs to end a cue there, where another cue costs 1."""


@dataclass(frozen=True, slots=True)
class Cue:
    """Words that are shown together, by line. A segment without words is one line of its text."""

    start_s: float
    end_s: float
    lines: tuple[tuple[Word, ...], ...]


def lay_out(segment: TranscriptSegment, limits: CueLimits) -> list[Cue]:
    """The cues of a segment; none if it has no text."""
    if not segment.text.strip():
        return []
    if not segment.words:
        whole = Word(segment.start_s, segment.end_s, segment.text, 0.0)
        return [Cue(segment.start_s, segment.end_s, ((whole,),))]
    return [
        Cue(words[0].start_s, words[-1].end_s, _lines(words, limits) or (words,))
        for words in _parted(segment.words, limits)
    ]


def text_of(words: Sequence[Word]) -> str:
    """The text of a line, in which all blanks are single."""
    return " ".join("".join(word.text for word in words).split())


def width_of(text: str) -> int:
    """Columns of a text; wide characters take two."""
    return sum(
        0 if unicodedata.combining(letter) else 1 + (unicodedata.east_asian_width(letter) in "WF")
        for letter in text
    )


def _parted(words: tuple[Word, ...], limits: CueLimits) -> Iterator[tuple[Word, ...]]:
    """Words in groups that fit a cue each: the division that costs least."""
    costs, begins = [0.0], [0]
    for stop in range(1, len(words) + 1):
        best, begin = float("inf"), stop - 1
        for start in range(stop - 1, -1, -1):
            group = words[start:stop]
            is_word = stop - start == 1
            if not is_word and not _fits(group, limits):
                break
            cost = costs[start] + 1 + _break_cost(words, stop) + _emptiness(group, limits)
            cost += _COST_OF_HASTE * (group[-1].end_s - group[0].start_s < _SHORTEST_S)
            if cost < best:
                best, begin = cost, start
        costs.append(best)
        begins.append(begin)
    stop, groups = len(words), []
    while stop:
        groups.append(words[begins[stop] : stop])
        stop = begins[stop]
    yield from reversed(groups)


def _fits(words: tuple[Word, ...], limits: CueLimits) -> bool:
    if words[-1].end_s - words[0].start_s > limits.max_cue_s:
        return False
    return _lines(words, limits) is not None


def _break_cost(words: Sequence[Word], stop: int) -> float:
    """The cost of a break behind `stop` words."""
    text = words[stop - 1].text.rstrip()
    is_last = stop == len(words)
    is_end = text.endswith(_ENDS_SENTENCE) and not _ABBREVIATION.fullmatch(text)
    if is_last or is_end:
        return _COST_OF_BREAK["sentence"]
    is_pause = words[stop].start_s - words[stop - 1].end_s >= _PAUSE_S
    kind = "clause" if is_pause or text.endswith(_ENDS_CLAUSE) else "word"
    return _COST_OF_BREAK[kind]


def _emptiness(words: Sequence[Word], limits: CueLimits) -> float:
    """Cues of even lengths read better than a full one and a single word."""
    room = limits.max_line_width * limits.max_line_count
    return float((1 - min(1.0, width_of(text_of(words)) / room)) ** 2)


def _lines(words: tuple[Word, ...], limits: CueLimits) -> tuple[tuple[Word, ...], ...] | None:
    """Words as lines, as few as possible and as even as possible; None if they need too many."""
    most_words = limits.max_words_per_line or len(words)

    @cache
    def best(start: int, n_lines: int) -> tuple[float, tuple[int, ...]] | None:
        """The least sum of squared widths of words[start:] in so many lines, and where they end."""
        found: tuple[float, tuple[int, ...]] | None = None
        for stop in range(start + 1, min(len(words), start + most_words) + 1):
            width = width_of(text_of(words[start:stop]))
            if width > limits.max_line_width and stop > start + 1:
                break
            if n_lines == 1:
                rest: tuple[float, tuple[int, ...]] | None = (0.0, ())
                if stop < len(words):
                    continue
            else:
                rest = best(stop, n_lines - 1) if stop < len(words) else None
            if rest is not None and (found is None or rest[0] + width**2 < found[0]):
                found = (rest[0] + width**2, (stop, *rest[1]))
        return found

    for n_lines in range(1, limits.max_line_count + 1):
        if (lines := best(0, n_lines)) is not None:
            starts = (0, *lines[1][:-1])
            return tuple(words[a:b] for a, b in zip(starts, lines[1], strict=True))
    return None

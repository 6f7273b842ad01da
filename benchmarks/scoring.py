"""Scores of a transcript against a reference with true times: words, starts, lost and doubled text.

Pure: knows neither audio nor systems. `accuracy` feeds it; times are seconds on the file's clock.

Definitions
-----------
Words     What Whisper's own text normalizer leaves of a text: the English one (numbers, spelling,
          contractions) for "en", the basic one (case, punctuation) for every other language.
WER, CER  (substitutions + deletions + insertions) / reference words or characters.
Start     A true segment is measured where its first word is recognised and also opens a hypothesis
error     segment; elsewhere the system stated no time for it. The error is |difference of starts|.
Matched   Share of a true segment's words that the word alignment pairs with an equal word.
Lost      Under half of its words matched. A segment that was heard wrongly counts too.
Dropped   Lost, and at least half of its words have no hypothesis word against them at all: the
          text is missing, as happens at a bad cut, rather than misheard.
Doubled   An inserted run holds at least 3 consecutive words that the reference says right beside
          the insertion: the system said that stretch once more than the speaker did.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from statistics import median
from typing import NamedTuple

import jiwer

from training.word_errors import ErrorRate, error_rate, normalise, wer

__all__ = [
    "ErrorRate",
    "Presence",
    "StartError",
    "TimedText",
    "cer",
    "normalise",
    "presence",
    "start_error_s",
    "wer",
]

MIN_DOUBLED_WORDS = 3  # shorter repeats ("please please") are ordinary recognition errors
LOST_BELOW_SHARE = 0.5


class TimedText(NamedTuple):
    """A stretch of text; times in seconds from the start of the file."""

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True)
class StartError:
    """How far stated segment starts lie from the true ones, in seconds (None: none measured).

    `bias_s` is the median of the signed difference: negative means that the system is early.
    """

    median_s: float | None
    bias_s: float | None
    measured: int
    total: int

    @property
    def measured_share(self) -> float:
        return self.measured / max(1, self.total)


@dataclass(frozen=True)
class Presence:
    """Per true segment: the share of words matched and the number of words inserted at it.

    `lost`, `dropped` and `doubled` are indices of true segments; the module says what they mean.
    """

    matched_share: tuple[float, ...]
    inserted: tuple[int, ...]
    lost: tuple[int, ...]
    dropped: tuple[int, ...]
    doubled: tuple[int, ...]


@dataclass(frozen=True)
class _Insertion:
    """Hypothesis words [start, end) stand before reference word `position`."""

    position: int
    start: int
    end: int


@dataclass(frozen=True)
class _Alignment:
    """A word alignment of least edits: equal pairs, deleted reference words, inserted runs."""

    reference: list[str]
    hypothesis: list[str]
    equal: dict[int, int]
    deleted: frozenset[int]
    insertions: tuple[_Insertion, ...]


class _Words(NamedTuple):
    """The normalised words of some segments, and which segment each belongs to."""

    words: list[str]
    segment: list[int]

    def first_words(self) -> dict[int, int]:
        """Position of the word that opens a segment -> index of that segment."""
        return {
            i: owner
            for i, owner in enumerate(self.segment)
            if i == 0 or self.segment[i - 1] != owner
        }


def cer(reference: str, hypothesis: str, language: str) -> ErrorRate:
    """Character error rate (blanks count) after normalisation."""
    result = jiwer.process_characters(
        normalise(reference, language), normalise(hypothesis, language)
    )
    return error_rate(result)


def start_error_s(
    reference_segments: Sequence[TimedText],
    hypothesis_segments: Sequence[TimedText],
    language: str,
) -> StartError:
    """Error of segment starts, in seconds, over the true segments that can be measured."""
    reference = _words_of(reference_segments, language)
    hypothesis = _words_of(hypothesis_segments, language)
    equal = _align(reference.words, hypothesis.words).equal
    opens = hypothesis.first_words()
    differences = [
        hypothesis_segments[opens[equal[word]]].start_s - reference_segments[index].start_s
        for word, index in reference.first_words().items()
        if equal.get(word) in opens
    ]
    if not differences:
        return StartError(None, None, 0, len(reference_segments))
    return StartError(
        median_s=median(abs(d) for d in differences),
        bias_s=median(differences),
        measured=len(differences),
        total=len(reference_segments),
    )


def presence(
    reference_segments: Sequence[TimedText], hypothesis_text: str, language: str
) -> Presence:
    """Whether every true segment is in the hypothesis, and once only.

    Inserted words are counted at the segment that they follow, repeated ones at the segment that
    they repeat.
    """
    reference = _words_of(reference_segments, language)
    alignment = _align(reference.words, normalise(hypothesis_text, language).split())
    n_segments = len(reference_segments)
    totals = _count(reference.segment, n_segments)
    matched = _count([reference.segment[i] for i in alignment.equal], n_segments)
    deleted = _count([reference.segment[i] for i in alignment.deleted], n_segments)
    inserted, doubled = _insertions_by_segment(reference, alignment, n_segments)
    # A segment of symbols only has no words to lose.
    shares = tuple(m / n if n else 1.0 for m, n in zip(matched, totals, strict=True))
    lost = tuple(i for i, share in enumerate(shares) if share < LOST_BELOW_SHARE)
    return Presence(
        matched_share=shares,
        inserted=tuple(inserted),
        lost=lost,
        dropped=tuple(i for i in lost if 2 * deleted[i] >= totals[i]),
        doubled=tuple(sorted(doubled)),
    )


def _words_of(segments: Sequence[TimedText], language: str) -> _Words:
    words: list[str] = []
    owners: list[int] = []
    for index, segment in enumerate(segments):
        own = normalise(segment.text, language).split()
        words += own
        owners += [index] * len(own)
    return _Words(words, owners)


def _align(reference: list[str], hypothesis: list[str]) -> _Alignment:
    output = jiwer.process_words(" ".join(reference), " ".join(hypothesis))
    equal: dict[int, int] = {}
    deleted: set[int] = set()
    runs: list[_Insertion] = []
    for chunk in output.alignments[0]:
        reference_range = range(chunk.ref_start_idx, chunk.ref_end_idx)
        if chunk.type == "equal":
            hypothesis_range = range(chunk.hyp_start_idx, chunk.hyp_end_idx)
            equal.update(zip(reference_range, hypothesis_range, strict=True))
        elif chunk.type == "delete":
            deleted.update(reference_range)
        elif chunk.type == "insert":
            runs.append(_Insertion(chunk.ref_start_idx, chunk.hyp_start_idx, chunk.hyp_end_idx))
    return _Alignment(reference, hypothesis, equal, frozenset(deleted), tuple(runs))


def _count(owners: Sequence[int], n_segments: int) -> list[int]:
    counts = [0] * n_segments
    for owner in owners:
        counts[owner] += 1
    return counts


def _insertions_by_segment(
    reference: _Words, alignment: _Alignment, n_segments: int
) -> tuple[list[int], set[int]]:
    """Inserted words per segment, and the segments that an insertion repeats."""
    counts = [0] * n_segments
    doubled: set[int] = set()
    for run in alignment.insertions:
        if not reference.words:
            break
        run = _shifted_left(run, alignment)
        repeated = _repeated_words(run, alignment)
        if repeated:
            owners = [reference.segment[i] for i in repeated]
            owner = max(set(owners), key=owners.count)
            doubled.add(owner)
        else:
            owner = reference.segment[max(0, run.position - 1)]
        counts[owner] += run.end - run.start
    return counts, doubled


def _shifted_left(run: _Insertion, alignment: _Alignment) -> _Insertion:
    """The equivalent insertion that stands furthest left.

    For "a b c a b c" against "a b c" the runs "abc", "bca" and "cab" are all of least edits, and
    the aligner may return a rotated one. Shifting left turns it into the words as they were said.
    """
    position, start, end = run.position, run.start, run.end
    while (
        alignment.equal.get(position - 1) == start - 1
        and alignment.hypothesis[start - 1] == alignment.hypothesis[end - 1]
    ):
        position, start, end = position - 1, start - 1, end - 1
    return _Insertion(position, start, end)


def _repeated_words(run: _Insertion, alignment: _Alignment) -> range:
    """Reference words beside the insertion that it says again; empty where under the minimum."""
    inserted = alignment.hypothesis[run.start : run.end]
    # As far as the run could reach on either side, with room for a few misheard words.
    reach = len(inserted) + MIN_DOUBLED_WORDS
    first = max(0, run.position - reach)
    beside = alignment.reference[first : run.position + reach]
    block = SequenceMatcher(None, beside, inserted, autojunk=False).find_longest_match()
    if block.size < MIN_DOUBLED_WORDS:
        return range(0)
    return range(first + block.a, first + block.a + block.size)

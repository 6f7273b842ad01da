"""A chunk's audio, and where in the file it comes from: its clock, its speech, its parts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from deployments.transcript.loudness import raise_quiet
from deployments.transcript.vad import Region
from engine import SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class Piece:
    """A chunk's audio, and where in the file it comes from.

    Attributes:
        pcm: int16 mono, shape (n_samples,).
        spans: the regions of the file that make it up, in order, without overlap.
        speech: the regions of speech in it, in samples of the file.
        voiced: the runs of frames in these regions that are clearly speech, whatever threshold the
            caller set.
    """

    pcm: npt.NDArray[np.int16]
    spans: tuple[Region, ...]
    speech: tuple[Region, ...]
    voiced: tuple[Region, ...] = ()

    @property
    def duration_s(self) -> float:
        return len(self.pcm) / SAMPLE_RATE

    @property
    def span_s(self) -> tuple[float, float]:
        """Start and end on the file's clock, in seconds."""
        return self.spans[0].start / SAMPLE_RATE, self.spans[-1].end / SAMPLE_RATE

    def file_time_s(self, time_s: float, is_end: bool = False) -> float:
        """Convert a time of the chunk to the file's clock.

        Where two spans meet, a start belongs to the later span, and an end to the earlier one.
        Times beyond the chunk are clamped to it.
        """
        offset = round(time_s * SAMPLE_RATE)
        for span in self.spans:
            if offset < span.length or (is_end and offset == span.length):
                return (span.start + max(offset, 0)) / SAMPLE_RATE
            offset -= span.length
        return self.spans[-1].end / SAMPLE_RATE

    def chunk_sample(self, file_sample: int) -> int:
        """Convert a sample of the file to a sample of the chunk. If that sample was cut out, the
        next one that was kept counts."""
        passed = 0
        for span in self.spans:
            if file_sample < span.end:
                return passed + max(0, file_sample - span.start)
            passed += span.length
        return passed

    def speech_at(self) -> list[tuple[int, int]]:
        """The regions of speech, in samples of the piece."""
        return [(self.chunk_sample(r.start), self.chunk_sample(r.end)) for r in self.speech]

    def voiced_s(self, start: int, stop: int) -> float:
        """Seconds of clear speech between two samples of the piece."""
        runs = ((self.chunk_sample(r.start), self.chunk_sample(r.end)) for r in self.voiced)
        return sum(max(0, min(end, stop) - max(begin, start)) for begin, end in runs) / SAMPLE_RATE

    def raised(self) -> "Piece":
        """The piece with its quiet regions of speech raised so that the model hears them."""
        return replace(self, pcm=raise_quiet(self.pcm, self.speech_at()))

    def between(self, start: int, stop: int) -> "Piece":
        """The piece from its sample `start` to `stop`."""
        return self.head(stop).tail(start)

    def head(self, stop: int) -> "Piece":
        """The piece up to its sample `stop`."""
        spans, passed = [], 0
        for span in self.spans:
            taken = min(stop - passed, span.length)
            if taken > 0:
                spans.append(Region(span.start, span.start + taken))
            passed += span.length
        last = spans[-1].end
        speech, voiced = _before(self.speech, last), _before(self.voiced, last)
        return Piece(self.pcm[:stop], tuple(spans), speech, voiced)

    def tail(self, start: int) -> "Piece":
        """The rest of the piece from its sample `start` on."""
        spans, passed = [], 0
        for span in self.spans:
            skipped = min(max(start - passed, 0), span.length)
            if skipped < span.length:
                spans.append(Region(span.start + skipped, span.end))
            passed += span.length
        first = spans[0].start
        speech, voiced = _behind(self.speech, first), _behind(self.voiced, first)
        return Piece(self.pcm[start:], tuple(spans), speech, voiced)

    def halves(self, near: int | None = None) -> list["Piece"]:
        """The piece in two, cut in the pause that is nearest to its sample `near` (by default its
        middle), or at `near` if it has no pause. A half without speech is left out."""
        near = len(self.pcm) // 2 if near is None else near
        at = min(self._pauses(), key=lambda pause: abs(pause - near), default=near)
        return [half for half in (self.head(at), self.tail(at)) if half.speech]

    def _pauses(self) -> list[int]:
        """The middle of each pause, in samples of the piece."""
        at = self.speech_at()
        return [(a[1] + b[0]) // 2 for a, b in zip(at, at[1:], strict=False)]


def _before(regions: Sequence[Region], last: int) -> tuple[Region, ...]:
    return tuple(Region(r.start, min(r.end, last)) for r in regions if r.start < last)


def _behind(regions: Sequence[Region], first: int) -> tuple[Region, ...]:
    return tuple(Region(max(r.start, first), r.end) for r in regions if r.end > first)
